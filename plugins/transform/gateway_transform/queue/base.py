"""What a queue of jobs is: wake-ups for workers, which carry nothing and may be lost or doubled."""

from __future__ import annotations

from typing import Protocol


class JobQueue(Protocol):
    """One for a process. The rows are the truth: whoever is woken claims from them, also when nobody woke it."""

    def announce(self, job_id: str, /) -> None:
        """A job waits: wake a worker that has time for it, in this process or elsewhere. Never blocks, never fails.

        After the commit that made it wait, in the running loop.
        """

    async def wait(self, timeout_s: float) -> bool:
        """Wait until a job may be there; False when nothing was announced in ``timeout_s``.

        For one task, which has nothing to do. The first call returns at once: look again, and listen from then on.
        """

    async def start(self) -> None:
        """Begin, in the running loop; waits for nobody who may be away."""

    async def stop(self) -> None:
        """Let go of everything, in a few seconds at most; ``announce`` then wakes through the database alone."""
