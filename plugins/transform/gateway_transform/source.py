"""``job:<id>/<path>``: a file of a job's result as a source, for whoever the job belongs to."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from gateway_core import (
    Client,
    Gateway,
    NotFound,
    ObjectMissing,
    SourceChanged,
    SourceFailed,
    SourceGone,
    SourceInfo,
    SourceRefused,
    SourceRequest,
    SourceStalled,
    SourceStream,
    StorageError,
)
from gateway_core.errors import DatabaseError
from gateway_core.settled import settled
from gateway_transform.box import names
from gateway_transform.box.untar import Caps, Member, Refused, members
from gateway_transform.jobs.model import Job, JobState
from gateway_transform.jobs.store import JobStore
from gateway_transform.settings import TransformSettings

T = TypeVar("T")
SCHEME = "job"
SCOPE = "transform:run"
_URL = re.compile(
    r"job:([0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/((?:[!$&-;=@-Z_a-z~]|%[0-9a-f]{2})+)",
    re.ASCII | re.IGNORECASE,
)
_READERS = 4
_STALL_S = 60.0
_LONGEST_S = 3600.0


class JobSource:
    """Files of results by path: ``job:<id>/folder/page.pdf``, percent-encoded as in a URL.

    The client needs the scope ``transform:run`` and must own the job; where jobs need no client neither do their files.
    A result is read from its start up to the file, and to its end before the last byte counts, so that damage is told:
    more than ``SourceRequest.length`` comes.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        # Threads of our own: they wait for the storage, which reads in the common ones.
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix="job-source")

    async def check(self, url: str, client: Client) -> None:
        """See Source: form, scope and owner are looked at, not whether the job has ended."""
        job_id, _ = self._permitted(url, client)
        try:
            await self._job(job_id, client)
        except SourceGone as exc:
            raise SourceRefused(exc.detail) from exc

    async def probe(self, request: SourceRequest) -> SourceInfo:
        """See Source."""
        async with self._found(request) as (_, _, info):
            return info

    def open(self, request: SourceRequest) -> AbstractAsyncContextManager[SourceStream]:
        """See Source."""
        return self._opened(request)

    def lane(self, url: str) -> str:
        """One for all: they are in the gateway's storage."""
        del url
        return f"{SCHEME}:"

    @asynccontextmanager
    async def _opened(self, request: SourceRequest) -> AsyncIterator[SourceStream]:
        async with self._found(request) as (archive, member, info):
            if request.offset > member.size:
                raise SourceChanged(f"the file ends before byte {request.offset}")
            yield _MemberStream(archive, info, _rest(archive.members, member, request.offset))

    @asynccontextmanager
    async def _found(self, request: SourceRequest) -> AsyncIterator[tuple[_Archive, Member, SourceInfo]]:
        """The result, read up to the file's first byte."""
        job_id, path = self._permitted(request.url, request.client)
        job = await self._job(job_id, request.client)
        if not job.state.final or job.state is JobState.EXPIRED or not job.result.key:
            raise SourceGone(f"the job is {job.state}")
        validator = f'"{hashlib.sha256(f"{job.result.sha256}/{path}".encode()).hexdigest()}"'
        if request.validator is not None and request.validator != validator:
            raise SourceChanged("the result is another one now")
        stall_s = _STALL_S if request.stall_s is None else request.stall_s
        async with AsyncExitStack() as stack:
            with _as_source_errors():
                chunks = await stack.enter_async_context(self._gateway.storage.open(job.result.key))
            archive = _Archive(_Pulled(chunks, stall_s), self._caps(), self._threads)
            member = await archive.next(lambda: _named(archive.members, path))
            if member is None:
                raise SourceGone("no such file in the result")
            yield archive, member, _info(job, member, validator)

    def _permitted(self, url: str, client: Client) -> tuple[str, str]:
        """Id and path that ``url`` names; raises SourceRefused."""
        if self._owned and not client.allows(SCOPE):
            raise SourceRefused(f"the client lacks scope {SCOPE}")
        match = _URL.fullmatch(url)
        try:
            path = names.checked(unquote_to_bytes(match[2])) if match else ""
        except Refused as exc:
            raise SourceRefused("not the path of a file in a result") from exc
        if not match or not path or path.encode() != unquote_to_bytes(match[2]):
            raise SourceRefused("a file of a result is named as job:<id>/path")
        return match[1].replace("-", "").lower(), path

    async def _job(self, job_id: str, client: Client) -> Job:
        """Raises SourceGone, also for somebody else's."""
        owner = client if self._owned else Client.ANONYMOUS
        store = JobStore(self._gateway.db, self._settings)
        try:
            return await store.find(job_id, owner.id)
        except NotFound as exc:
            raise SourceGone("no such job, or not any more") from exc
        except DatabaseError as exc:
            raise SourceFailed("the database cannot answer now") from exc

    @property
    def _settings(self) -> TransformSettings:
        return self._gateway.section(TransformSettings)

    @property
    def _owned(self) -> bool:
        return self._settings.use_auth

    def _caps(self) -> Caps:
        most = self._settings
        return Caps.of_result(most.disk_mb << 21, most.max_files * 20, time.monotonic() + _LONGEST_S)


