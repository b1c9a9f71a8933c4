"""``pipe:<node>/<noun>`` as a source, over real links to a running gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from gateway_core import Client, SourceChanged, SourceFailed, SourceGone, SourceRefused, SourceRequest, SourceStalled
from gateway_core.testing import RunningGateway, SourceConformance, running_gateway
from gateway_pipe.handlers.load import Handlers
from gateway_pipe.handlers.runner import Runner
from gateway_pipe.link.model import Head, Incoming
from gateway_pipe.source import PipeSource
from tests.pipe.web_nodes import node

OWNER = Client("1" * 32, "owner", frozenset({"pipe:call:*"}))
STRANGER = Client("2" * 32, "stranger", frozenset({"pipe:call:other", "archive:ticket"}))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[RunningGateway]:
    folder, settings = tmp_path_factory.mktemp("source"), {"plugins": "pipe", "pipe": {"wait_for_node": 0.1}}
    async with running_gateway(folder, settings=settings, templates=gateway_templates) as running:
        yield running


class Files:
    """Files in memory, as a node has them: bytes at once, and the same piece by piece."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def get_file(self, ctx, post_data, name):
        if name not in self.held:
            return "text/plain", 255, "there is no such file"
        return "application/pdf", 0, self.held[name]

    async def get_stream(self, ctx, post_data, name):
        kind, code, data = self.get_file(ctx, post_data, name)
        if code:
            return kind, code, data
        return kind, code, self._pieces(data)

    async def _pieces(self, data):
        for start in range(0, len(data), 10_000):
            yield data[start : start + 10_000]

    def get_fail(self, ctx, post_data):
        raise LookupError("secret path")

    def get_seven(self, ctx, post_data):
        return "text/plain", 7, "seven"

    async def get_broken(self, ctx, post_data):
        yield b"x"
        raise LookupError

    async def get_slow(self, ctx, post_data):
        yield b"x"
        await asyncio.Event().wait()

    async def get_never(self, ctx, post_data):
        await asyncio.Event().wait()

    async def get_told(self, ctx, post_data, *args):
        return {"args": args, "query": ctx.query, "headers": dict(ctx.headers)}


class Bed:
    owner = OWNER
    stranger = STRANGER

    def __init__(self, gateway: RunningGateway, files: Files, noun: str) -> None:
        self.source = PipeSource(gateway.core)
        self._files = files.held
        self._noun = noun

    async def put(self, name: str, data: bytes) -> str:
        self._files[f"a folder/{name}"] = data
        return f"pipe:node1/{self._noun}//a%20folder%2F{name}"

    async def remove(self, name: str) -> None:
        del self._files[f"a folder/{name}"]

    async def read(self, url: str, **request) -> bytes:
        async with asyncio.timeout(20):
            async with self.source.open(SourceRequest(url, **{"client": OWNER, **request})) as stream:
                return b"".join([chunk async for chunk in stream])


@asynccontextmanager
async def bed_of(gateway: RunningGateway, noun: str = "file") -> AsyncIterator[Bed]:
    files = Files()
    runner = Runner(Handlers.of([files]))

    async def serve(incoming: Incoming) -> None:
        await runner.serve(incoming, peer="gateway")

    await runner.start()
    async with node(gateway, "node1", serve):
        yield Bed(gateway, files, noun)
    await runner.stop()


@pytest.mark.asyncio(loop_scope="module")
class TestPipeSource(SourceConformance):
    @pytest_asyncio.fixture(loop_scope="module", params=["file", "stream"])
    async def bed(self, gateway: RunningGateway, request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
        async with bed_of(gateway, request.param) as bed:
            yield bed


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def bed(gateway: RunningGateway) -> AsyncIterator[Bed]:
    async with bed_of(gateway) as bed:
        yield bed


async def test_size_and_type_are_those_of_the_handler(bed):
    request = SourceRequest(await bed.put("a", b"12345"), client=OWNER)
    info = await bed.source.probe(request)
    assert (info.size_bytes, info.media_type, info.validator) == (5, "application/pdf", None)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("nothing", SourceGone),
        ("file//nothing", SourceGone),
        ("fail", SourceFailed),
        ("seven", SourceFailed),
        ("told//%ff", SourceFailed),
        ("file", SourceFailed),
        ("broken", SourceFailed),
    ],
)
async def test_only_whole_answers_with_code_0_are_content(bed, target, error):
    with pytest.raises(error) as raised:
        await bed.read(f"pipe:node1/{target}")
    assert "secret" not in raised.value.detail


