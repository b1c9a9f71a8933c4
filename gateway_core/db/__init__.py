"""Database: engine, migrations, and the helpers that every plugin shares."""
