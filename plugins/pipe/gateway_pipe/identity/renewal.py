"""What a node signs when it asks for a new certificate with a key that is no longer certified."""

from __future__ import annotations


def renewal_statement(csr: str) -> bytes:
    """The bytes that the old key signs: the request, behind words that nothing else begins with."""
    return b"content-gateway pipe renewal v1\n" + csr.encode()
