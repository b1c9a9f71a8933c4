"""The nodes that are connected: which link is a node's newest one, and calls over it."""
