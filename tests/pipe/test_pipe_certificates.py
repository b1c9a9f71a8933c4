"""Certificates of nodes in real handshakes: the bad ones are refused with a reason in the log, the good ones named."""

from __future__ import annotations

import asyncio
import ssl
from functools import partial

import pytest
from aiohttp import ClientError
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from pytest_asyncio import fixture as async_fixture
from structlog.testing import capture_logs

from gateway_core import ConfigError
from gateway_core.testing import running_gateway
from gateway_pipe.identity.enrolment import enrol
from gateway_pipe.identity.listener import FAILED, LISTENER_KEY, FailureLog
from tests.pipe.identity_stand import LISTENER, identity_stand, leaf, other_issuer, plain_context

pytestmark = pytest.mark.asyncio(loop_scope="module")


@async_fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory, gateway_templates):
    """One for the tests that leave it as it is, but for names of their own."""
    make = partial(running_gateway, tmp_path_factory.mktemp("gateway"), templates=gateway_templates)
    async with identity_stand(make) as running:
        yield running


def _weak_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)


def _chained(issuer):
    """Signed by a certificate that is no authority."""
    return leaf(leaf(issuer, usage=None))


BAD = {
    "self-signed": (lambda _issuer: leaf(None), "untrusted"),
    "of another authority": (lambda _issuer: leaf(other_issuer()), "untrusted"),
    "expired": (lambda issuer: leaf(issuer, begin_s=-100, end_s=-10), "expired"),
    "not yet valid": (lambda issuer: leaf(issuer, begin_s=1000), "not_yet"),
    "for servers": (lambda issuer: leaf(issuer, usage=ExtendedKeyUsageOID.SERVER_AUTH), "purpose"),
    "signed by a node": (_chained, "untrusted"),
    "weak": (lambda issuer: leaf(issuer, key=_weak_key()), "weak"),
}


@pytest.mark.parametrize("what", BAD)
async def test_bad_certificate_fails_the_handshake_with_a_reason_in_the_log(stand, tmp_path, what):
    make, kind = BAD[what]
    issuer = await stand.issuer()
    context = make(issuer).context(issuer.pem, tmp_path)
    before = FAILED.labels(kind)._value.get()
    with capture_logs() as lines:
        with pytest.raises((ClientError, ssl.SSLError, ConnectionError)):
            await stand.get("/pipe/link/node1", context)
    told = [line for line in lines if line["event"] == "a node's TLS handshake failed"]
    assert {line["kind"] for line in told} == {kind}
    assert told[0]["reason"].startswith("the node's certificate ")
    assert FAILED.labels(kind)._value.get() == before + len(told)


async def test_old_tls_is_refused_with_a_reason_in_the_log(stand):
    context = plain_context((await stand.issuer()).pem)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with capture_logs() as lines:
        with pytest.raises((ClientError, ssl.SSLError, ConnectionError)):
            await stand.get("/pipe/ca", context)
    assert "protocol" in [line.get("kind") for line in lines]


async def test_plain_http_on_the_port_is_told_and_closed_at_once(stand):
    with capture_logs() as lines:
        reader, writer = await asyncio.open_connection(*stand.gateway.address(LISTENER).split(":"))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
    assert "plain HTTP was sent to a port that speaks TLS" in [line.get("reason") for line in lines]


async def test_who_goes_on_after_a_failed_handshake_is_cut_off(stand):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    hello = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="x").do_handshake()
    reader, writer = await asyncio.open_connection(*stand.gateway.address(LISTENER).split(":"))
    writer.write(hello.read())
    assert (await asyncio.wait_for(reader.readexactly(7), 10))[0] == 21  # an alert, RFC 8446 B.1
    with pytest.raises(ConnectionError):
        await _flood(writer)
    writer.close()


async def _flood(writer):
    for _ in range(100):
        writer.write(bytes(65536))
        await asyncio.wait_for(writer.drain(), 10)


async def test_log_of_failures_is_not_drowned():
    failures, error = FailureLog(), ssl.SSLError(1, "x")
    with capture_logs() as lines:
        for _ in range(100):
            failures.tell(error)
    assert len(lines) == 20


async def test_no_certificate_gets_no_link_and_a_reason_on_both_sides(stand):
    with capture_logs() as lines:
        status, problem = await stand.get("/pipe/link/node1", plain_context((await stand.issuer()).pem))
    assert status == 401
    assert "no certificate was shown" in problem["detail"]
    assert "no certificate was shown" in next(line["reason"] for line in lines if line["event"] == "a node was refused")


@pytest.mark.parametrize("sans", [(), (x509.DNSName("*.example"),), (x509.UniformResourceIdentifier("pipe:a/b"),)])
async def test_certificate_that_names_no_node_is_refused(stand, tmp_path, sans):
    issuer = await stand.issuer()
    status, problem = await stand.get("/pipe/link/node1", leaf(issuer, sans=sans).context(issuer.pem, tmp_path))
    assert status == 401
    assert "names no node" in problem["detail"]


async def test_certificate_is_not_good_for_another_name(stand, tmp_path):
    issuer = await stand.issuer()
    context = leaf(issuer).context(issuer.pem, tmp_path)
    status, problem = await stand.get("/pipe/link/node2", context)
    assert (status, problem["detail"]) == (403, "the client lacks scope pipe:connect:node2")


