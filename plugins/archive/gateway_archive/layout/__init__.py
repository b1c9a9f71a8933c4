"""Archives of known length: what every byte of them will be, before the first is read."""
