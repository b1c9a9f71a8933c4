"""What lasts: layouts, responses with their CRC-32s, losses, and what was learned of files."""
