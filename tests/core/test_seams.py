"""Each seam that plugins build on, gone through by a plugin of the tests in a running gateway."""

from __future__ import annotations

import asyncio
import hmac
import io
import zipfile
from pathlib import Path

import aiohttp
import pytest
from sqlalchemy import func, insert, select
from yarl import URL

from gateway_core import Client, Gateway, Role, StateKey
from gateway_core.app.compose import compose
from gateway_core.db.tables import idempotency
from gateway_core.plugins import load_plugins
from gateway_core.settings import Inputs
from gateway_core.testing import RunningGateway, SourceConformance
from gateway_core.testing.plugin import MakeGateway
from tests.core import seam_extra_plugin, seam_plugin
from tests.core.certificates import Certificates
from tests.core.seam_install import plugin_of

SEAM = {"seam": seam_plugin}
WITH_ARCHIVE = {"plugins": "seam,archive"}
ALONE = {"plugins": "seam"}


@pytest.fixture
def gateway_config() -> dict[str, object]:
    return ALONE


@pytest.fixture
def gateway_plugins() -> dict[str, object]:
    return SEAM


async def signed(gateway: RunningGateway, data: bytes, *scopes: str) -> dict[str, str]:
    client, secret = await gateway.add_client(*scopes)
    return {"Seam-Mac": f"{client.name} {hmac.digest(secret.encode(), data, 'sha256').hex()}"}


async def stored(gateway: RunningGateway) -> list[str]:
    return [found.key async for found in gateway.core.storage.list()]


# A body that is proven at its end


@pytest.mark.parametrize("size", [0, 5, 300_000])
async def test_signed_body_is_stored(gateway: RunningGateway, client: aiohttp.ClientSession, size: int):
    data = b"x" * size
    async with client.put("/seam/store/a", data=data, headers=await signed(gateway, data)) as answer:
        assert (answer.status, await answer.json()) == (200, {"size": size})
    assert await stored(gateway) == ["seam/a"]


@pytest.mark.parametrize("sent", [b"", b"small", b"x" * 300_000])
async def test_body_with_a_wrong_mac_is_refused_and_leaves_nothing(
    gateway: RunningGateway, client: aiohttp.ClientSession, sent: bytes
):
    async with client.put("/seam/store/a", data=sent, headers=await signed(gateway, b"another")) as answer:
        assert answer.status == 401
    assert await stored(gateway) == []


@pytest.mark.parametrize("handler", ["ignore", "hasty", "forgiving"])
@pytest.mark.parametrize("sent", [b"", b"small", b"x" * 300_000])
async def test_handler_cannot_answer_before_the_body_was_proven(
    gateway: RunningGateway, client: aiohttp.ClientSession, handler: str, sent: bytes
):
    wrong = await signed(gateway, b"another")
    try:
        async with client.post(f"/seam/{handler}/a", data=sent, headers=wrong) as answer:
            got = answer.status, await answer.read()
    except aiohttp.ClientConnectionError:
        got = 500, b""  # a stream that could not begin is cut
    assert got[0] >= 400
    assert b"shown" not in got[1]


@pytest.mark.parametrize("handler", ["ignore", "hasty", "forgiving"])
async def test_handler_that_cares_for_no_body_answers_a_proven_one(
    gateway: RunningGateway, client: aiohttp.ClientSession, handler: str
):
    async with client.post(f"/seam/{handler}/a", data=b"x", headers=await signed(gateway, b"x")) as answer:
        assert answer.status == 200
        assert b"shown" in await answer.read()


async def test_errors_of_authentication_have_the_shape_of_the_route(
    gateway: RunningGateway, client: aiohttp.ClientSession
):
    for headers in ({}, await signed(gateway, b"another"), await signed(gateway, b"x", "seam:other")):
        async with client.post("/seam/shape/a", data=b"x", headers=headers) as answer:
            assert answer.status == 403
            assert list(await answer.json()) == ["seam"]


