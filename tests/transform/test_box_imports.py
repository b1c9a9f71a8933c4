from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.transform.box_stand import archive

ONE_JOB = """
import os, socket, sys
from gateway_transform.box import init, syscalls, wire
from gateway_transform.box.context import Context, Entry

def look(working_dir, logger, options):
    logger.info({"message": "new", "modules": sorted(set(sys.modules) - known)})
    if options:
        raise ValueError("told with its traceback")

base = sys.argv[2]
for name in ("work", "tmp"):
    os.mkdir(f"{base}/{name}")
known = set(sys.modules)
ours, theirs = socket.socketpair()
if os.fork() == 0:
    ours.close()
    syscalls.adopt_orphans()
    init.main(theirs, Context({"look": Entry("look", look, {})}, f"{base}/work", f"{base}/tmp"))
theirs.close()
wire.receive(ours)
import pathlib
upload = pathlib.Path(base, "upload")
upload.write_bytes(bytes.fromhex(sys.argv[1]))
flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
limits = dict(seconds=20, memory_mb=512, disk_mb=64, processes=5000, max_unpacked_mb=64, max_files=100, upload_bytes=0)
job = {"type": "job", "id": "0" * 32, "attempt": 1, "queued_ms": 0, "created": 0, "ask": False, "limits": limits}
wire.send(ours, job, [os.open(upload, os.O_RDONLY), os.open(f"{base}/result", flags), os.open(f"{base}/log", flags)])
while wire.receive(ours)[0]["type"] != "done":
    pass
print(open(f"{base}/log").read())
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> list[dict]:
    """out.log of one job in a process that has loaded nothing but the box."""
    upload = archive({"a": b"a"}, ["look", {"name": "look", "options": {"x": 1}}])
    command = [sys.executable, "-c", ONE_JOB, upload.hex(), tmp_path_factory.mktemp("box")]
    ran = subprocess.run(command, capture_output=True, check=True, timeout=60, text=True)
    return [json.loads(line) for line in ran.stdout.splitlines() if line]


def test_job_needs_no_module_that_was_not_loaded_before_the_box(log):
    assert [line["modules"] for line in log if line["message"] == "new"] == [[], []]


def test_job_that_need_not_ask_goes_on_by_itself(log):
    assert log[-1]["message"] == "look: ValueError: told with its traceback"
