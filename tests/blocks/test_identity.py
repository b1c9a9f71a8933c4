"""Which version of a file something was said of."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace

import pytest

from gateway_blocks.files.identity import Identity
from tests.blocks.conftest import MakeServed
from tests.blocks.files import aged, sha1_blocks
from tests.blocks.marked import Marked
from tests.blocks.processes import all_known, asked

MIB = 1 << 20
NOW = 1_800_000_000_500_000_000
OLD = Identity(1, 2, 300, NOW - 10**10, NOW - 10**10)


def test_an_old_file_has_a_strong_tag_and_is_read_at_once():
    assert str(OLD.etag(now_ns=NOW)) == f'"12c-{OLD.mtime_ns:x}"'
    assert OLD.settles_in_s(NOW) == 0


@pytest.mark.parametrize("mtime_ns", [NOW, NOW - 1_999_999_999, NOW + 10**15])
def test_a_file_that_was_just_written_has_a_weak_tag_and_is_left_alone(mtime_ns):
    young = replace(OLD, mtime_ns=mtime_ns)
    assert young.etag(now_ns=NOW).weak
    assert 0 < young.settles_in_s(NOW) <= 2


def test_a_file_whose_other_times_just_changed_is_left_alone_for_the_kernels_tick():
    assert 0 < replace(OLD, ctime_ns=NOW - 1).settles_in_s(NOW) <= 0.02
    whole_second = NOW // 10**9 * 10**9
    assert replace(OLD, ctime_ns=whole_second).settles_in_s(NOW) == 1.5


@pytest.mark.parametrize("field", ["device", "inode", "size_bytes", "mtime_ns", "ctime_ns"])
def test_every_part_tells_versions_apart(field):
    other = replace(OLD, **{field: getattr(OLD, field) + 1})
    assert other != OLD
    assert str(other) != str(OLD)


def test_an_identity_is_that_of_the_open_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    aged(path)
    with path.open("rb") as file:
        before = Identity.of(os.fstat(file.fileno()))
        times = path.stat()
        time.sleep(0.03)  # the kernel's tick
        path.write_bytes(b"two")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert Identity.of(os.fstat(file.fileno())) != before


@pytest.mark.slow
async def test_what_is_read_while_one_long_write_goes_on_is_not_told_for_ever(make_served: MakeServed):
    """The kernel moves the time stamps when a write begins: what it puts in place later leaves no trace in them."""
    file = Marked(1024 * MIB, MIB)
    new = bytes([1]) * file.size_bytes
    last = {"Range": f"bytes={file.size_bytes - MIB}-"}
    async with make_served({"block_size": "1M"}) as served, served.gateway.session() as session:
        path = file.write(served.root / "a.bin")
        await all_known(session, "/files/a.bin")
        with path.open("r+b", buffering=0) as target:
            writing = asyncio.create_task(asyncio.to_thread(os.pwrite, target.fileno(), new, 0))
            while not writing.done():
                await asked(session, "/files/a.bin")
                async with session.get("/files/a.bin", headers=last) as answer:  # hashed before the writer is there
                    await answer.read()
            assert await writing == len(new)
        body = await all_known(session, "/files/a.bin")
    assert {block[3] for block in body["blocks"]} == set(sha1_blocks(new[:MIB], MIB))
