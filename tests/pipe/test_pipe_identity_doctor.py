"""The doctor names each cause by which a node cannot connect."""

from __future__ import annotations

import socket
import ssl
from functools import partial
from ipaddress import ip_address

import pytest
from aiohttp import ClientSession, WSServerHandshakeError, web
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from pytest_asyncio import fixture as async_fixture

from gateway_core.testing import running_gateway
from gateway_pipe.identity.diagnosis import Credential, diagnose, explain
from gateway_pipe.identity.enrolment import enrol
from gateway_pipe.identity.material import read_own
from tests.pipe.identity_stand import http_server, identity_stand, leaf, other_issuer, tls_server

pytestmark = pytest.mark.asyncio(loop_scope="module")


@async_fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory, gateway_templates):
    make = partial(running_gateway, tmp_path_factory.mktemp("gateway"), templates=gateway_templates)
    async with identity_stand(make) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def wrong(url, credential=None):
    """What the doctor finds wrong, with its hints."""
    findings = await diagnose(url, credential or Credential())
    return [f"{finding.what} | {finding.hint}" for finding in findings if not finding.ok]


def own(issuer, certificate, folder):
    """A certificate of one's own, and the authority by which the gateway is known."""
    ca = folder / "ca.pem"
    ca.write_text(issuer.pem)
    cert, key = certificate.write(folder)
    return Credential(name="node1", material=read_own(ca=ca, cert=cert, key=key))


LOCALHOST = (x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1")))


def server_of(issuer, *, sans=LOCALHOST, **options):
    return leaf(issuer, sans=sans, usage=ExtendedKeyUsageOID.SERVER_AUTH, **options)


async def hello(_request):
    return web.Response(text="hello")


async def test_nothing_is_wrong_with_an_enrolled_node(stand, tmp_path):
    made = await enrol(stand.url, await stand.token("node1"), tmp_path / "n")
    findings = await diagnose(stand.url, Credential(name="node1", material=made))
    assert all(finding.ok for finding in findings), findings
    assert [finding.what for finding in findings][
        -1
    ] == "the gateway takes the node, and the way is open for WebSockets"


async def test_name_that_does_not_resolve():
    assert "name cannot be resolved" in (await wrong("https://nowhere.invalid"))[0]


async def test_port_where_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        found = await wrong(f"https://127.0.0.1:{taken.getsockname()[1]}")
    assert len(found) == 1
    assert "nothing listens at that port" in found[0]


async def test_tls_to_a_plain_port(stand):
    found = await wrong(stand.gateway.url.replace("http:", "https:"))
    assert "does not speak TLS" in found[0]


async def test_gateway_of_another_authority(stand, tmp_path):
    other = other_issuer()
    found = await wrong(stand.url, own(other, leaf(other), tmp_path))
    assert "authority that is not trusted here" in found[0]
    assert "is it the gateway where this node enrolled?" in found[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"begin_s": -100, "end_s": -10}, "the gateway's certificate has expired"),
        ({"begin_s": 1000}, "the gateway's certificate is not valid yet"),
        ({"sans": (x509.DNSName("gateway.example"),)}, "the gateway's certificate is for another"),
    ],
)
async def test_certificate_of_the_server_that_does_not_do(tmp_path, options, words):
    issuer = other_issuer()
    (tmp_path / "node").mkdir()
    async with tls_server(server_of(issuer, **options), tmp_path, hello) as url:
        found = await wrong(url, own(issuer, leaf(issuer), tmp_path / "node"))
    assert words in found[0]


async def test_something_of_the_same_authority_that_is_no_gateway(stand, tmp_path):
    made = await enrol(stand.url, await stand.token("node2"), tmp_path / "n")
    async with tls_server(server_of(await stand.issuer()), tmp_path, hello) as url:
        found = await wrong(url, Credential(name="node2", material=made))
    assert "what answers is not the gateway" in found[0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda _i: leaf(other_issuer()), "does not trust the authority", id="other authority"),
        pytest.param(lambda i: leaf(i, usage=ExtendedKeyUsageOID.SERVER_AUTH), "for another purpose", id="for servers"),
    ],
)
async def test_certificate_that_the_gateway_refuses_in_the_handshake(stand, tmp_path, make, words):
    issuer = await stand.issuer()
    found = await wrong(stand.url, own(issuer, make(issuer), tmp_path))
    assert words in found[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"begin_s": -100, "end_s": -10}, "has expired on"), ({"begin_s": 1000}, "set this machine's clock")],
)
async def test_own_certificate_out_of_its_time(stand, tmp_path, options, words):
    issuer = await stand.issuer()
    assert words in (await wrong(stand.url, own(issuer, leaf(issuer, **options), tmp_path)))[0]