async def test_good_certificate_gets_the_link_of_its_name(stand, tmp_path):
    issuer = await stand.issuer()
    good = leaf(issuer)
    status, told = await stand.get("/pipe/link/node1", good.context(issuer.pem, tmp_path))
    assert status == 200
    assert told["certificate"] == {
        "names": ["node1"],
        "serial": f"{good.certificate.serial_number:x}",
        "end": good.certificate.not_valid_after_utc.timestamp(),
    }


async def test_dns_names_count_where_no_uri_names_the_node(stand, tmp_path):
    issuer = await stand.issuer()
    both = leaf(issuer, sans=(x509.DNSName("db1.example"), x509.DNSName("db2.example")))
    context = both.context(issuer.pem, tmp_path)
    assert (await stand.get("/pipe/link/db2.example", context))[0] == 200
    named = leaf(issuer, sans=(x509.DNSName("db1.example"), x509.UniformResourceIdentifier("pipe:node1")))
    assert (await stand.get("/pipe/link/db1.example", named.context(issuer.pem, tmp_path)))[0] == 403


async def test_certificate_opens_nothing_but_links(stand, tmp_path):
    issuer = await stand.issuer()
    client = leaf(issuer)
    _, told = await stand.get("/pipe/link/node1", client.context(issuer.pem, tmp_path))
    assert told["client"] == "node node1"


async def test_revoked_node_is_refused_and_a_new_invitation_lets_only_newer_certificates_in(stand, tmp_path):
    issuer = await stand.issuer()
    old = leaf(issuer, sans=(x509.DNSName("gone1"),)).context(issuer.pem, tmp_path)
    assert (await stand.get("/pipe/link/gone1", old))[0] == 200
    assert not await stand.authority.revocations.revoke("gone1")
    status, problem = await stand.get("/pipe/link/gone1", old)
    assert (status, problem["detail"]) == (401, "gone1: revoked; a new invitation is needed")
    await stand.token("gone1")
    assert (await stand.get("/pipe/link/gone1", old))[0] == 401
    new = await enrol(stand.url, await stand.token("gone1"), tmp_path / "node")
    assert (await stand.get("/pipe/link/gone1", new.context()))[0] == 200
    assert await stand.authority.revocations.revoke("gone1")
    assert (await stand.get("/pipe/link/gone1", new.context()))[0] == 401


async def test_own_authority_and_server_certificate_take_the_place_of_the_built_in_ones(make_gateway, tmp_path):
    corporate = other_issuer()
    server = leaf(corporate, sans=(x509.DNSName("localhost"),), usage=ExtendedKeyUsageOID.SERVER_AUTH)
    cert, key = server.write(tmp_path)
    ca = tmp_path / "ca.pem"
    ca.write_text(corporate.pem)
    settings = {"ca": ca, "cert": cert, "key": key}
    (tmp_path / "node").mkdir()
    async with identity_stand(make_gateway, ca=False, pipe=settings) as stand:
        good = leaf(corporate).context(corporate.pem, tmp_path / "node")
        good.check_hostname = False
        assert (await stand.get("/pipe/link/node1", good))[0] == 200
        assert (await stand.get("/pipe/ca", good))[0] == 404


async def test_new_files_of_the_server_are_shown_without_a_restart(make_gateway, tmp_path):
    first, second = other_issuer(), other_issuer()
    ca = tmp_path / "ca.pem"

    def put(issuer):
        server = leaf(issuer, sans=(x509.DNSName("localhost"),), usage=ExtendedKeyUsageOID.SERVER_AUTH)
        ca.write_text(issuer.pem)
        return server.write(tmp_path)

    cert, key = put(first)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with identity_stand(make_gateway, ca=False, pipe={"ca": ca, "cert": cert, "key": key}) as stand:
        old, new = leaf(first).context(first.pem, tmp_path / "a"), leaf(second).context(second.pem, tmp_path / "b")
        old.check_hostname = new.check_hostname = False
        assert (await stand.get("/pipe/link/node1", old))[0] == 200
        put(second)
        await stand.gateway.core.state[LISTENER_KEY].load()
        assert (await stand.get("/pipe/link/node1", new))[0] == 200
        new_server_old_node = leaf(first).context(second.pem, tmp_path / "a")
        new_server_old_node.check_hostname = False
        with pytest.raises((ClientError, ssl.SSLError, ConnectionError)):
            await stand.get("/pipe/link/node1", new_server_old_node)


async def test_broken_files_leave_what_was_shown_before(make_gateway, tmp_path):
    issuer = other_issuer()
    server = leaf(issuer, sans=(x509.DNSName("localhost"),), usage=ExtendedKeyUsageOID.SERVER_AUTH)
    cert, key = server.write(tmp_path)
    ca = tmp_path / "ca.pem"
    ca.write_text(issuer.pem)
    async with identity_stand(make_gateway, ca=False, pipe={"ca": ca, "cert": cert, "key": key}) as stand:
        cert.write_text("half a certif")
        with pytest.raises(ConfigError, match="no certificate"):
            await stand.gateway.core.state[LISTENER_KEY].load()
        context = plain_context(issuer.pem)
        context.check_hostname = False
        assert (await stand.get("/pipe/link/node1", context))[0] == 401


async def test_port_works_as_soon_as_the_authority_is_made(make_gateway):
    async with identity_stand(make_gateway, ca=False) as stand:
        listener = stand.gateway.core.state[LISTENER_KEY]
        assert not await listener.load()
        issuer = await stand.authority.init()
        assert await listener.load()
        assert (await stand.get("/pipe/link/node1", plain_context(issuer.pem)))[0] == 401
