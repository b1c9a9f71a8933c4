"""The HTTP side of the server: the port that nodes connect to, and the calls to them."""
