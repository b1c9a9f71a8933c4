"""Files below the root: opened in confinement, told apart by their identity."""
