"""The blocks plugin: a file server with checksums by block, and the client that makes downloads bit-exact with them."""
