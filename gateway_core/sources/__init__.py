"""URL schemes that yield bytes, and the guard on the way out."""
