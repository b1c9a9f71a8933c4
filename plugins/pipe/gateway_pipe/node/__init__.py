"""The node program: keeps one link to a gateway, for ever, and serves the programs beside it."""
