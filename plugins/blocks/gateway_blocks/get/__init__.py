"""Downloads that end bit-exact: ``gateway get`` and the Python API behind it."""
