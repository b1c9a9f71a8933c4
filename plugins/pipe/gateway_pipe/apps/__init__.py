"""Web applications that a node publishes: how HTTP and WebSockets go over a link, and the node's end of it."""
