"""Sockets, processes, signals: how a gateway is run."""
