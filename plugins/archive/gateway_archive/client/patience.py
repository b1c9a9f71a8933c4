"""How often something that fails is tried again, and after how long."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, InvalidURL
from secrets import SystemRandom

from gateway_archive.client.model import Observer, Unreachable

TRIES = 10
_FIRST_S, _LONGEST_S, _LONGEST_TOLD_S = 0.25, 30.0, 600.0
_FOR_GOOD = (ssl.SSLCertVerificationError, InvalidURL)
_AT_ONCE = (*_FOR_GOOD, ConnectionRefusedError, socket.gaierror, ssl.SSLError)
"""What will not pass by itself; the others do where the server was reached before."""


class Again(Exception):
    """It may go well the next time, ``after_s`` from now where the server said so.

    ``in_turn`` says that the server has a queue, and it is only not the ticket's turn.
    """

    def __init__(self, reason: str, after_s: float | None = None, *, in_turn: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.after_s, self.in_turn = reason, after_s, in_turn


class Patience:
    """Tries without progress, ``tries`` in a row at most; each pause is longer than the one before."""

    def __init__(self, tries: int, observer: Observer, server: str) -> None:
        self._tries = tries
        self._observer = observer
        self._server = server
        self._failed = 0
        self._reached = False
        self._told = ""
        self._random = SystemRandom()

    def progressed(self) -> None:
        """It works: what failed before does not count any more."""
        self._failed, self._reached, self._told = 0, True, ""

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Within it, what the network does is raised as Again, or as Unreachable where that will not pass by itself."""
        try:
            yield
        except Again:
            self._reached = True
            raise
        except (OSError, HTTPException) as exc:
            words = f"{self._server}: {_words(exc)}"
            if isinstance(exc, _FOR_GOOD if self._reached else _AT_ONCE):
                raise Unreachable(words) from exc
            raise Again(words) from exc

    def wait(self, failure: Again) -> None:
        """Until the next try; raises Unreachable when there were enough. For a turn in a queue there is no limit."""
        if failure.in_turn:
            if failure.reason != self._told:
                self._observer.tell(failure.reason)
            self._told = failure.reason
            time.sleep(self._spread(failure.after_s or _FIRST_S))
            return
        self._failed += 1
        if self._failed > self._tries:
            raise Unreachable(f"{failure.reason}; given up") from failure
        pause_s = min(_LONGEST_S, _FIRST_S * 2.0 ** min(self._failed - 1, 10))
        if failure.after_s is not None:
            pause_s = min(_LONGEST_TOLD_S, max(failure.after_s, 0.0))
        self._observer.tell(f"{failure.reason}; trying again in {pause_s:.3g} s")
        time.sleep(self._spread(pause_s))

    def _spread(self, pause_s: float) -> float:
        """A little longer, so that many who were cut at once do not come back at once."""
        return pause_s * self._random.uniform(1.0, 1.25)


def _words(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
