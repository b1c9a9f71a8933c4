"""HTTP to the letter: ranges, conditions, names, bodies, streams."""
