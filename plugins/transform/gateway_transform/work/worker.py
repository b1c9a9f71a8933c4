"""The worker loop: claim jobs, run each in a box, keep their leases, publish what came out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from typing import Any

from gateway_core import Gateway, GatewayError, ObjectMissing
from gateway_core.errors import DatabaseError, ObjectCorrupt, StorageFull
from gateway_core.observe.events import JOB_STARTED
from gateway_core.observe.logs import get_logger
from gateway_transform.hooks.address import check_hook
from gateway_transform.hooks.log import record
from gateway_transform.hooks.sending import Outcome as DeliveryOutcome
from gateway_transform.hooks.sending import Verdict as DeliveryVerdict
from gateway_transform.jobs.cache import find_cached
from gateway_transform.jobs.claims import Claims
from gateway_transform.jobs.model import Claim, ErrorCode, Hook, JobError, Outcome
from gateway_transform.queue.base import JobQueue
from gateway_transform.settings import TransformSettings
from gateway_transform.work import metrics
from gateway_transform.work.attempt import Attempt, Go
from gateway_transform.work.believed import Unpacked
from gateway_transform.work.heartbeat import Heartbeat
from gateway_transform.work.pool import BoxPool, NoBox
from gateway_transform.work.publishing import Publisher

log = get_logger("gateway.transform")

POLL_S = 1.0
"""How long a waiting job can be missed when its wake-up was lost."""
_AFTER_FAILURE_S = 1.0


class Worker:
    """Runs up to ``slots`` jobs at once, from ``start`` until ``stop``."""

    def __init__(self, gateway: Gateway, claims: Claims, queue: JobQueue, *, pool: BoxPool, slots: int) -> None:
        self._gateway = gateway
        self._settings = gateway.section(TransformSettings)
        self._claims = claims
        self._queue = queue
        self._pool = pool
        self._slots = slots
        self._heartbeat = Heartbeat(gateway, claims)
        self._publisher = Publisher(gateway, claims)
        self._running: set[asyncio.Task[None]] = set()
        self._look_for_lost = 0.0
        self._freed = asyncio.Event()
        self._claiming = asyncio.Lock()
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    def start(self) -> None:
        """Begin to take jobs, in the running loop."""
        self._tasks = (
            asyncio.create_task(self._take_jobs(), name="transform jobs"),
            asyncio.create_task(self._heartbeat.run(), name="transform leases"),
        )

    async def stop(self, *, patience_s: float) -> None:
        """Take no more; what has not ended within ``patience_s``, or when the gateway is cut, is handed back."""
        if not self._tasks:
            return
        taking, keeping = self._tasks
        async with self._claiming:  # what is claimed must also be begun
            taking.cancel()
        await _end([taking])
        if self._running:
            log.info("jobs run to their end", jobs=len(self._running), for_s=round(patience_s, 1))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._all_ended_or_cut()
            await _end(self._running)
        await _end([keeping])

    async def _all_ended_or_cut(self) -> None:
        cut = asyncio.create_task(self._gateway.cut.wait())
        try:
            while self._running and not cut.done():
                await asyncio.wait({cut, *self._running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end([cut])

    async def _take_jobs(self) -> None:
        while not self._gateway.draining.is_set():
            try:
                if await self._fill_slots():
                    await self._queue.wait(POLL_S)
                    continue
            except DatabaseError as error:
                log.warning("no jobs can be claimed", error=str(error))
                await asyncio.sleep(_AFTER_FAILURE_S)
                continue
            except Exception:  # a supervisor is one of the borders where everything is caught
                log.exception("no jobs can be claimed")
                await asyncio.sleep(_AFTER_FAILURE_S)
                continue
            if len(self._running) >= self._slots:
                self._freed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._freed.wait()

    async def _fill_slots(self) -> bool:
        """Begin as many jobs as there are slots and jobs; whether slots are left."""
        async with self._claiming:
            free = self._slots - len(self._running)
            if not free:
                return False
            if time.monotonic() >= self._look_for_lost:
                self._look_for_lost = time.monotonic() + POLL_S
                await self._claims.requeue_lost()
            claims = await self._claims.claim(free)
            for claim in claims:
                self._begin(claim)
            return len(claims) < free

    def _begin(self, claim: Claim) -> None:
        task = asyncio.create_task(self._run(claim), name=f"job {claim.job_id}")
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a job broke its worker", exc_info=error)

    async def _run(self, claim: Claim) -> None:
        self._gateway.emit(JOB_STARTED, job=claim.job_id, attempt=claim.attempt)
        metrics.QUEUED_SECONDS.observe(claim.queued_ms / 1000)
        with metrics.RUNNING.track_inprogress():
            try:
                await self._see_through(claim)
            except (NoBox, StorageFull) as error:
                log.warning("a job has to wait", job=claim.job_id, error=str(error))
                await self._hand_back(claim)
            except GatewayError as error:
                log.warning("an attempt was lost; the job runs again", job=claim.job_id, error=str(error))
            except asyncio.CancelledError:
                await self._hand_back(claim)
                raise

    async def _see_through(self, claim: Claim) -> None:
        try:
            if claim.verdict is not None:
                await self._publisher.close(claim, claim.verdict)
            else:
                await self._attempt(claim)
        except ObjectMissing:
            await self._publisher.close(claim, JobError(ErrorCode.FAILED, "the upload is not there any more"))
        except ObjectCorrupt:
            await self._publisher.close(claim, JobError(ErrorCode.FAILED, "the stored upload is damaged"))
        except (NoBox, StorageFull):
            await asyncio.sleep(_AFTER_FAILURE_S)  # here, where a drain that comes meanwhile hands the job back
            raise

    async def _attempt(self, claim: Claim) -> None:
        hooks: list[Hook] = []

        async def advise(unpacked: Unpacked) -> Go:
            return await self._advise(claim, unpacked, hooks)

        attempt = Attempt(claim, self._pool, self._gateway.storage, settings=self._settings, advise=advise)
        with self._heartbeat.for_attempt(attempt):
            async with attempt.verdict() as verdict:
                unpacked = attempt.progress.unpacked
                outcome = Outcome(
                    verdict.state,
                    await self._publisher.store(claim, verdict.archive),
                    verdict.run_ms,
                    verdict.steps,
                    verdict.error,
                    hooks[-1] if hooks else None,
                    unpacked.cache_key if unpacked is not None else "",
                    verdict.log,
                )
            await self._publisher.publish(claim, outcome)
        if unpacked is not None and unpacked.preload:
            await self._pool.preload(unpacked.preload)

    async def _advise(self, claim: Claim, unpacked: Unpacked, hooks: list[Hook]) -> Go:
        """Check the hook, and look for a stored result of the same files and steps."""
        warnings: tuple[str, ...] = ()
        if unpacked.hook is not None:
            problem = check_hook(self._gateway, unpacked.hook.url)
            if problem is None:
                hooks.append(unpacked.hook)
                await self._claims.note_hook(claim, unpacked.hook)
            else:
                warnings = (problem,)
                refused = DeliveryVerdict(DeliveryOutcome.REFUSED, problem)
                await record(self._gateway.db, claim.job_id, 0, verdict=refused, took_ms=0)
        cached = None
        if self._settings.cache and unpacked.cache_key:
            cached = await find_cached(self._gateway.db, claim.client_id, unpacked.cache_key)
        return Go(warnings, cached)

    async def _hand_back(self, claim: Claim) -> None:
        with contextlib.suppress(DatabaseError):  # then its lease runs out
            await self._claims.hand_back(claim)
            self._queue.announce(claim.job_id)


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    if waiting:
        await asyncio.wait(waiting)
