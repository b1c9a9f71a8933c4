"""Certificates in the headers of reverse proxies: believed from trusted ones only, and looked at again."""

from __future__ import annotations

import base64
from functools import partial
from urllib.parse import quote

import pytest
from aiohttp import ClientSession
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from multidict import CIMultiDict
from pytest_asyncio import fixture as async_fixture
from structlog.testing import capture_logs

from gateway_core import Unauthorized
from gateway_core.testing import running_gateway
from gateway_pipe.identity.headers import forwarded_certificate
from tests.pipe.identity_stand import identity_stand, leaf, other_issuer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@async_fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory, gateway_templates):
    make = partial(running_gateway, tmp_path_factory.mktemp("gateway"), templates=gateway_templates)
    async with identity_stand(make, listen=False, trusted_proxies=("127.0.0.1/32",)) as running:
        yield running


def standard(certificate):
    """RFC 9440 2.2."""
    return {"Client-Cert": f":{base64.b64encode(certificate.der).decode()}:"}


def nginx(certificate, verdict="SUCCESS"):
    return {"X-SSL-Cert": quote(certificate.pem), "X-SSL-Verify": verdict}


async def ask(stand, headers, name="node1"):
    async with ClientSession(stand.gateway.url, headers=headers) as session:
        async with session.get(f"/pipe/link/{name}") as response:
            return response.status, await response.json()


@pytest.mark.parametrize("form", [standard, nginx])
async def test_certificate_from_a_trusted_proxy_counts(stand, form):
    status, told = await ask(stand, form(leaf(await stand.issuer())))
    assert (status, told["certificate"]["names"]) == (200, ["node1"])


@pytest.mark.parametrize("form", [standard, nginx])
async def test_certificate_from_anybody_else_is_ignored(make_gateway, form):
    async with identity_stand(make_gateway, listen=False, trusted_proxies=("10.0.0.0/8",)) as stand:
        headers = {**form(leaf(await stand.issuer())), "X-Forwarded-For": "10.1.2.3"}
        status, problem = await ask(stand, headers)
        assert (status, "no valid credential" in problem["detail"]) == (401, True)


async def test_certificate_is_not_good_for_another_name(stand):
    assert (await ask(stand, standard(leaf(await stand.issuer())), name="node2"))[0] == 403


def _rsa_1024():
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda _i: leaf(None), "not trusted", id="self-signed"),
        pytest.param(lambda _i: leaf(other_issuer()), "not trusted", id="other authority"),
        pytest.param(lambda i: leaf(leaf(i)), "not trusted", id="signed by a node"),
        pytest.param(lambda i: leaf(i, begin_s=-100, end_s=-10), "expired", id="expired"),
        pytest.param(lambda i: leaf(i, begin_s=1000), "not valid yet", id="not yet"),
        pytest.param(lambda i: leaf(i, usage=ExtendedKeyUsageOID.SERVER_AUTH), "another purpose", id="for servers"),
        pytest.param(lambda i: leaf(i, authority=True), "another purpose", id="an authority"),
        pytest.param(lambda i: leaf(i, key=_rsa_1024()), "too weak", id="weak"),
        pytest.param(lambda i: leaf(i, sans=(x509.DNSName("*.x"),)), "names no node", id="no name"),
    ],
)
async def test_what_a_careless_proxy_lets_through_is_refused(stand, make, reason):
    with capture_logs() as lines:
        status, problem = await ask(stand, nginx(make(await stand.issuer())))
    assert status == 401
    assert reason in problem["detail"]
    assert [line["reason"] for line in lines if line["event"] == "a node was refused"] == [problem["detail"]]


async def test_revoked_node_is_refused_behind_a_proxy(stand):
    gone = leaf(await stand.issuer(), sans=(x509.DNSName("gone1"),))
    assert (await ask(stand, standard(gone), "gone1"))[0] == 200
    await stand.authority.revocations.revoke("gone1")
    assert (await ask(stand, standard(gone), "gone1"))[0] == 401


async def test_proxy_that_saw_no_certificate_brings_none(stand):
    status, problem = await ask(stand, {"X-SSL-Verify": "NONE", "X-SSL-Cert": ""})
    assert (status, "no valid credential" in problem["detail"]) == (401, True)


def extract(headers):
    given = CIMultiDict(headers)
    return forwarded_certificate(lambda name: given.getall(name, ()))


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([("Client-Cert", ":AAAA:"), ("X-SSL-Verify", "NONE")], "both came"),
        ([("Client-Cert", ":AAAA:"), ("X-SSL-Cert", "x")], "both came"),
        ([("Client-Cert", ":AAAA:"), ("Client-Cert", ":AAAA:")], "twice"),
        ([("X-SSL-Verify", "SUCCESS"), ("X-SSL-Verify", "FAILED")], "twice"),
        ([("Client-Cert", "AAAA")], ":base64:"),
        ([("Client-Cert", ":A!AA:")], ":base64:"),
        ([("Client-Cert", ":")], ":base64:"),
        ([("Client-Cert", ":" + "A" * 20000 + ":")], "too long"),
        ([("X-SSL-Cert", "x")], "must send X-SSL-Verify"),
        ([("X-SSL-Verify", "SUCCESS")], "no URL-encoded PEM"),
        ([("X-SSL-Verify", "SUCCESS"), ("X-SSL-Cert", "%ff")], "no URL-encoded PEM"),
        ([("X-SSL-Verify", "FAILED:certificate has expired")], "certificate has expired"),
    ],
)
async def test_headers_that_cannot_be_believed_are_refused(headers, reason):
    with pytest.raises(Unauthorized, match=reason):
        extract(headers)


async def test_bytes_that_are_no_certificate_are_refused(stand):
    status, problem = await ask(stand, {"Client-Cert": ":AAAA:"})
    assert (status, problem["detail"]) == (401, "the certificate cannot be read")