class _Pulled:
    """Bytes of an asynchronous iterator for threads, which wait for the event loop."""

    def __init__(self, chunks: AsyncIterator[bytes], stall_s: float) -> None:
        self._chunks = chunks
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._rest = memoryview(b"")
        self._task: asyncio.Task[bytes] | None = None
        self._left = False

    def read(self, size: int, /) -> bytes:
        """See Readable; raises StorageError, and TimeoutError when nothing comes. Not for the loop's own thread."""
        if not self._rest:
            self._rest = memoryview(asyncio.run_coroutine_threadsafe(self._next(), self._loop).result())
        piece, self._rest = self._rest[:size], self._rest[size:]
        return bytes(piece)

    def leave(self) -> None:
        """Let a thread that waits, or will, come back with an error."""
        self._left = True
        if self._task is not None:
            self._task.cancel()

    async def _next(self) -> bytes:
        if self._left:
            raise asyncio.CancelledError
        self._task = asyncio.current_task()
        try:
            async with asyncio.timeout(self._stall_s):
                return await anext(self._chunks, b"")
        finally:
            self._task = None


class _Archive:
    """A result that is read in threads, by one of them at a time."""

    def __init__(self, pulled: _Pulled, caps: Caps, threads: ThreadPoolExecutor) -> None:
        self.members = members(pulled, caps)
        self._pulled = pulled
        self._threads = threads

    async def next(self, step: Callable[[], T]) -> T:
        """Do ``step`` in a thread. When this is cancelled the thread has ended before it comes back.

        Raises SourceGone, SourceFailed, SourceStalled.
        """
        work = asyncio.get_running_loop().run_in_executor(self._threads, step)
        with _as_source_errors():
            return await settled(work, hurry=self._pulled.leave)


class _MemberStream:
    """A file of a result from an offset on."""

    def __init__(self, archive: _Archive, info: SourceInfo, pieces: Iterator[bytes]) -> None:
        self.info = info
        self._archive = archive
        self._pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self._archive.next(lambda: next(self._pieces, b"")):
            yield piece


def _named(found: Iterator[Member], path: str) -> Member | None:
    """The file of that path; None where there is none, or a folder."""
    return next((member for member in found if member.path == path and not member.is_dir), None)


def _rest(found: Iterator[Member], member: Member, offset: int) -> Iterator[bytes]:
    """Bytes of ``member`` from ``offset`` on; the rest of the archive is read before the end, and so checked."""
    for chunk in member.chunks:
        if offset < len(chunk):
            yield chunk[offset:]
        offset = max(0, offset - len(chunk))
    for _ in found:
        pass


def _info(job: Job, member: Member, validator: str) -> SourceInfo:
    return SourceInfo(
        size_bytes=member.size,
        validator=validator,
        strong=True,
        modified=job.ended,
        media_type=mimetypes.guess_type(member.path)[0],
        name=member.path.rpartition("/")[2],
        ranges=True,
    )


@contextmanager
def _as_source_errors() -> Iterator[None]:
    """What storage and archive raise, in the words of sources."""
    try:
        yield
    except ObjectMissing as exc:
        raise SourceGone("the result is not kept any more") from exc
    except StorageError as exc:
        raise SourceFailed("the result cannot be read") from exc
    except Refused as exc:
        raise SourceFailed("the result is damaged") from exc
    except TimeoutError as exc:
        raise SourceStalled("the storage sends nothing") from exc
