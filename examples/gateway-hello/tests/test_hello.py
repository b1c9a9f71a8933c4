"""The hello plugin, in a gateway that runs."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from typing import Any

import pytest
from aiohttp import ClientSession

from gateway_core import SourceChanged, SourceRefused, SourceRequest
from gateway_core.testing import RunningGateway
from gateway_core.testing.plugin import MakeGateway, Run


async def test_client_is_greeted(gateway: RunningGateway, client: ClientSession) -> None:
    ada, secret = await gateway.add_client("hello:greet")
    async with client.get("/hello/Grace%20Hopper", headers={"Authorization": secret}) as answer:
        assert await answer.json() == {"greeting": "Hello, Grace Hopper!", "asked_by": ada.name}


async def test_stranger_is_not(client: ClientSession) -> None:
    async with client.get("/hello/Ada") as answer:
        assert answer.status == 401


async def test_name_of_two_lines_is_refused(gateway: RunningGateway, client: ClientSession) -> None:
    headers = {"Authorization": await gateway.secret()}
    async with client.get("/hello/Ada%0AGrace", headers=headers) as answer:
        assert answer.status == 422
        assert (await answer.json())["errors"] == {"path": {"name": ["1 to 100 printable characters."]}}


async def test_greeting_can_be_set(make_gateway: MakeGateway) -> None:
    async with make_gateway({"hello": {"greeting": "Moin"}}) as gateway, gateway.session() as client:
        headers = {"Authorization": await gateway.secret("hello:*")}
        async with client.get("/hello/Ada", headers=headers) as answer:
            assert (await answer.json())["greeting"] == "Moin, Ada!"


async def test_greeting_can_be_put_into_an_archive(gateway: RunningGateway, client: ClientSession) -> None:
    headers = {"Authorization": await gateway.secret()}
    order = {"items": [{"url": "hello:Ada", "name": "card.txt"}]}
    async with client.post("/ticket/generate", json=order, headers=headers) as answer:
        ticket: dict[str, Any] = await answer.json()
    async with client.get(f"/ticket/{ticket['id']}/download") as answer:
        with zipfile.ZipFile(io.BytesIO(await answer.read())) as archive:
            assert archive.read("card.txt") == b"Hello, Ada!\n"


def job(**options: str) -> bytes:
    """A tar.gz with nothing but its job.json."""
    steps = json.dumps({"transformations": [{"name": "hello_card", "options": options}]}).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("job.json")
        member.size = len(steps)
        archive.addfile(member, io.BytesIO(steps))
    return packed.getvalue()


async def test_job_writes_a_card(gateway: RunningGateway, client: ClientSession) -> None:
    headers = {"Authorization": await gateway.secret()}
    async with client.post("/job/?block=1", data=job(name="Ada"), headers=headers) as answer:
        result = io.BytesIO(await answer.read())
    with tarfile.open(fileobj=result) as archive:
        card = archive.extractfile("hello.txt")
        assert card is not None
        assert card.read() == b"Hello, Ada!\n"


async def test_job_with_a_name_of_two_lines_fails(gateway: RunningGateway, client: ClientSession) -> None:
    headers = {"Authorization": await gateway.secret()}
    async with client.post("/job/", data=job(name="Ada\nGrace"), headers=headers) as answer:
        job_id = await answer.text()
    async with client.get(f"/job/{job_id}/status?wait=30", headers=headers) as answer:
        error = (await answer.json())["error"]
    assert error == {"code": "bad_options", "message": "name: a text of one line", "step": "hello_card"}


async def test_rest_of_a_greeting_is_of_the_same_version(gateway: RunningGateway) -> None:
    sources = gateway.core.sources
    info = await sources.probe(SourceRequest("hello:Ada"))
    async with sources.open(SourceRequest("hello:Ada", offset=7, validator=info.validator)) as stream:
        assert [chunk async for chunk in stream] == [b"Ada!\n"]
    with pytest.raises(SourceChanged):
        async with sources.open(SourceRequest("hello:Grace", offset=7, validator=info.validator)):
            pass


async def test_no_name_is_no_source(gateway: RunningGateway) -> None:
    with pytest.raises(SourceRefused):
        await gateway.core.sources.probe(SourceRequest("hello:"))


async def test_blank_greeting_degrades_the_gateway(make_gateway: MakeGateway) -> None:
    async with make_gateway({"hello": {"greeting": " "}}) as gateway, gateway.session() as client:
        async with client.get("/readyz") as answer:
            assert (await answer.json())["degraded"] == ["hello.greeting"]


async def test_command_greets(run_gateway: Run) -> None:
    done = await run_gateway("hello", "Ada", env={"GATEWAY_HELLO__GREETING": "Moin"})
    assert (done.code, done.out) == (0, "Moin, Ada!\n")