async def test_scope_is_filled_with_the_path(gateway: RunningGateway, client: aiohttp.ClientSession):
    headers = {"Authorization": await gateway.secret("seam:node:one")}
    for node, status in (("one", 200), ("two", 403), ("one:two", 403), ("*", 403)):
        async with client.get(f"/seam/node/{node}", headers=headers) as answer:
            assert (node, answer.status) == (node, status)
    async with client.get("/seam/node/one", headers={"Authorization": await gateway.secret()}) as answer:
        assert answer.status == 403, "a new client does not get what is not granted by itself"


async def test_public_route_knows_a_client_of_any_scheme(gateway: RunningGateway, client: aiohttp.ClientSession):
    known, secret = await gateway.add_client()
    empty_mac = hmac.digest(secret.encode(), b"", "sha256").hex()
    for headers, name in (
        ({}, "anonymous"),
        ({"Authorization": "wrong"}, "anonymous"),
        ({"Authorization": secret}, known.name),
        ({"Seam-Mac": f"{known.name} {empty_mac}"}, known.name),
    ):
        async with client.get("/seam/who", headers=headers) as answer:
            assert (await answer.json())["client"] == name


# Routes and listeners


async def test_websocket_talks_and_refuses_pages_of_other_origins(
    gateway: RunningGateway, client: aiohttp.ClientSession
):
    async with client.ws_connect("/seam/echo", origin=seam_plugin.GOOD_ORIGIN) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str(timeout=10) == "hello"
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        await client.ws_connect("/seam/echo", origin="https://evil.example")
    assert gateway.core.state[seam_plugin.LIVE].echoed == ["hello"]


async def test_websocket_is_closed_with_1001_when_the_gateway_ends(make_gateway: MakeGateway):
    async with aiohttp.ClientSession() as session:
        async with make_gateway(ALONE, plugins=SEAM) as gateway:
            socket = await session.ws_connect(f"{gateway.url}/seam/echo")
            receiving = asyncio.create_task(socket.receive(timeout=10))
        await receiving
        assert socket.close_code == 1001


async def test_catch_all_gets_what_nobody_claims_and_the_path_as_sent(
    gateway: RunningGateway, client: aiohttp.ClientSession
):
    target = "/seam/far/away//a%2Fb%20c?q=%C3%A9"
    for method in ("GET", "DELETE", "PROPFIND"):
        async with client.request(method, URL(gateway.url + target, encoded=True)) as answer:
            assert await answer.json() == {"method": method, "raw": target}


async def test_method_that_a_claimed_path_does_not_have_is_405_even_below_a_catch_all(client: aiohttp.ClientSession):
    async with client.post("/seam/words") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


async def test_prefix_moves_all_routes_but_those_at_the_root(make_gateway: MakeGateway):
    async with make_gateway({**ALONE, "seam": {"prefix": "/inner"}}, plugins=SEAM) as gateway:
        async with gateway.session() as client:
            async with client.get("/inner/seam/who") as answer:
                assert "client" in await answer.json()
            async with client.get("/seam/who") as answer:
                assert (await answer.json())["raw"] == "/seam/who"


async def test_listener_of_its_own_knows_clients_by_certificate(make_gateway: MakeGateway, tmp_path: Path):
    certificates = Certificates(tmp_path)
    section = {"certificate": str(certificates.listener), "authority": str(certificates.authority)}
    async with make_gateway({**ALONE, "seam": section}, plugins=SEAM) as gateway:
        node, _ = await gateway.add_client("seam:node:one")
        base = f"https://{gateway.address('seam.tls')}"
        async with aiohttp.ClientSession() as session:
            for name, status in ((node.name, 200), ("unknown", 401), (None, 401)):
                context = certificates.client(name)
                async with session.get(f"{base}/node/one", ssl=context) as answer:
                    assert answer.status == status
                    assert "X-Request-Id" in answer.headers
            async with session.get(f"{base}/healthz", ssl=context) as answer:
                assert answer.status == 404, "a listener has only its own routes"
            async with session.get(f"{gateway.url}/node/one") as answer:
                assert answer.status == 404


# Sources


