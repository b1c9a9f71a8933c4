"""Tickets with every layout, downloads of them that are cut again and again, and what these must give and cost.

::

    async with staged(folder, random.Random(1), own_folder=[True], frugal=True) as stage:
        order = await stage.order("mixed", 5 * MIB)
        ran = await stage.download(resume_clients.curl, order, "zip", cuts=[How.RST, How.KILL], one_by_one=True)
        ran.check_costs()
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import signal
import socket
import tarfile
import zipfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from gateway_core.testing import Upstream
from gateway_core.testing.requirements import require_program
from gateway_core.testing.upstream_answer import Generated
from tests.archive.resume_proxy import Cuts, How, Node, Passed, Proxy, sent_bytes
from tests.blocks.programs import run
from tests.core.raw_servers import listening

MIB = 1 << 20
LAYOUTS = ("known", "sized", "probed", "mixed", "large", "learned")
FORMATS = ("zip", "tar")
ENV = {
    "GATEWAY_EGRESS_ALLOW": "127.0.0.0/8",
    "GATEWAY_PLUGINS": "archive",
    "GATEWAY_SECRET_KEY": "one key for all nodes",
}
FRUGAL = {"GATEWAY_ARCHIVE__AHEAD_BYTES": str(MIB), "GATEWAY_ARCHIVE__AHEAD_ITEMS": "1"}
SLACK_BYTES = MIB
_BUFFER_BYTES = 64 << 10

Client = Callable[[str, Path], Awaitable[None]]
"""Downloads a URL to a file, however often it must begin again; raises AssertionError where it gives up."""


# Orders


@dataclass(frozen=True)
class Order:
    """A ticket: ``size_bytes`` of all its files, and where the upstream has each entry, "" for a folder."""

    layout: str
    ticket: str
    size_bytes: int
    truth: Mapping[str, str]


@dataclass
class _Draft:
    """Items in the making; ``tell`` gives of a file's size and CRC-32 what the ticket is to say."""

    upstream: Upstream
    prefix: str
    items: list[dict[str, Any]] = field(default_factory=list)
    truth: dict[str, str] = field(default_factory=dict)
    size_bytes: int = 0

    def file(self, size_bytes: int, *told: str) -> None:
        number = len(self.items)
        path, folder, name = f"{self.prefix}/{number}", f"folder {number % 3}", f"{number}.bin"
        content = Generated(size_bytes, seed=path)
        facts = {"size": lambda: size_bytes, "crc32": lambda: zlib.crc32(content[:])}
        url = self.upstream.add(path, content)
        self.items.append({"url": url, "name": name, "path": folder, **{key: facts[key]() for key in told}})
        self.truth[f"{folder}/{name}"] = path
        self.size_bytes += size_bytes

    def folder(self) -> None:
        name = f"empty {len(self.items)}/"
        self.items.append({"path": name})
        self.truth[name] = ""


TOLD = {"known": ("size", "crc32"), "sized": ("size",), "probed": (), "learned": ()}


