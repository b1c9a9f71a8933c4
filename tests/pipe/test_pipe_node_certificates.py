"""A node with a certificate of a real gateway: it enrols, connects, renews, and is sent away."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import pytest_asyncio
from cryptography import x509

from gateway_core.errors import GatewayError
from gateway_core.testing.harness import running_gateway
from gateway_pipe.cli.connect import _options, connect
from gateway_pipe.identity.enrolment import enrol
from gateway_pipe.identity.listener import LISTENER_KEY
from gateway_pipe.identity.material import read_enrolled, read_own
from gateway_pipe.identity.urls import gateway_url
from gateway_pipe.link.model import Goodbye, Hello
from gateway_pipe.node.credentials import CertificateIdentity, SecretIdentity
from gateway_pipe.node.dialer import Dialer
from gateway_pipe.node.renewal import keep_valid, renew
from gateway_pipe.service import SERVICE_KEY
from tests.pipe.gateways import Watcher, echo
from tests.pipe.identity_stand import leaf, other_issuer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(tmp_path_factory, gateway_templates):
    settings = {"plugins": "pipe", "pipe": {"listen": "127.0.0.1:0"}}
    folder = tmp_path_factory.mktemp("gateway")
    async with running_gateway(folder, settings=settings, templates=gateway_templates) as running:
        authority = running.core.state[SERVICE_KEY].authority
        await authority.init()
        assert await running.core.state[LISTENER_KEY].load()
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def enrolled(gateway, tmp_path):
    """A node's certificate and where to connect; its name is that of the test's folder."""
    name = tmp_path.name.replace("_", "-")[:60].strip("-")
    token, _ = await gateway.core.state[SERVICE_KEY].authority.invite(name, ttl_s=60)
    return await enrol(f"https://{gateway.address('pipe.nodes')}", token.text, tmp_path / "node")


@asynccontextmanager
async def dialing(identity, url, watcher):
    hello = Hello(name=identity.name, instance="i1")
    dialer = Dialer(gateway_url(url), identity, hello, serve=echo, observer=watcher)
    dialer.start()
    try:
        yield dialer
    finally:
        await dialer.close(1)


async def test_an_enrolled_node_connects_and_is_called(gateway, enrolled):
    identity = CertificateIdentity(enrolled.name, enrolled)
    async with dialing(identity, enrolled.url, Watcher()) as dialer, gateway.session() as session:
        await dialer.wait_link(5)
        headers = {"Authorization": await gateway.secret(f"pipe:call:{enrolled.name}")}
        async with session.post(f"/client/{enrolled.name}/x", data=b"hi", headers=headers) as response:
            assert (response.status, await response.read()) == (200, b"hi")


async def test_the_command_finds_name_and_gateway_in_the_folder(enrolled, monkeypatch):
    monkeypatch.setenv("GATEWAY_URL", "http://127.0.0.1:8000")
    monkeypatch.setenv("GATEWAY_SECRET", "of another command")
    found = options("--dir", str(enrolled.folder), "--local", "off", "--tag", "a", "--tag", "a")
    assert (found.identity.name, found.target.text, found.folder) == (enrolled.name, enrolled.url, enrolled.folder)
    assert isinstance(found.identity, CertificateIdentity)
    assert found.local is None
    assert found.tags == ("a",)


async def test_the_command_takes_another_place_of_the_gateway(enrolled):
    found = options("https://[::1]:9/prefix/", "--dir", str(enrolled.folder), "--local", "[::1]:1")
    assert found.target.text == "https://[::1]:9/prefix"
    assert found.local == ("::1", 1)


def options(*arguments):
    """What the command would run with."""
    context = connect.make_context("connect", list(arguments))
    given = {name: value for name, value in context.params.items() if name not in {"url", "log_level", "log_format"}}
    return _options(context, context.params["url"], given)


async def test_a_certificate_is_renewed_over_the_link_and_shown_from_then_on(enrolled):
    identity = CertificateIdentity(enrolled.name, enrolled)
    watcher, before = Watcher(), enrolled.cert.read_bytes()
    async with dialing(identity, enrolled.url, watcher) as dialer:
        renewed = await renew(identity, await dialer.wait_link(5))
        assert identity.material == renewed == read_enrolled(enrolled.folder)
        assert enrolled.cert.read_bytes() != before
        dialer.drop("cut")
        await watcher.farewells.get()
        await dialer.wait_link(5)


async def test_renewal_is_due_at_two_thirds_of_the_life(enrolled):
    old = replace(enrolled, begins=time.time() - 1_000_000, expires=time.time() + 100_000)
    identity = CertificateIdentity(enrolled.name, old)
    async with dialing(CertificateIdentity(enrolled.name, enrolled), enrolled.url, Watcher()) as dialer:
        keeping = asyncio.create_task(keep_valid(identity, dialer))
        async with asyncio.timeout(5):
            while identity.material is old:
                await asyncio.wait({keeping}, timeout=0.01)
        assert not keeping.done()
        keeping.cancel()
    assert identity.material.renew_at > time.time() + 86400


async def test_a_node_with_a_secret_renews_nothing(gateway):
    identity = SecretIdentity("by-secret", "x", ca=None, secure=False)
    async with dialing(identity, gateway.url, Watcher()) as dialer:
        await asyncio.wait_for(keep_valid(identity, dialer), 1)


async def test_a_renewal_that_the_gateway_refuses_keeps_the_old_certificate(gateway, enrolled):
    secret = await gateway.secret(f"pipe:connect:{enrolled.name}")
    by_secret = SecretIdentity(enrolled.name, secret.removeprefix("Bearer "), ca=None, secure=False)
    before = enrolled.cert.read_bytes()
    async with dialing(by_secret, gateway.url, Watcher()) as dialer:
        link = await dialer.wait_link(5)
        with pytest.raises(GatewayError, match="only a node that is connected with a certificate"):
            await renew(CertificateIdentity(enrolled.name, enrolled), link)
    assert enrolled.cert.read_bytes() == before
    read_enrolled(enrolled.folder).context()


async def test_a_foreign_certificate_is_refused_with_a_clear_line(gateway, enrolled, tmp_path):
    cert, key = leaf(other_issuer(), sans=(x509.UniformResourceIdentifier("pipe:node1"),)).write(tmp_path)
    material = replace(read_own(ca=enrolled.ca, cert=cert, key=key), verify=enrolled.verify)
    watcher = Watcher()
    async with dialing(CertificateIdentity("node1", material), enrolled.url, watcher):
        _, _, reason = await asyncio.wait_for(watcher.failures.get(), 5)
    assert "certificate" in reason


async def test_a_server_that_is_not_the_gateway_gets_nothing(gateway, enrolled, tmp_path):
    (tmp_path / "other").mkdir()
    foreign, _ = leaf(None).write(tmp_path / "other")
    material = replace(enrolled, ca=foreign)
    watcher = Watcher()
    async with dialing(_Fixed(enrolled.name, material), enrolled.url, watcher):
        _, _, reason = await asyncio.wait_for(watcher.failures.get(), 5)
    assert "the gateway's certificate" in reason


class _Fixed(CertificateIdentity):
    """Shows what it was made with."""

    async def context(self):
        return self.material.context()


async def test_another_name_than_the_certificates_is_refused(enrolled):
    watcher = Watcher()
    async with dialing(CertificateIdentity("somebody-else", enrolled), enrolled.url, watcher):
        _, _, reason = await asyncio.wait_for(watcher.failures.get(), 5)
    assert "403" in reason or "404" in reason


async def test_a_newer_process_with_the_same_name_wins_and_the_older_is_told(enrolled):
    older, newer = Watcher(), Watcher()
    identity = CertificateIdentity(enrolled.name, enrolled)
    async with dialing(identity, enrolled.url, older) as first:
        await first.wait_link(5)
        async with dialing(identity, enrolled.url, newer) as second:
            await second.wait_link(5)
            farewell = await asyncio.wait_for(older.farewells.get(), 5)
            assert farewell.code is Goodbye.REPLACED
            assert second.link is not None


async def test_a_certificate_that_expired_while_the_node_was_off_is_replaced_first(enrolled, monkeypatch):
    expired = replace(enrolled, expires=time.time() - 10)
    monkeypatch.setattr("gateway_pipe.node.credentials.read_enrolled", lambda _folder: expired)
    identity = CertificateIdentity(enrolled.name, expired)
    before = enrolled.cert.read_bytes()
    async with dialing(identity, enrolled.url, Watcher()) as dialer:
        await dialer.wait_link(5)
    assert enrolled.cert.read_bytes() != before


async def test_a_plain_port_is_told_from_one_with_tls(gateway, enrolled):
    watcher = Watcher()
    async with dialing(CertificateIdentity(enrolled.name, enrolled), f"https://{gateway.url[7:]}", watcher):
        _, _, reason = await asyncio.wait_for(watcher.failures.get(), 5)
    assert "TLS" in reason


async def test_a_gateway_that_accepts_and_says_nothing_is_given_up(enrolled, monkeypatch):
    monkeypatch.setattr("gateway_pipe.node.dialer.HANDSHAKE_S", 0.2)
    watcher = Watcher()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        async with dialing(CertificateIdentity(enrolled.name, enrolled), url, watcher):
            attempts, _, reason = await asyncio.wait_for(watcher.failures.get(), 5)
    assert attempts == 1
    assert "no answer in time" in reason
