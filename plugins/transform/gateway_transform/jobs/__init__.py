"""The truth about jobs: rows in the database, and nothing else."""
