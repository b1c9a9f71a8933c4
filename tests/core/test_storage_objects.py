from __future__ import annotations

import asyncio
import importlib.util
import io
import re
import subprocess
import sys
from datetime import timedelta

import pytest
from aiohttp import ClientSession, web

from gateway_core.errors import ObjectCorrupt, ObjectMissing, StorageError, StorageFull
from gateway_core.storage.objects import PART_BYTES, ObjectStorage, open_s3
from gateway_core.testing.requirements import required
from gateway_core.testing.storage import MIB, StorageConformance, get, keys, noise, put

MISSING = [name for name in ("obstore", "moto", "flask") if importlib.util.find_spec(name) is None]
if MISSING and not required("s3"):
    pytest.skip(f"not installed: {', '.join(MISSING)}", allow_module_level=True)

BUCKET = "bucket"
SLOW_DOWN = "<Error><Code>SlowDown</Code></Error>"
FULL = "<Error><Code>XMinioStorageFull</Code></Error>"


@pytest.fixture(scope="module")
def moto():
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
        try:
            found = next(m for line in server.stderr if (m := re.search(r"Running on (http://[\d.:]+)", line)))
            # Whoever stops reading a pipe stops its writer: the log goes on for as long as the server does.
            with subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL):
                yield found[1]
                server.kill()
        finally:
            server.kill()


