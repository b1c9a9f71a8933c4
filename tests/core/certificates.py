"""An authority of the tests, with what servers and clients need of it."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


class Certificates:
    """PEM files of an authority and of a listener on 127.0.0.1, and contexts of clients."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.authority, self.listener = folder / "authority.pem", folder / "listener.pem"
        self._authority.cert_pem.write_to_path(self.authority)
        self._authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(self.listener)

    def client(self, name: str | None) -> ssl.SSLContext:
        """Of a client that trusts the authority, with a certificate of that common name."""
        context = ssl.create_default_context()
        self._authority.configure_trust(context)
        if name is not None:
            self._authority.issue_cert("node.example", common_name=name).configure_cert(context)
        return context