class SeamBed:
    """Things in the storage of a running gateway."""

    owner = Client("1" * 32, "owner")
    stranger = Client("2" * 32, "stranger")

    def __init__(self, gateway: Gateway) -> None:
        self.source = seam_plugin.SeamSource(gateway)
        self._storage = gateway.storage

    async def put(self, name: str, data: bytes) -> str:
        async with self._storage.writer(f"seam/{self.owner.id}/{name}") as writer:
            await writer.write(data)
            await writer.commit()
        return f"seam://{self.owner.id}/{name}"

    async def remove(self, name: str) -> None:
        await self._storage.delete(f"seam/{self.owner.id}/{name}")


class TestSeamSource(SourceConformance):
    @pytest.fixture
    def bed(self, gateway: RunningGateway) -> SeamBed:
        return SeamBed(gateway.core)


async def test_archive_reads_a_source_of_another_plugin_as_the_owner_of_the_ticket(make_gateway: MakeGateway):
    async with make_gateway(WITH_ARCHIVE, plugins=SEAM) as gateway, gateway.session() as session:
        owner, secret = await gateway.add_client()
        async with gateway.core.storage.writer(f"seam/{owner.id}/a.txt") as writer:
            await writer.write(b"mine")
            await writer.commit()
        order = {"items": [{"url": f"seam://{owner.id}/a.txt"}]}
        async with session.post("/ticket/generate", json=order, headers={"Authorization": secret}) as answer:
            ticket = (await answer.json())["id"]
        async with session.get(f"/ticket/{ticket}/download", headers={"Origin": "https://page.example"}) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "*", (
                "streamed answers have the headers of pages too"
            )
            with zipfile.ZipFile(io.BytesIO(await answer.read())) as archive:
                assert archive.read("a.txt") == b"mine"
        other = {"Authorization": await gateway.secret()}
        async with session.post("/ticket/generate", json=order, headers=other) as answer:
            assert answer.status == 422
        await gateway.core.clients.revoke(owner.id)
        async with session.get(f"/ticket/{ticket}/download") as answer:
            assert answer.status == 502, "who may do nothing any more gets nothing by an old ticket"


# Plugins that extend plugins


async def test_plugin_answers_the_hook_of_another(make_gateway: MakeGateway):
    plugins = {**SEAM, "extra": seam_extra_plugin}
    async with make_gateway({"plugins": "seam,extra"}, plugins=plugins) as gateway, gateway.session() as client:
        async with client.get("/seam/words") as answer:
            assert await answer.json() == {"extra": ["pipe", "tick"]}


def test_plugin_that_extends_another_loads_without_it():
    assert load_plugins(("extra",), extra={"extra": seam_extra_plugin}).enabled == ("extra",)


# What a plugin may hold on to


async def test_table_storage_and_state_of_the_plugin_are_there(make_gateway: MakeGateway, tmp_path: Path):
    settings = {**ALONE, "storage_url": "seam://elsewhere", "data_dir": tmp_path / "data"}
    async with make_gateway(settings, plugins=SEAM) as gateway, gateway.session() as client:
        async with client.post("/seam/note/hello") as answer:
            assert await answer.json() == ["hello"]
        async with client.put("/seam/store/a", headers=await signed(gateway, b"")) as answer:
            assert answer.status == 200
        live = gateway.core.state[seam_plugin.LIVE]
        assert live.role == Role.SERVER
        with pytest.raises(KeyError):
            gateway.core.state[StateKey("seam.other", str)]
    assert live.role == "ended"
    assert (tmp_path / "data" / "elsewhere").is_dir()


@pytest.mark.parametrize("role", [Role.SERVER, Role.WORKER])
async def test_lifespans_run_in_servers_and_workers_and_know_which_they_are(tmp_path: Path, role: Role):
    inputs = Inputs(options={**ALONE, "data_dir": tmp_path})
    gateway = compose(inputs, role=role, extra=SEAM).gateway
    async with gateway.database():
        await gateway.ensure_schema()
    async with gateway.opened(), gateway.running():
        assert gateway.state[seam_plugin.LIVE].role == role


async def test_scratch_folder_is_of_one_process_and_ends_with_it(make_gateway: MakeGateway):
    async with make_gateway(ALONE, plugins=SEAM) as one, make_gateway(ALONE, plugins=SEAM) as two:
        folders = [one.core.scratch_dir, two.core.scratch_dir]
        assert folders[0] != folders[1]
        (folders[0] / "left").write_text("behind")
    assert not any(folder.exists() for folder in folders)