def _drafted(upstream: Upstream, rng: random.Random, layout: str, size_bytes: int) -> _Draft:
    """New files of about ``size_bytes`` in all."""
    draft = _Draft(upstream, f"/{layout}-{rng.randbytes(6).hex()}")
    if layout == "large":
        draft.file(1000)
        draft.file(size_bytes)
        draft.file(77)
    elif layout == "mixed":
        for _ in range(3):
            draft.file(rng.randrange(size_bytes // 4), *TOLD[rng.choice(["known", "sized", "probed"])])
            for _ in range(30):
                size = rng.choice([0, 1, int(rng.expovariate(1 / 30_000)), rng.randrange(size_bytes // 50)])
                draft.file(min(size, MIB), *TOLD[rng.choice(["known", "sized", "probed"])])
            draft.folder()
    else:
        while draft.size_bytes < size_bytes:
            draft.file(rng.randrange(min(MIB, size_bytes // 4)), *TOLD[layout])
    return draft


# A download and what it must have been


@dataclass(frozen=True)
class Run:
    """A download that ended: what passed, how it was cut, what the upstream sent for all of it."""

    order: Order
    format_name: str
    file: Path
    whole_sha256: str
    passed: Sequence[Passed]
    upstream_bytes: int
    faults: Sequence[str]
    one_by_one: bool

    def check(self, upstream: Upstream) -> None:
        """Bytes, versions and statuses."""
        assert not self.faults, self
        answers = [passed for passed in self.passed if passed.status]
        assert {passed.status for passed in answers} <= {200, 206, 416}, self
        assert {passed.status for passed in answers if "range" in passed.headers} <= {206, 416}, self
        assert len({passed.answer["etag"] for passed in answers if passed.status != 416}) == 1, self
        assert hashlib.sha256(self.file.read_bytes()).hexdigest() == self.whole_sha256, self
        assert self._entries() == {name: _digest(upstream, path) for name, path in self.order.truth.items()}, self

    @property
    def cuts(self) -> int:
        """How often it was cut."""
        return sum(passed.cut is not None for passed in self.passed)

    def check_costs(self) -> None:
        """A resumed part costs only that part; of requests side by side only the sum is known.

        They may jump ahead, so that bytes are read once more for their CRC-32, and each cut wastes what was on its way.
        """
        if self.one_by_one:
            assert all(cost <= allowed for _, cost, allowed in self.costs()), self
        else:
            assert self.upstream_bytes <= 2 * self.order.size_bytes + (self.cuts + 1) * SLACK_BYTES, self

    def costs(self) -> list[tuple[Passed, int, int]]:
        """Of every resumed request, what the upstream sent for it and what it may have; for ``one_by_one``.

        What a killed server had read and nobody else can know, since its journal is in its own data folder, may be read
        again.
        """
        ends = [passed.upstream_before for passed in self.passed[1:]]
        ends.append(self.passed[0].upstream_before + self.upstream_bytes)
        found, unknown = [], 0
        for number, (passed, end) in enumerate(zip(self.passed, ends, strict=True)):
            cost = end - passed.upstream_before
            if number and self.passed[number - 1].cut is How.KILL:
                before = self.passed[number - 1]
                if before.node.data_dir != passed.node.data_dir:
                    unknown += passed.upstream_before - before.upstream_before
            if passed.status == 206:
                found.append((passed, cost, passed.promised + unknown + SLACK_BYTES))
        return found

    def _entries(self) -> dict[str, str]:
        found = {}
        if self.format_name == "zip":
            with zipfile.ZipFile(self.file) as archive:
                for info in archive.infolist():
                    found[info.filename] = "" if info.is_dir() else hashlib.sha256(archive.read(info)).hexdigest()
            return found
        with tarfile.open(self.file) as archive:
            for member in archive:
                if member.isdir():
                    found[f"{member.name}/"] = ""
                else:
                    data = archive.extractfile(member)
                    assert data is not None
                    found[member.name] = hashlib.sha256(data.read()).hexdigest()
        return found

    def __str__(self) -> str:
        lines = [f"{self.order.layout} {self.format_name} {self.order.size_bytes} bytes, cut {self.cuts} times"]
        lines.append(f"{self.upstream_bytes} bytes from the upstream")
        lines += map(str, self.passed)
        if self.one_by_one:
            lines += [f"cost {cost} of {allowed}: {passed}" for passed, cost, allowed in self.costs()]
        return "\n".join([*lines, *self.faults])


def _digest(upstream: Upstream, path: str) -> str:
    return hashlib.sha256(upstream.content(path)).hexdigest() if path else ""


TESTERS = {"zip": ("unzip", "-tqq"), "tar": ("tar", "-tf")}


@dataclass
class Stage:
    """Nodes on one database, the proxy before them, and an upstream."""

    folder: Path
    rng: random.Random
    upstream: Upstream
    nodes: Sequence[Node]
    proxy: Proxy
    http: ClientSession
    secret: str
    downloads: int = 0

    async def order(self, layout: str, size_bytes: int) -> Order:
        """A new ticket of about so many bytes; what is to be learned of a learned one is."""
        draft = _drafted(self.upstream, self.rng, layout, size_bytes)
        if layout == "learned":
            await self._whole(await self._ticket(draft.items), self.rng.choice(FORMATS))
        return Order(layout, await self._ticket(draft.items), draft.size_bytes, draft.truth)

    async def download(
        self,
        client: Client,
        order: Order,
        format_name: str,
        *,
        cuts: Sequence[How],
        one_by_one: bool,
        switching: float = 0.0,
    ) -> Run:
        """Download with ``client`` and check the file; ``switching`` is the chance that another node answers."""
        proxy = self.proxy
        self.downloads += 1
        folder = self.folder / f"download-{self.downloads}"
        folder.mkdir()
        file = folder / f"archive.{format_name}"
        await self.upstream.wait_idle()
        before = sent_bytes(self.upstream)
        proxy.passed, proxy.faults, proxy.switching, proxy.one_by_one = [], [], switching, one_by_one
        mean_bytes = max(1, order.size_bytes * 4 // (5 * (len(cuts) + 1)))
        proxy.cuts = Cuts(self.rng, list(cuts), mean_bytes)
        proxy.target = f"/ticket/{order.ticket}/download?format={format_name}"
        await client(f"http://127.0.0.1:{proxy.port}{proxy.target}", file)
        await self.upstream.wait_idle()
        upstream_bytes = sent_bytes(self.upstream) - before
        self.upstream.requests.clear()
        whole = await self._whole(order.ticket, format_name)
        ran = Run(order, format_name, file, whole, proxy.passed, upstream_bytes, proxy.faults, one_by_one)
        ran.check(self.upstream)
        await self._test(ran)
        file.unlink()
        return ran

    async def _test(self, ran: Run) -> None:
        program, option = TESTERS[ran.format_name]
        tested = await run(require_program(program), option, ran.file.name, cwd=ran.file.parent)
        assert tested.code == 0, f"{tested.out}\n{ran}"

    async def _ticket(self, items: Sequence[Mapping[str, Any]]) -> str:
        url, headers = await self._url("/ticket/generate"), {"Authorization": self.secret}
        async with self.http.post(url, json={"items": items}, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return str((await answer.json())["id"])

    async def _whole(self, ticket: str, format_name: str) -> str:
        """SHA-256 of a download that nobody cuts."""
        found = hashlib.sha256()
        url = await self._url(f"/ticket/{ticket}/download?format={format_name}")
        async with self.http.get(url) as answer:
            assert answer.status == 200, await answer.text()
            async for chunk in answer.content.iter_any():
                found.update(chunk)
        return found.hexdigest()

    async def _url(self, path: str) -> str:
        node = self.rng.choice([node for node in self.nodes if node.running] or self.nodes)
        return (await node.up()).url + path


class _Narrow(Upstream):
    """Of what it counts as sent little is on its way."""

    def connection_opened(self, *opened: Any) -> None:
        """A connection with a small buffer."""
        sock: socket.socket = opened[2].get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        super().connection_opened(*opened)


@asynccontextmanager
async def staged(folder: Path, rng: random.Random, *, own_folder: Sequence[bool], frugal: bool) -> AsyncIterator[Stage]:
    """A node, and others on its database: those of ``own_folder`` with a data folder of their own, or with its.

    ``frugal`` ones fetch hardly ahead, so that a cut wastes little.
    """
    env = {**ENV, **(FRUGAL if frugal else {})}
    data_dir = folder / "data"
    nodes = [Node(data_dir, env)]
    for number, own in enumerate(own_folder):
        there = {**env, "GATEWAY_DB_URL": f"sqlite:///{data_dir}/gateway.db"}
        nodes.append(Node(folder / f"data-{number}", there) if own else Node(data_dir, env))
    async with AsyncExitStack() as stack:
        for node in nodes:
            stack.push_async_callback(node.kill, signal.SIGTERM)
        upstream = await stack.enter_async_context(_Narrow())
        http = await stack.enter_async_context(ClientSession())
        first = await nodes[0].up()
        secret, _ = await asyncio.gather(first.secret(), asyncio.gather(*(node.up() for node in nodes[1:])))
        proxy = Proxy(nodes, upstream, rng)
        proxy.port = await stack.enter_async_context(listening(proxy.serve))
        yield Stage(folder, rng, upstream, nodes, proxy, http, secret)
        assert [line for node in nodes for line in node.complaints()] == []