class Front:
    """An HTTP server before moto that plays ``faults``, one a request that ``on`` matches, and remembers requests."""

    def __init__(self, moto: str) -> None:
        self.moto = moto
        self.faults = []
        self.on = ""
        self.seen = []
        self.url = ""

    async def handle(self, request):
        line = f"{request.method} {request.rel_url}"
        self.seen.append((line, dict(request.headers)))
        fault = self.faults.pop(0) if self.faults and re.search(self.on, line) else None
        body = await request.read()
        if isinstance(fault, tuple):
            return web.Response(status=fault[0], text=fault[1])
        if fault == "reset":
            request.transport.abort()
            return web.Response()
        if fault == "stall":
            await asyncio.sleep(60)
        async with self.session.request(
            request.method, self.moto + str(request.rel_url), headers=request.headers, data=io.BytesIO(body)
        ) as answer:
            data = await answer.read()
            response = web.StreamResponse(status=answer.status, headers=answer.headers)
            await response.prepare(request)
            await response.write(data[: len(data) // 2] if fault == "cut" else data)
        if fault == "cut":
            request.transport.abort()
        return response

    async def __aenter__(self):
        app = web.Application(client_max_size=64 * MIB)
        app.router.add_route("*", "/{path:.*}", self.handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}".format(*self.runner.addresses[0])
        self.session = ClientSession(auto_decompress=False)
        return self

    async def __aexit__(self, *_):
        await self.session.close()
        await self.runner.cleanup()


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture
async def bucket(moto):
    """URL of an empty bucket."""
    async with ClientSession() as session:
        async with session.post(f"{moto}/moto-api/reset") as answer:
            assert answer.status == 200
        async with session.put(f"{moto}/{BUCKET}") as answer:
            assert answer.status == 200
    return f"{moto}/{BUCKET}"


@pytest.fixture
def storage(bucket, moto, tmp_path):
    return open_s3(f"s3://{BUCKET}/some/prefix?endpoint={moto}", tmp_path / "scratch")


@pytest.fixture
async def front(bucket, moto):
    async with Front(moto) as front:
        yield front


@pytest.fixture
def through(front, tmp_path):
    return open_s3(f"s3://{BUCKET}?endpoint={front.url}&region=eu-north-1", tmp_path / "scratch")


def impatient(front, tmp_path, read_timeout_s=10.0):
    from obstore.store import S3Store

    fast = {"init_backoff": timedelta(milliseconds=5), "max_backoff": timedelta(milliseconds=20)}
    store = S3Store(
        BUCKET,
        config={"endpoint": front.url},
        client_options={"allow_http": True, "read_timeout": timedelta(seconds=read_timeout_s)},
        retry_config={"max_retries": 2, "backoff": fast},
    )
    return ObjectStorage(store, tmp_path / "scratch")


@pytest.fixture
def raw(bucket, moto):
    """The bucket as others see it."""
    from obstore.store import S3Store

    return S3Store(BUCKET, config={"endpoint": moto}, client_options={"allow_http": True})


async def unfinished_uploads(bucket):
    async with ClientSession() as session, session.get(f"{bucket}?uploads") as answer:
        assert answer.status == 200
        return (await answer.read()).count(b"<UploadId>")


class TestObjectStorage(StorageConformance):
    @pytest.fixture
    def storage(self, bucket, moto, tmp_path):
        return open_s3(f"s3://{BUCKET}/some/prefix?endpoint={moto}", tmp_path / "scratch")


async def test_an_object_lies_under_its_key_with_its_digest(storage, raw):
    stored = await put(storage, "a/b", b"hello")
    found = await raw.get_async("some/prefix/a/b")
    assert found.attributes["sha256"] == stored.sha256
    assert bytes(await found.bytes_async()) == b"hello"


async def test_credentials_and_region_come_from_environment_and_url(front, through):
    await put(through, "a", b"")
    authorization = front.seen[-1][1]["Authorization"]
    assert re.search(r"Credential=AKIDEXAMPLE/\d{8}/eu-north-1/s3/", authorization)


async def test_a_small_object_is_one_request(front, through):
    await put(through, "a", noise(PART_BYTES))
    assert [line for line, _ in front.seen] == [f"PUT /{BUCKET}/a"]


@pytest.mark.parametrize("size_bytes", [1000, 3 * MIB])
async def test_damaged_bytes_are_told_after_the_last_chunk(storage, raw, size_bytes):
    data = noise(size_bytes)
    stored = await put(storage, "a", data)
    damaged = bytes([data[0] ^ 1]) + data[1:]
    await raw.put_async("some/prefix/a", damaged, attributes={"sha256": stored.sha256})
    got = []

    async def read():
        async with storage.open("a") as chunks:
            async for chunk in chunks:
                got.append(chunk)

    with pytest.raises(ObjectCorrupt, match=stored.sha256):
        await read()
    assert b"".join(got) == damaged
    assert await get(storage, "a", offset=1) == damaged[1:]


async def test_what_somebody_else_put_there_is_not_served_or_listed(storage, raw):
    for name in ("foreign", "no key"):
        await raw.put_async(f"some/prefix/{name}", b"x")
    for attempt in (storage.stat("foreign"), get(storage, "foreign")):
        with pytest.raises(ObjectCorrupt, match="not written by the gateway"):
            await attempt
    await put(storage, "ours", b"")
    assert await keys(storage) == ["ours"]
    assert await storage.delete("foreign")
    assert not await storage.delete("foreign")


async def test_a_writer_at_work_leaves_no_name_and_no_upload(bucket, storage, tmp_path):
    async with storage.writer("a") as writer:
        await writer.write(noise(20 * MIB))
        assert list((tmp_path / "scratch").iterdir()) == []
        assert await unfinished_uploads(bucket) == 0


@pytest.mark.parametrize("parts_sent", [0, 1, 3])
async def test_a_commit_cancelled_between_parts_leaves_no_upload(bucket, front, through, parts_sent):
    async with through.writer("a") as writer:
        for seed in range(6):
            await writer.write(noise(PART_BYTES, seed=seed))
        commit = asyncio.create_task(writer.commit())
        while sum("partNumber=" in line for line, _ in front.seen) < parts_sent or not front.seen:
            await asyncio.wait([commit], timeout=0.001)
        assert commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
    assert await unfinished_uploads(bucket) == 0
    assert await keys(through) in ([], ["a"])


async def test_an_upload_that_fails_for_good_leaves_nothing(bucket, front, tmp_path):
    storage = impatient(front, tmp_path)
    front.on, front.faults = r"partNumber=2&", [(503, SLOW_DOWN)] * 3
    with pytest.raises(StorageError):
        await put(storage, "a", noise(3 * PART_BYTES))
    assert await unfinished_uploads(bucket) == 0
    assert await keys(storage) == []


@pytest.mark.parametrize("fault", [(503, SLOW_DOWN), "reset"], ids=["slow down", "reset"])
async def test_what_fails_for_a_while_is_tried_again(front, through, fault):
    data = noise(PART_BYTES + 1)
    for method in ("POST .*uploads", "PUT", "GET", "HEAD", "DELETE"):
        front.on, front.faults = f"^{method}", [fault, fault]
        await put(through, "a", data)
        assert await get(through, "a") == data
        assert await keys(through) == ["a"]
        assert await through.delete("a")
        assert front.faults == []


@pytest.mark.parametrize("offset", [0, 1000])
async def test_a_download_cut_in_the_middle_goes_on_where_it_was(front, through, offset):
    data = noise(3 * MIB)
    await put(through, "a", data)
    front.on, front.faults = "^GET", ["cut", "cut"]
    assert await get(through, "a", offset=offset) == data[offset:]
    ranges = [headers.get("Range") for line, headers in front.seen if line.startswith("GET")]
    assert len(ranges) == 3
    assert len(set(ranges)) == 3


@pytest.mark.parametrize("fault", [(503, SLOW_DOWN), "reset", "stall"], ids=["slow down", "reset", "stall"])
async def test_what_fails_for_good_is_told(front, tmp_path, fault):
    storage = impatient(front, tmp_path, read_timeout_s=0.3 if fault == "stall" else 10.0)
    for attempt in (put(storage, "a", b""), get(storage, "a"), storage.stat("a"), storage.delete("a"), keys(storage)):
        front.on, front.faults = "", [fault] * 3
        with pytest.raises(StorageError) as caught:
            await attempt
        assert type(caught.value) is StorageError
        assert front.url not in str(caught.value)


async def test_a_full_object_store_is_told(front, tmp_path):
    storage = impatient(front, tmp_path)
    front.faults = [(507, FULL)] * 3
    with pytest.raises(StorageFull):
        await put(storage, "a", b"x")


async def test_a_missing_bucket_is_no_missing_object_for_writers(moto, bucket, tmp_path):
    storage = open_s3(f"s3://other?endpoint={moto}", tmp_path)
    for attempt in (put(storage, "a", b""), put(storage, "a", noise(PART_BYTES + 1)), storage.check()):
        with pytest.raises(StorageError, match="no such bucket") as caught:
            await attempt
        assert not isinstance(caught.value, ObjectMissing)


async def test_wrong_credentials_are_told(front, through):
    front.faults = [(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>")]
    with pytest.raises(StorageError, match="PermissionDenied"):
        await through.check()


async def test_sweep_removes_checks_that_were_killed(storage):
    await put(storage, ".check/0123", b"0123")
    assert await storage.sweep(3600) == 0
    assert await storage.sweep(-5) == 1
    assert await keys(storage) == []
