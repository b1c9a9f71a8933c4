"""Several gateways as one: who holds which node stands in Redis, calls go over links between the gateways."""
