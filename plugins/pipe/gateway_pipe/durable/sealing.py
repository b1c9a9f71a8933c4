"""Credentials in a call that waits: for the program on the node, and not for who reads the database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gateway_core.auth.keyring import Keyring
from gateway_pipe.link.model import Opening

_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "x-auth-token"})


def sealed(opening: Opening, keyring: Keyring) -> Opening:
    """``opening`` with the values of its credentials encrypted, which makes them longer."""
    return _with(opening, lambda value: keyring.encrypt(value.encode(errors="surrogateescape")).decode())


def unsealed(opening: Opening, keyring: Keyring) -> Opening:
    """What was sealed; raises StartupError when no key fits."""
    return _with(opening, lambda value: keyring.decrypt(value.encode()).decode(errors="surrogateescape"))


def _with(opening: Opening, change: Callable[[str], str]) -> Opening:
    pairs = ((name, change(value) if name.lower() in _CREDENTIALS else value) for name, value in opening.headers)
    return replace(opening, headers=tuple(pairs))
