"""A huge upload: what it takes of memory, and how long."""

from __future__ import annotations

import io
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from report import Summary
from transform_client import JOB, JobClient, write_archive
from transform_servers import GatewayJobs
from workload import Goal, Rounds, Workload

LIMIT_MB = 100
SIZE_BYTES = 1 << 30
LIMITS_MB = {"GATEWAY_TRANSFORM__MAX_UPLOAD_MB": "1100", "GATEWAY_TRANSFORM__MAX_UNPACKED_MB": "1100"}
RUN_S = 300
LOOK_S = 0.05


def run(home: Path, _sides: Sequence[str], _rounds: int) -> Rounds:
    """Once: a peak has no median. The upload, the job, and the way back of a result of the same size."""
    archive = home / "upload.tar.gz"
    with archive.open("wb") as out, Path("/dev/urandom").open("rb") as random:
        write_archive(out, {"job.json": (len(JOB), io.BytesIO(JOB)), "big.bin": (SIZE_BYTES, random)})
    server = GatewayJobs(**LIMITS_MB)
    try:
        with server.running(Path(tempfile.mkdtemp(prefix="gateway-", dir=home))), peaks(server) as seen:
            cpu_before = server.cpu_s()
            row = measure(server.client, archive)
            row["cpu_s"] = server.cpu_s() - cpu_before
    finally:
        archive.unlink()
    return {
        "gateway": [row | {"peak_mb": seen[0]}],
        "parent of the boxes": [{"peak_mb": seen[1]}],
        "largest in a box": [{"peak_mb": seen[2]}],
    }


def measure(client: JobClient, archive: Path) -> Summary:
    """Seconds of each part."""
    with archive.open("rb") as file:
        signature = client.signature(iter(lambda: file.read(1 << 20), b""))
    moments = [time.perf_counter()]
    print("  sending", file=sys.stderr)
    job_id = _send(client, archive, signature)
    moments.append(time.perf_counter())
    print("  waiting", file=sys.stderr)
    headers = {"Authorization": client.signature([job_id.encode()])}
    while _ask(client, "HEAD", f"/job/{job_id}", headers) == 202:
        if time.perf_counter() > moments[-1] + RUN_S:
            raise SystemExit(f"{job_id}: no result within {RUN_S} s")
        time.sleep(LOOK_S)
    moments.append(time.perf_counter())
    print("  receiving", file=sys.stderr)
    _receive(client, f"/job/{job_id}", headers)
    moments.append(time.perf_counter())
    parts = [after - before for before, after in pairwise(moments)]
    return dict(zip(("sent_s", "run_s", "received_s"), parts, strict=True))


def _send(client: JobClient, archive: Path, signature: str) -> str:
    connection = client.connection()
    with archive.open("rb") as file:
        headers = {"Authorization": signature, "Content-Length": str(archive.stat().st_size)}
        connection.request("POST", "/job/", file, headers)
        answer = connection.getresponse()
        job_id = answer.read().decode()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{answer.status} {job_id[:500]}")
    return job_id


def _ask(client: JobClient, method: str, path: str, headers: dict[str, str]) -> int:
    connection = client.connection()
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    if answer.status not in (200, 202):
        raise SystemExit(f"{path}: {answer.status}")
    return answer.status


def _receive(client: JobClient, path: str, headers: dict[str, str]) -> None:
    connection = client.connection()
    connection.request("GET", path, headers=headers)
    answer, buffer, size_bytes = connection.getresponse(), bytearray(1 << 20), 0
    while count := answer.readinto(buffer):
        size_bytes += count
    connection.close()
    if answer.status != 200 or size_bytes < SIZE_BYTES:
        raise SystemExit(f"{path}: {answer.status}, {size_bytes:,} bytes")


@contextmanager
def peaks(server: GatewayJobs) -> Iterator[list[float]]:
    """Peaks of memory in MB: of the server, of its child that makes the boxes, of the largest process in a box.

    Those in boxes live shortly, so somebody looks all the time.
    """
    seen, over = [0.0, 0.0, 0.0], threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            for generation, peak_bytes in server.process.peaks_bytes():
                kind = min(generation, 2)
                seen[kind] = max(seen[kind], peak_bytes / 1e6)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


WORKLOAD = Workload(
    name="upload",
    title="A job with an upload of 1 GiB that does nothing: memory, and seconds there, of the job, and back",
    sides=("gateway",),
    columns=(
        ("peak MB", "peak_mb", 1, 1),
        ("sent s", "sent_s", 1, 2),
        ("job s", "run_s", 1, 2),
        ("received s", "received_s", 1, 2),
        ("cpu s", "cpu_s", 1, 2),
    ),
    goals=(Goal("gateway", "peak_mb", at_most=LIMIT_MB),),
    run=run,
)
