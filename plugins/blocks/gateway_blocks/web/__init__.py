"""What the blocks plugin answers over HTTP."""
