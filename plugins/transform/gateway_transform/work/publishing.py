"""What came of a job: into the storage, then into its row, once."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from gateway_core import Gateway, StorageError
from gateway_core.errors import DatabaseError
from gateway_core.observe.events import JOB_ENDED
from gateway_core.observe.logs import get_logger
from gateway_transform.hooks.message import WAKEUP
from gateway_transform.jobs.claims import Claims
from gateway_transform.jobs.model import Claim, JobError, JobState, Outcome, Upload
from gateway_transform.jobs.objects import result_key
from gateway_transform.jobs.topics import job_topic
from gateway_transform.settings import TransformSettings
from gateway_transform.work import metrics
from gateway_transform.work.salvage import small_archive, state_for

log = get_logger("gateway.transform")

_AGAIN_S = 1.0
_READ_BYTES = 256 << 10
_AT_ONCE_BYTES = 64 << 10


class Publisher:
    """Publishes under a claim: whoever has lost it throws the result away.

    Every method raises StorageError, and DatabaseError once the lease could not be held any longer.
    """

    def __init__(self, gateway: Gateway, claims: Claims) -> None:
        self._gateway = gateway
        self._claims = claims
        self._patience_s = gateway.section(TransformSettings).lease_s

    async def store(self, claim: Claim, archive: Path) -> Upload:
        """Put the archive into the storage, under a name of this attempt alone."""
        key = result_key(claim.job_id, claim.token)
        async with self._gateway.storage.writer(key) as writer:
            with archive.open("rb") as file:
                left = os.fstat(file.fileno()).st_size  # what a box adds from now on is not read
                first = file.read(min(left, _AT_ONCE_BYTES))  # just written: in memory, and most often all there is
                await writer.write(first)
                left -= len(first)
                while left > 0 and (chunk := await asyncio.to_thread(file.read, min(left, _READ_BYTES))):
                    await writer.write(chunk)
                    left -= len(chunk)
            stored = await writer.commit()
        return Upload(key, stored.sha256, stored.size_bytes)

    async def close(self, claim: Claim, error: JobError) -> None:
        """End a job without a run: cancelled while it waited, or lost too often."""
        archive = await asyncio.to_thread(small_archive, claim, error, self._gateway.scratch_dir)
        try:
            stored = await self.store(claim, archive)
        finally:
            archive.unlink(missing_ok=True)
        await self.publish(claim, Outcome(state_for(error), stored, 0, error=error, log=claim.log))

    async def publish(self, claim: Claim, outcome: Outcome) -> None:
        """Make the result visible, or throw it away when another attempt has the job now."""
        if not await self._published(claim, outcome):
            metrics.LEASES_LOST.inc()
            log.warning("a result came too late and was thrown away", job=claim.job_id, attempt=claim.attempt)
            await self._delete(outcome.result.key)
            return
        self._gateway.wakeups.publish(job_topic(claim.job_id), through_database=False)
        if outcome.hook is not None:
            self._gateway.wakeups.publish(WAKEUP)
        code = "" if outcome.error is None else str(outcome.error.code)
        log.info(
            "job ended",
            job=claim.job_id,
            state=str(outcome.state),
            code=code,
            attempt=claim.attempt,
            queued_ms=claim.queued_ms,
            run_ms=outcome.run_ms,
        )
        metrics.JOBS.labels(str(outcome.state), code).inc()
        metrics.RUN_SECONDS.observe(outcome.run_ms / 1000)
        self._gateway.emit(JOB_ENDED, job=claim.job_id, state=str(outcome.state), code=code, run_ms=outcome.run_ms)
        if outcome.state is not JobState.FAILED:  # a failed job may be tried again
            await self._delete(claim.upload.key)

    async def _delete(self, key: str) -> None:
        try:
            await self._gateway.storage.delete(key)
        except StorageError as error:
            log.warning("an object of a job is left to the sweep", key=key, error=str(error))

    async def _published(self, claim: Claim, outcome: Outcome) -> bool:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return await self._claims.publish(claim, outcome)
            except DatabaseError as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("a result cannot be published yet", job=claim.job_id, error=str(error))
                await asyncio.sleep(_AGAIN_S)
