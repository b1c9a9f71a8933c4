"""What is told to and by the server besides the file: checksums as they become known, blocks that came damaged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from gateway_blocks.get.connection import HttpClient
from gateway_blocks.get.model import GetError, Stopped
from gateway_blocks.get.remote import RemoteMap, VersionChanged, report_bad
from gateway_blocks.get.session import Halt, Session

_POLL_S = 20.0


class NewVersion(VersionChanged):
    """The server tells of another version of the file; ``map`` is its block map."""

    def __init__(self, block_map: RemoteMap) -> None:
        super().__init__("the file changed on the server")
        self.map = block_map


def learn_more(
    session: Session, client: HttpClient, block_map: RemoteMap, *, stop: threading.Event | None = None
) -> None:
    """Wait until the server tells more checksums, for 20 seconds at most; raises NewVersion and as polling does."""
    known, began = block_map.known, time.monotonic()
    now = session.insist(lambda: block_map.poll(client, _POLL_S), stop)
    if now is not block_map:
        raise NewVersion(now)
    if block_map.known > known:
        session.tries.progress()
    elif time.monotonic() - began > _POLL_S / 2:
        session.remark(f"the server has told {known} of {block_map.count} checksums and is silent since")


class Follower(threading.Thread):
    """Follows the map until it is complete; ``learned`` is called whenever there may be more, ``failed`` once."""

    def __init__(
        self,
        session: Session,
        block_map: RemoteMap,
        *,
        learned: Callable[[], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        super().__init__(name="follow", daemon=True)
        self.halt = Halt(session.stop)
        self._session, self._map = session, block_map
        self._learned, self._failed = learned, failed

    def run(self) -> None:
        """Poll."""
        try:
            with self._session.client(self.halt) as client:
                while not self._map.complete:
                    learn_more(self._session, client, self._map, stop=self.halt)
                    self._learned()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for all
            self._failed(error)


class Reporter(threading.Thread):
    """Tells the server of damaged blocks, each once, and ``changed`` what it says if it was to blame."""

    def __init__(self, session: Session, url: str, changed: Callable[[VersionChanged], object]) -> None:
        super().__init__(name="report", daemon=True)
        self.halt = Halt(session.stop)
        self._session, self._url, self._changed = session, url, changed
        self._told: set[int] = set()
        self._blocks: SimpleQueue[int | None] = SimpleQueue()

    def report(self, index: int) -> None:
        """Have it told, soon."""
        if index not in self._told:
            self._told.add(index)
            self._blocks.put(index)

    def end(self) -> None:
        """Nothing more is to be told."""
        self.halt.set()
        self._blocks.put(None)

    def run(self) -> None:
        """Tell."""
        with self._session.client(self.halt) as client:
            while (index := self._blocks.get()) is not None and not self.halt.is_set():
                try:
                    verdict = report_bad(self._url, client, index)
                except Stopped:
                    return
                except GetError as error:
                    self._session.remark(f"block {index} could not be reported: {error}")
                    continue
                if verdict == "changed":
                    self._changed(VersionChanged(f"the server finds that block {index} changed"))
                elif verdict == "same":
                    self._session.remark(f"the server finds block {index} as it should be: the line damages it")
