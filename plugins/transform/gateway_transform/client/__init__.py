"""The other side: pack files, have a gateway transform them, take back what came of it. Blocks; no server settings."""
