"""Checksums: made by block in threads, kept in the database, told as they become known."""
