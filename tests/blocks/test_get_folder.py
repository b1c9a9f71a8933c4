"""``gateway get --recursive``: whole folders, and none of them beside its place."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import threading
from pathlib import Path
from urllib.parse import unquote

import pytest

from gateway_blocks.get.folder import FolderSummary, folder, folder_url
from gateway_blocks.get.model import Checked, Control, NotThere, Options, Stopped, Summary, Unreachable
from gateway_core.errors import GatewayError
from gateway_core.testing.upstream import Upstream
from gateway_core.testing.upstream_behaviour import Stall, Status
from tests.blocks.conftest import BLOCK, MakeServed, Served
from tests.blocks.get_command import GetCommand, ended
from tests.blocks.relay import relaying

RANDOM = random.Random(11)
TREE = {
    "a.txt": b"a" * 100,
    "empty": b"",
    "sub/deep/b b.bin": RANDOM.randbytes(3 * BLOCK + 7),
    "sub/ü#%?.txt": b"odd",
    "sub/c.iso": RANDOM.randbytes(150 * BLOCK),
    "x.part": b"not a part file",
    os.fsdecode(b"no\xff utf"): b"bytes",
}
SHOWN = {f"pub/{name}".replace("\udcff", "\ufffd") for name in TREE}
QUICK = Options(tries=2, retry_base_s=0.01, retry_cap_s=0.02, jobs=4)


class Watched:
    """What a watcher hears."""

    def __init__(self) -> None:
        self.plan: tuple[int, int] | None = None
        self.outcomes: dict[str, Summary | GatewayError] = {}

    def planned(self, files: int, size_bytes: int) -> None:
        self.plan = files, size_bytes

    def settled(self, name: str, size_bytes: int, outcome: Summary | GatewayError) -> None:
        self.outcomes[name] = outcome


@pytest.fixture
def get(tmp_path: Path) -> GetCommand:
    here = tmp_path / "here"
    here.mkdir()
    return GetCommand(here)


@pytest.fixture
async def hostile():
    """A server that lists whatever it is told to."""
    async with Upstream() as upstream:
        yield upstream


def plant(served: Served) -> str:
    for name, data in TREE.items():
        served.put(f"pub/{name}", data)
    return f"{served.url}/files/pub/"


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def lists(upstream: Upstream, *files: dict[str, object], **fields: object) -> str:
    """The folder ``/pub/`` with these files, each of them one byte if it is there at all."""
    upstream.add("/rd/pub/", json.dumps({"ok": True, "msg": "", "path": "pub", "files": files, **fields}).encode())
    return f"{upstream.base_url}/pub/"


def entry(url: str, size: int = 1) -> dict[str, object]:
    return {"path": url, "url": url, "size": size}


async def fetched(url: str, out: Path, options: Options = QUICK, **given) -> FolderSummary:
    control = Control(stop=given.pop("stop", threading.Event()))
    return await asyncio.to_thread(folder, url, out, options=options, control=control, **given)


# What arrives


async def test_every_file_arrives_under_its_name(served: Served, get: GetCommand):
    done = await get("-r", plant(served))
    assert done.code == 0, done.lines
    assert tree(get.here / "pub") == TREE
    size = sum(map(len, TREE.values()))
    assert re.fullmatch(rf"total: 7 files, {size / 2**20:.2f} MiB verified, fetched .*", done.lines[-1])
    assert {line.partition(":")[0] for line in done.lines[:-1]} == SHOWN - {"pub/empty"}


async def test_output_is_the_folder_itself_and_the_slash_may_be_left_out(served: Served, get: GetCommand):
    done = await get("--recursive", plant(served).rstrip("/"), "-o", "x/y")
    assert done.code == 0, done.lines
    assert tree(get.here / "x" / "y") == TREE


async def test_several_folders_get_a_folder_each(served: Served, get: GetCommand):
    served.put("one/a", b"1")
    served.put("two/a", b"2")
    done = await get("-r", f"{served.url}/files/one/", f"{served.url}/files/two/", "-o", "both")
    assert done.code == 0, done.lines
    assert tree(get.here) == {"both/one/a": b"1", "both/two/a": b"2"}


async def test_files_that_are_whole_are_not_fetched_again(served: Served, get: GetCommand):
    async with relaying(served.url) as relay:
        plant(served)
        url = f"{relay.url}/files/pub/"
        await get("-r", url)
        (get.here / "pub" / "a.txt").unlink()
        relay.exchanges.clear()
        done = await get("-r", url)
        assert done.code == 0
        assert [line.partition(":")[0] for line in done.lines] == ["pub/a.txt", "total"]
        bodies = {e.path: e.sent_bytes for e in relay.exchanges if not e.path.startswith("/rd/") and e.sent_bytes}
        assert bodies == {"/files/pub/a.txt": 100}
    assert tree(get.here / "pub") == TREE


async def test_what_was_killed_goes_on_where_it_was(served: Served, get: GetCommand):
    async with relaying(served.url) as relay:
        plant(served)
        url, large = f"{relay.url}/files/pub/", "/files/pub/sub/c.iso"
        async with get.running("-r", url, "--limit-rate", "4M") as process:
            async with asyncio.timeout(30):
                while relay.sent_bytes(large) < 80 * BLOCK:
                    await asyncio.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        relay.exchanges.clear()
        assert (await get("-r", url)).code == 0
        assert 0 < relay.sent_bytes(large) < 150 * BLOCK
    assert tree(get.here / "pub") == TREE


async def test_a_file_that_fails_stops_no_other(served: Served, get: GetCommand):
    async with relaying(served.url) as relay:
        plant(served)

        async def vanish(exchange) -> None:
            if exchange.path == "/rd/files/pub/a.txt":
                (served.root / "pub/a.txt").unlink(missing_ok=True)

        relay.before = vanish
        done = await get("-r", f"{relay.url}/files/pub/")
    assert done.code == 1
    assert tree(get.here / "pub") == {name: data for name, data in TREE.items() if name != "a.txt"}
    assert any(line.startswith("pub/a.txt: ") for line in done.lines)
    assert done.lines[-1].startswith("total: 6 of 7 files, ")
    assert done.lines[-1].endswith(", 1 failed")


async def test_verify_compares_a_whole_folder(served: Served, get: GetCommand):
    url = plant(served)
    await get("-r", url)
    assert (await get("-r", "--verify", url)).code == 0
    (get.here / "pub/sub/ü#%?.txt").write_bytes(b"ODD")
    done = await get("-r", "--verify", url)
    assert done.code == 4
    assert [line.partition(":")[0] for line in done.lines if "differs" in line] == ["pub/sub/ü#%?.txt"]


async def test_verify_makes_no_folders(served: Served, get: GetCommand):
    url = plant(served)
    (get.here / "x").mkdir()
    done = await get("-r", "--verify", url, "-o", "x")
    assert done.code == 4
    assert "x/sub/c.iso: not there" in done.lines
    assert list((get.here / "x").iterdir()) == []


async def test_folder_of_an_older_version_is_a_seed(served: Served, tmp_path: Path):
    url = plant(served)
    await fetched(url, tmp_path / "old")
    (tmp_path / "old" / "a.txt").unlink()
    done = await fetched(url, tmp_path / "new", Options(seeds=(tmp_path / "old",)))
    assert tree(tmp_path / "new") == TREE
    assert sum(file.fetched_bytes for file in done.files) == len(TREE["a.txt"])


async def test_mirror_is_a_folder_of_the_same_files(served: Served, hostile: Upstream, tmp_path: Path):
    name = "sub/c.iso"
    plant(served)
    hostile.add(f"/mirror/{name}", TREE[name])
    done = await fetched(f"{served.url}/files/pub/", tmp_path / "out", Options(mirrors=(f"{hostile.base_url}/mirror",)))
    assert not done.failures
    assert any(request.sent_bytes for request in hostile.seen(f"/mirror/{name}"))
    assert tree(tmp_path / "out") == TREE


async def test_secret_goes_with_every_request(make_served: MakeServed, get: GetCommand):
    async with make_served({"public": False}) as served:
        url = plant(served)
        refused = await get("-r", url)
        assert refused.code == 1
        assert len(refused.lines) == 2
        done = await get("-r", url, GATEWAY_SECRET=await served.gateway.secret("blocks:read"))
        assert done.code == 0, done.lines
    assert tree(get.here / "pub") == TREE


async def test_query_of_the_folder_is_that_of_its_files(hostile: Upstream, tmp_path: Path):
    url = lists(hostile, entry("a"))
    hostile.add("/pub/a?key=1", b"1")
    await fetched(f"{url}?key=1", tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": b"1"}
    assert {request.target for request in hostile.seen("/rd/pub/")} == {"/rd/pub/?key=1&files=1"}


async def test_watcher_hears_the_plan_and_every_outcome(hostile: Upstream, tmp_path: Path):
    url = lists(hostile, entry("a"), entry("none", 5))
    hostile.add("/pub/a", b"1")
    watched = Watched()
    done = await fetched(url, tmp_path / "out", watcher=watched)
    assert watched.plan == (2, 6)
    out = tmp_path / "out"
    assert watched.outcomes == {f"{out}/a": done.files[0], f"{out}/none": done.failures[0][1]}
    assert done.files[0].checked is Checked.NONE
    assert isinstance(done.failures[0][1], NotThere)


# What a hostile server lists

OUTSIDE = [
    "/etc/passwd",
    "../evil",
    "..",
    ".",
    "a/../../evil",
    "a/./b",
    "a//b",
    "a/",
    "",
    "%2e%2e/evil",
    "..%2fevil",
    "a%2fb",
    "%2fetc/passwd",
    "a%00b",
    "x" * 256,
    "http://h/a",
    "//h/a",
    "a?b",
    "a#b",
]


@pytest.mark.parametrize("form", ["url", "path"])
async def test_names_that_leave_the_folder_are_refused_and_the_rest_goes_on(
    hostile: Upstream, tmp_path: Path, form: str
):
    names = [name for name in OUTSIDE if form == "url" or not re.search("[%?#]", name)]
    url = lists(hostile, *({form: name, "size": 1} for name in names), {form: "good", "size": 1})
    hostile.add("/pub/good", b"1")
    done = await fetched(url, tmp_path / "out")
    assert tree(tmp_path) == {"out/good": b"1"}
    assert {name for name, _ in done.failures} == {unquote(name) for name in names}
    asked = {request.path for request in hostile.requests}
    assert asked == {"/rd/pub/", "/rd/pub/good", "/pub/good"}


async def test_link_that_leads_out_is_not_followed(hostile: Upstream, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "file").symlink_to(tmp_path / "elsewhere" / "file")
    url = lists(hostile, entry("link/a"), entry("file"))
    hostile.add("/pub/link/a", b"1")
    hostile.add("/pub/file", b"1")
    done = await fetched(url, tmp_path / "out")
    assert len(done.failures) == 2
    assert tree(tmp_path / "elsewhere") == {}


async def test_name_of_anothers_part_file_is_refused(hostile: Upstream, tmp_path: Path):
    url = lists(hostile, entry("a"), entry("a.part"), entry("a.part.journal"), entry("b.part"))
    for name in ("a", "a.part", "a.part.journal", "b.part"):
        hostile.add(f"/pub/{name}", b"1")
    done = await fetched(url, tmp_path / "out")
    assert sorted(name for name, _ in done.failures) == ["a.part", "a.part.journal"]
    assert tree(tmp_path / "out") == {"a": b"1", "b.part": b"1"}


async def test_file_where_a_folder_is_needed_is_a_failure_of_its_own(hostile: Upstream, tmp_path: Path):
    (tmp_path / "out" / "d").mkdir(parents=True)
    (tmp_path / "out" / "f").write_bytes(b"mine")
    url = lists(hostile, entry("d"), entry("f/a"), entry("good"))
    for name in ("d", "f/a", "good"):
        hostile.add(f"/pub/{name}", b"1")
    done = await fetched(url, tmp_path / "out")
    assert sorted(name for name, _ in done.failures) == ["d", "f/a"]
    assert tree(tmp_path / "out") == {"f": b"mine", "good": b"1"}


async def test_file_that_is_listed_twice_is_fetched_once(hostile: Upstream, tmp_path: Path):
    url = lists(hostile, *[entry("a")] * 20)
    hostile.add("/pub/a", b"1")
    done = await fetched(url, tmp_path / "out")
    assert len(done.files) == 1


async def test_part_of_a_list_is_a_failure(hostile: Upstream, get: GetCommand):
    url = lists(hostile, entry("a"), truncated=True)
    hostile.add("/pub/a", b"1")
    done = await get("-r", url)
    assert done.code == 1
    assert any("only the first 1 files" in line for line in done.lines)
    assert get.names() == ["pub/a"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"<html>", NotThere),
        (b"[" * 100_000, NotThere),
        (b'{"ok": true, "app": "reliable-download api"}', NotThere),
        (b'{"ok": false, "msg": "no such folder"}', NotThere),
        (b'{"ok": true, "files": [1]}', Unreachable),
        (b'{"ok": true, "files": [{"path": "a", "size": -1}]}', Unreachable),
        (b'{"ok": true, "files": [{"path": "\\ud800", "size": 1}]}', Unreachable),
        (b'{"ok": true, "files": [{"url": "\\ud800", "size": 1}]}', Unreachable),
    ],
)
async def test_answer_that_is_no_list_is_told(hostile: Upstream, tmp_path: Path, content: bytes, error):
    hostile.add("/rd/pub/", content)
    with pytest.raises(error):
        await fetched(f"{hostile.base_url}/pub/", tmp_path / "out")


async def test_server_without_lists_is_told(hostile: Upstream, get: GetCommand):
    done = await get("-r", f"{hostile.base_url}/pub/")
    assert done.code == 1
    assert "no list" in done.lines[0]


# What takes long


async def test_list_is_asked_for_again_while_the_server_is_busy(hostile: Upstream, tmp_path: Path):
    url = lists(hostile)
    resource = hostile.content("/rd/pub/")
    hostile.add("/rd/pub/", resource, Status(503, times=1))
    assert await fetched(url, tmp_path / "out") == FolderSummary((), ())
    assert len(hostile.seen("/rd/pub/")) == 2


async def test_server_that_is_gone_does_not_cost_every_file_its_tries(hostile: Upstream, tmp_path: Path):
    url = lists(hostile, *[entry(f"f{number}") for number in range(200)])
    for number in range(200):
        hostile.add(f"/rd/pub/f{number}", b"", Status(503))
    done = await fetched(url, tmp_path / "out")
    assert done.files == ()
    assert 20 <= len(done.failures) < 30
    assert len(done.failures) + done.untried == 200
    assert len([request for request in hostile.requests if request.path != "/rd/pub/"]) < 50


async def test_small_files_come_several_at_once_and_never_more_than_jobs(hostile: Upstream, tmp_path: Path):
    url = lists(hostile, *[entry(f"f{number}") for number in range(12)])
    for number in range(12):
        hostile.add(f"/pub/f{number}", b"1", Stall(method="GET"))
    work = asyncio.create_task(fetched(url, tmp_path / "out", Options(jobs=3)))
    await hostile.wait_for(lambda: hostile.active_requests == 3)
    for number in range(12):
        hostile.release(f"/pub/f{number}")
    assert len((await work).files) == 12
    assert hostile.peak_requests == 3


async def test_stop_ends_all_files(hostile: Upstream, tmp_path: Path):
    url = lists(hostile, *[entry(f"f{number}") for number in range(12)])
    for number in range(12):
        hostile.add(f"/pub/f{number}", b"1", Stall(method="GET"))
    stop = threading.Event()
    work = asyncio.create_task(fetched(url, tmp_path / "out", Options(jobs=3), stop=stop))
    await hostile.wait_for(lambda: hostile.active_requests == 3)
    stop.set()
    with pytest.raises(Stopped):
        await asyncio.wait_for(work, 10)
    assert {name.partition(".")[1] for name in tree(tmp_path / "out")} <= {"."}


async def test_signal_stops_a_folder(hostile: Upstream, get: GetCommand):
    url = lists(hostile, entry("a"), entry("b"))
    hostile.add("/pub/a", b"1")
    hostile.add("/pub/b", b"1", Stall(method="GET"))
    async with get.running("-r", "-j", "1", url) as process:
        await hostile.wait_for(
            lambda: any(r.path == "/pub/b" and r.method == "GET" for r in hostile.requests), timeout_s=30
        )
        process.send_signal(signal.SIGINT)
        done = await ended(process)
    assert done.code == 130
    assert done.lines[-1] == "pub: stopped with 1 of 2 files; the same command goes on from here"


def test_folder_url_has_one_slash_at_the_end_of_its_path():
    assert folder_url("http://h/a") == folder_url("http://h/a/") == "http://h/a/"
    assert folder_url("http://h/a?k=/v") == "http://h/a/?k=/v"