async def test_own_key_that_is_not_the_certificates(stand, tmp_path):
    issuer = await stand.issuer()
    credential = own(issuer, leaf(issuer), tmp_path)
    (tmp_path / "other").mkdir()
    leaf(issuer).write(tmp_path / "other")[1].replace(credential.material.key)
    assert "does not belong to" in (await wrong(stand.url, credential))[0]


async def test_revoked_node(stand, tmp_path):
    made = await enrol(stand.url, await stand.token("node3"), tmp_path / "n")
    await stand.authority.revocations.revoke("node3")
    found = await wrong(stand.url, Credential(name="node3", material=made))
    assert "revoked" in found[0]
    assert "gateway pipe invite node3" in found[0]


async def test_certificate_for_another_name(stand, tmp_path):
    made = await enrol(stand.url, await stand.token("node4"), tmp_path / "n")
    found = await wrong(stand.url, Credential(name="node5", material=made))
    assert "the certificate is for another name" in found[0]


async def test_secret_without_the_scope(stand):
    secret = await stand.gateway.secret("core:metrics")
    found = await wrong(stand.gateway.url, Credential(name="node1", secret=secret))
    assert "--scope pipe:connect:node1" in found[0]


async def test_secret_with_the_scope(stand):
    secret = await stand.gateway.secret("pipe:connect:node1")
    assert await wrong(stand.gateway.url, Credential(name="node1", secret=secret)) == []


async def test_secret_to_a_gateway_of_an_authority_of_its_own(stand, tmp_path):
    ca = tmp_path / "ca.pem"
    ca.write_text((await stand.issuer()).pem)
    credential = Credential(name="node1", secret=await stand.gateway.secret("pipe:connect:node1"), ca=ca)
    assert await wrong(stand.url, credential) == []


async def test_clock_that_is_wrong():
    async def later(_request):
        return web.Response(status=404, headers={"Date": "Tue, 01 Jan 2030 00:00:00 GMT"})

    async with http_server(later) as address:
        found = await wrong(f"http://{address}", Credential(name="node1", secret="x"))
    assert "behind the gateway's" in found[0]
    assert "there is no pipe at this URL" in found[1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": 200, "text": "<html>"}, "not a WebSocket"),
        ({"status": 302, "headers": {"Location": "https://elsewhere/"}}, "redirected to https://elsewhere/"),
        ({"status": 502}, "does not reach the gateway"),
        ({"status": 503, "headers": {"Retry-After": "7"}}, "later (503), after 7 s"),
        (
            {"status": 400, "text": '{"detail": "only for WebSockets"}', "content_type": "application/problem+json"},
            "removes the Upgrade header",
        ),
    ],
)
async def test_answers_that_are_no_link(answer, words):
    async def answers(_request):
        return web.Response(**answer)

    async with http_server(answers) as address:
        assert words in (await wrong(f"http://{address}"))[0]


async def test_proxy_of_the_environment_is_used_and_named(monkeypatch):
    async def asked(_request):
        return web.Response(status=502)

    async with http_server(asked) as address:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:password@{address}")
        monkeypatch.setenv("http_proxy", f"http://me:password@{address}")
        findings = await diagnose("http://gateway.example", Credential(secret="x"))
    texts = [finding.what for finding in findings]
    assert f"connects by the proxy http://{address} (from the environment)" in texts
    assert "a proxy on the way does not reach the gateway (502)" in texts


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_node_is_told_why_its_certificate_is_refused(stand, tmp_path, version):
    context = own(await stand.issuer(), leaf(other_issuer()), tmp_path).material.context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    async with ClientSession() as session:
        with pytest.raises(OSError) as raised:
            await session.ws_connect(f"{stand.url}/pipe/link/node1", ssl=context)
    assert "does not trust the authority of the certificate that it was shown" in explain(raised.value)


async def test_revoked_node_is_told_so_where_it_connects(stand, tmp_path):
    made = await enrol(stand.url, await stand.token("node6"), tmp_path / "n")
    await stand.authority.revocations.revoke("node6")
    async with ClientSession() as session:
        with pytest.raises(WSServerHandshakeError) as raised:
            await session.ws_connect(f"{stand.url}/pipe/link/node6", ssl=made.context())
    assert explain(raised.value) == "the gateway says no (401): node6: revoked; a new invitation is needed"


async def test_explanation_says_more_than_the_library(stand, tmp_path):
    other = other_issuer()
    context = own(other, leaf(other), tmp_path).material.context()
    async with ClientSession() as session:
        with pytest.raises(OSError) as raised:
            await session.get(stand.url, ssl=context)
    assert explain(raised.value) == "the gateway's certificate comes from an authority that is not trusted here"