async def test_degraded_check_is_listed_and_does_no_harm(make_gateway: MakeGateway):
    async with make_gateway({**ALONE, "seam": {"degraded": True}}, plugins=SEAM) as gateway:
        async with gateway.session() as client, client.get("/readyz") as answer:
            found = await answer.json()
    assert (answer.status, found["degraded"], found["checks"]["seam.mood"]) == (200, ["seam.mood"], "a little tired")


async def test_failing_check_makes_the_gateway_unready(make_gateway: MakeGateway):
    async def broken() -> None:
        raise ZeroDivisionError

    plugin = plugin_of(gateway_health=lambda gateway: {"broken": broken})
    async with make_gateway({"plugins": "odd"}, plugins={"odd": plugin}) as gateway, gateway.session() as client:
        async with client.get("/readyz") as answer:
            assert (answer.status, (await answer.json())["checks"]["odd.broken"]) == (503, "ZeroDivisionError")


async def test_observers_hear_of_events_and_one_that_fails_hurts_nobody(make_gateway: MakeGateway):
    heard: list[tuple[str, dict[str, object]]] = []

    def broken(event) -> None:
        raise ZeroDivisionError

    plugins = {
        "a_broken": plugin_of(gateway_event=broken),
        "b_good": plugin_of(gateway_event=lambda event: heard.append((event.name, dict(event.data)))),
        "c_broken": plugin_of(gateway_event=broken),
    }
    async with make_gateway({"plugins": ",".join(plugins)}, plugins=plugins) as gateway:
        gateway.core.emit("seam.thing.happened", number=1)
    assert heard == [("seam.thing.happened", {"number": 1})]


async def test_shared_tables_are_swept(make_gateway: MakeGateway, tmp_path: Path):
    inputs = Inputs(options={"plugins": "seam", "data_dir": tmp_path / "gateway"})
    before = compose(inputs, role=Role.SERVER, extra=SEAM).gateway
    async with before.database() as db:
        await before.ensure_schema()
        async with db.write() as tx:
            old = {"client_id": "1" * 32, "key": "k", "fingerprint": "f", "token": "t", "expires": 1.0}
            await tx.execute(insert(idempotency).values(**old))
    async with make_gateway(ALONE, plugins=SEAM) as gateway:
        left = 1
        for _ in range(200):
            async with gateway.core.db.read() as tx:
                left = await tx.scalar(select(func.count()).select_from(idempotency))
            if not left:
                break
            await asyncio.sleep(0.05)
    assert left == 0


# Two gateways on one database


async def test_lease_of_one_gateway_is_not_to_be_had_by_another(make_gateway: MakeGateway):
    async with make_gateway(ALONE, plugins=SEAM) as one, make_gateway(ALONE, plugins=SEAM) as two:
        held = await one.core.leases.acquire("seam.one", one.core.instance, 30)
        assert held is not None
        assert await two.core.leases.acquire("seam.one", two.core.instance, 30) is None
        await one.core.leases.release(held)
        taken = await two.core.leases.acquire("seam.one", two.core.instance, 30)
        assert taken is not None
        assert taken.token > held.token


async def test_wake_up_of_one_gateway_reaches_another(make_gateway: MakeGateway):
    async with make_gateway(ALONE, plugins=SEAM) as one, make_gateway(ALONE, plugins=SEAM) as two:
        with two.core.wakeups.subscribe("seam.topic") as topic:
            one.core.wakeups.publish("seam.topic")
            assert await topic.wait(10)


async def test_revoked_client_is_shut_out_of_another_gateway(make_gateway: MakeGateway):
    async with make_gateway(ALONE, plugins=SEAM) as one, make_gateway(ALONE, plugins=SEAM) as two:
        client, secret = await one.add_client("seam:node:one")
        assert await two.core.clients.by_secret(secret) == client
        with two.core.wakeups.subscribe("core.clients") as changes:
            await one.core.clients.revoke(client.id)
            async with asyncio.timeout(10):  # the first signal may still be that of the client's making
                while await two.core.clients.by_secret(secret) is not None:
                    await changes.wait(0.5)
