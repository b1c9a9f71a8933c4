"""What runs inside a sandbox, and what makes one. Standard library only: it is loaded where nothing else is."""
