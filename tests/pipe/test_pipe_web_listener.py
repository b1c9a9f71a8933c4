"""Links by certificate: on the port for nodes, and on the ordinary one behind a proxy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientSession, WSServerHandshakeError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway_core.http.lean import IDLE_BYTES
from gateway_core.testing.harness import RunningGateway, running_gateway
from gateway_pipe.hub.nodes import Via
from gateway_pipe.identity.authority import Purpose
from gateway_pipe.identity.listener import LISTENER_KEY
from gateway_pipe.identity.signing import Issuer
from gateway_pipe.link.model import Kind, Opening
from gateway_pipe.service import SERVICE_KEY, Service
from tests.pipe.identity_stand import leaf, plain_context
from tests.pipe.web_nodes import LISTENER, PATIENCE_S, node

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[RunningGateway]:
    """With the built-in authority."""
    settings = {"plugins": "pipe", "trusted_proxies": ["127.0.0.1"], "pipe": {"listen": "127.0.0.1:0"}}
    async with running_gateway(
        tmp_path_factory.mktemp("listener"), settings=settings, templates=gateway_templates
    ) as running:
        await service(running).authority.init()
        assert await running.core.state[LISTENER_KEY].load()
        yield running


def service(gateway: RunningGateway) -> Service:
    return gateway.core.state[SERVICE_KEY]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def issuer(gateway: RunningGateway) -> Issuer:
    return await service(gateway).authority.issuer(Purpose.NODES)


async def test_a_node_comes_in_by_its_certificate(gateway: RunningGateway, issuer: Issuer, tmp_path: Path) -> None:
    mine = leaf(issuer)
    async with node(gateway, "node1", context=mine.context(issuer.pem, tmp_path)):
        found = service(gateway).hub.node("node1")
        assert found is not None
        entrance = found.entrance
        assert (entrance.via, entrance.address, entrance.client_id) == (Via.CERTIFICATE, "127.0.0.1", "")
        assert entrance.serial == f"{mine.certificate.serial_number:x}"
        assert entrance.not_after == mine.certificate.not_valid_after_utc.timestamp()
        async with gateway.session(headers={"Authorization": await gateway.secret()}) as session:
            async with session.post("/client/node1/x", data=b"a" * 300_000) as answer:
                assert (await answer.json())["body"] == "a" * 300_000


async def test_idle_links_have_small_buffers(gateway: RunningGateway, issuer: Issuer, tmp_path: Path) -> None:
    async with node(gateway, "node1", context=leaf(issuer).context(issuer.pem, tmp_path)):
        found = service(gateway).hub.node("node1")
        assert found is not None
        protocol = found.link._wire._transport._ssl_protocol
        assert len(protocol.get_buffer(-1)) == IDLE_BYTES


async def test_a_certificate_is_for_its_name_only(gateway: RunningGateway, issuer: Issuer, tmp_path: Path) -> None:
    with pytest.raises(WSServerHandshakeError) as refused:
        async with node(gateway, "node2", context=leaf(issuer).context(issuer.pem, tmp_path)):
            pass
    assert refused.value.status == 403


async def test_without_a_certificate_the_port_has_no_link(gateway: RunningGateway, issuer: Issuer) -> None:
    with pytest.raises(WSServerHandshakeError) as refused:
        async with node(gateway, "node1", context=plain_context(issuer.pem)):
            pass
    assert refused.value.status == 401


async def test_the_port_has_no_other_routes(gateway: RunningGateway, issuer: Issuer) -> None:
    headers = {"Authorization": await gateway.secret()}
    async with ClientSession(f"https://{gateway.address(LISTENER)}", headers=headers) as session:
        for path in ("/client/node1/time", "/pipe/nodes", "/healthz", "/pipe/calls"):
            async with session.get(path, ssl=plain_context(issuer.pem)) as answer:
                assert answer.status == 404
        async with session.get("/pipe/ca", ssl=plain_context(issuer.pem)) as answer:
            assert answer.status == 200


async def test_a_trusted_proxy_passes_the_certificate_on(gateway: RunningGateway, issuer: Issuer) -> None:
    headers = {
        "X-SSL-Cert": quote(leaf(issuer).pem),
        "X-SSL-Verify": "SUCCESS",
        "X-Forwarded-For": "192.0.2.7",
    }
    async with node(gateway, "node1", headers=headers):
        found = service(gateway).hub.node("node1")
        assert found is not None
        assert (found.entrance.via, found.entrance.address) == (Via.CERTIFICATE, "192.0.2.7")


def signing_request() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


async def test_a_certificate_is_renewed_over_its_link(gateway: RunningGateway, issuer: Issuer, tmp_path: Path) -> None:
    opening = Opening(kind=Kind.CONTROL, method="POST", target="renew")
    async with node(gateway, "node1", context=leaf(issuer).context(issuer.pem, tmp_path)) as link:
        async with link.call(opening, signing_request(), timeout_s=PATIENCE_S, whole=True) as answer:
            assert answer.head.status == 200
            told = json.loads(await answer.read(100_000))
        assert (told["name"], told["ca"]) == ("node1", issuer.pem)
        made = x509.load_pem_x509_certificate(told["certificate"].encode())
        names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert "pipe:node1" in names.get_values_for_type(x509.UniformResourceIdentifier)


async def test_a_renewal_that_cannot_be_signed_is_told_and_leaves_the_link(
    gateway: RunningGateway, issuer: Issuer, tmp_path: Path
) -> None:
    opening = Opening(kind=Kind.CONTROL, method="POST", target="renew")
    async with node(gateway, "node1", context=leaf(issuer).context(issuer.pem, tmp_path)) as link:
        for body, status in ((b"no request", 422), (b"x" * 100_000, 413)):
            async with link.call(opening, body, timeout_s=PATIENCE_S, whole=True) as answer:
                assert answer.head.status == status
                assert json.loads(await answer.read(100_000))["status"] == status
        assert link.alive


async def test_links_cost_no_task_but_their_own(gateway: RunningGateway, issuer: Issuer, tmp_path: Path) -> None:
    context = leaf(issuer).context(issuer.pem, tmp_path)
    before = asyncio.all_tasks()
    async with node(gateway, "node1", context=context):
        found = service(gateway).hub.node("node1")
        assert found is not None
        mine = [task for task in asyncio.all_tasks() - before if "RequestHandler" in repr(task.get_coro())]
        others = asyncio.all_tasks() - before - set(mine)
        assert len(mine) <= 2  # the connection's, and the request's
        assert len(others) <= 1  # the node's own, in this test