@pytest.mark.parametrize("target", ["slow", "never"])
async def test_a_node_that_sends_nothing_is_stalled(bed, target):
    with pytest.raises(SourceStalled):
        await bed.read(f"pipe:node1/{target}", stall_s=0.1)


async def test_a_node_that_never_was_there_is_gone(bed):
    with pytest.raises(SourceGone, match="no such node"):
        await bed.read("pipe:node9/file//a")


async def test_a_node_that_is_away_is_a_failure_that_may_pass(gateway):
    async with bed_of(gateway) as bed:
        url = await bed.put("a", b"alpha")
        assert await bed.read(url) == b"alpha"
    async with asyncio.timeout(10):
        while True:
            try:
                await bed.read(url)
            except SourceFailed as error:
                if "away" in error.detail:
                    break


async def test_arguments_query_and_headers_reach_the_handler_as_they_were(bed):
    headers = {"X-Mine": "1", "Connection": "X-Hop", "X-Hop": "2"}
    told = await bed.read("pipe:node1/told//a%2Fb/c?x=%26", headers=headers)
    assert told == b'{"args": ["a/b", "c"], "query": {"x": "&"}, "headers": {"X-Mine": "1"}}'


async def test_headers_that_no_link_takes_are_refused(bed):
    with pytest.raises(SourceRefused, match="headers"):
        await bed.read("pipe:node1/told", headers={"X-Large": "x" * 300_000})


@pytest.mark.parametrize(
    "url",
    [
        "pipe:node1",
        "pipe:node1/",
        "pipe:/time",
        "pipe://node1/time",
        "pipe:-x/time",
        "pipe:node1/a b",
        "pipe:node1/a#b",
    ],
)
async def test_other_forms_are_refused_before_anybody_is_asked(bed, url):
    with pytest.raises(SourceRefused, match="is named as"):
        await bed.source.check(url, OWNER)


async def test_no_version_can_be_asked_for(bed):
    url = await bed.put("a", b"alpha")
    with pytest.raises(SourceChanged):
        await bed.read(url, validator='"1"')


async def test_nodes_have_lanes_of_their_own(bed):
    assert bed.source.lane("pipe:node1/a") == bed.source.lane("pipe:node1/b//c") != bed.source.lane("pipe:node2/a")


async def test_a_node_that_sends_another_size_than_it_said_is_a_failure(gateway):
    async def lying(incoming: Incoming) -> None:
        size = incoming.opening.target.partition("//")[2]
        await incoming.answer(Head(headers=(("Content-Length", size),)), b"12345")

    source = PipeSource(gateway.core)

    async def read(size: int) -> None:
        async with source.open(SourceRequest(f"pipe:liar/x//{size}", client=OWNER)) as stream:
            async for _ in stream:
                pass

    async with node(gateway, "liar", lying):
        for size in (4, 6):
            with pytest.raises(SourceFailed, match="promised"):
                await read(size)


async def test_where_calls_need_no_client_neither_do_sources(tmp_path: Path, gateway_templates: Path):
    settings = {"plugins": "pipe", "pipe": {"call_auth": False}}
    async with (
        running_gateway(tmp_path, settings=settings, templates=gateway_templates) as gateway,
        bed_of(gateway) as bed,
    ):
        assert await bed.read(await bed.put("a", b"alpha"), client=Client.ANONYMOUS) == b"alpha"
