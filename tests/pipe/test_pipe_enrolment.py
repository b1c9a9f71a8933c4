"""Invitations, enrolment over real TLS, renewal; a server that is not the token's gets nothing."""

from __future__ import annotations

import asyncio
import base64
import json
from functools import partial
from ipaddress import ip_address

import pytest
import sqlalchemy as sa
from aiohttp import ClientError, ClientSession, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pytest_asyncio import fixture as async_fixture

from gateway_core import ConfigError, Conflict, Forbidden, Invalid, NotFound, Unauthorized
from gateway_core.errors import BadRequest, TooManyRequests
from gateway_core.testing import running_gateway
from gateway_pipe.identity import authority
from gateway_pipe.identity.authority import Authority
from gateway_pipe.identity.contexts import Verify
from gateway_pipe.identity.enrolment import EnrolmentFailed, enrol, renew_after_expiry, renew_csr
from gateway_pipe.identity.material import NEXT_KEY, install, new_request, read_enrolled, sign_with
from gateway_pipe.identity.renewal import renewal_statement
from gateway_pipe.identity.signing import new_key, signing_request
from gateway_pipe.identity.tokens import new_token, parse_token
from gateway_pipe.tables import certificates, invites
from tests.pipe.identity_stand import identity_stand, leaf, other_issuer, tls_server

pytestmark = pytest.mark.asyncio(loop_scope="module")


@async_fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory, gateway_templates):
    """One for all: each test has names of its own."""
    make = partial(running_gateway, tmp_path_factory.mktemp("gateway"), templates=gateway_templates)
    async with identity_stand(make) as running:
        yield running


async def _expired(stand, folder):
    """What a node has that was off for too long, and that the gateway knows of."""
    await enrol(stand.url, await stand.token(folder.name), folder)
    core = stand.gateway.core
    settings = stand.authority._settings.model_copy(update={"cert_days": -0.001})
    request, use = renew_csr(folder)
    return use(await Authority(core.db, core.keyring, settings).renew(folder.name, request))


async def _post(stand, path, body):
    async with ClientSession(stand.gateway.url) as session, session.post(path, json=body) as response:
        return response.status, await response.json(content_type=None)


async def test_enrolled_node_gets_its_link(stand, tmp_path):
    made = await enrol(stand.url, await stand.token("node1"), tmp_path / "n")
    assert made.name == "node1"
    status, told = await stand.get("/pipe/link/node1", made.context())
    assert (status, told["certificate"]["names"]) == (200, ["node1"])


async def test_key_is_for_its_owner_alone(stand, tmp_path):
    await enrol(stand.url, await stand.token("node2"), tmp_path / "n")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "n").iterdir()}
    assert modes == {"node.key": 0o600, "node.crt": 0o644, "ca.crt": 0o644, "node.json": 0o644}
    assert (tmp_path / "n").stat().st_mode & 0o777 == 0o700
    assert json.loads((tmp_path / "n/node.json").read_text()) == {
        "name": "node2",
        "url": stand.url,
        "verify": "authority",
    }


async def test_key_that_others_may_read_is_not_used(stand, tmp_path):
    await enrol(stand.url, await stand.token("node2b"), tmp_path / "n")
    (tmp_path / "n/node.key").chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        read_enrolled(tmp_path / "n")


async def test_token_is_good_once(stand, tmp_path):
    token = await stand.token("node3")
    await enrol(stand.url, token, tmp_path / "a")
    with pytest.raises(EnrolmentFailed, match="used already"):
        await enrol(stand.url, token, tmp_path / "b")


async def test_of_many_at_once_one_gets_the_certificate(stand):
    token = parse_token(await stand.token("node4"))
    tries = [stand.authority.enrol(token, signing_request(new_key(), "x")) for _ in range(6)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["Gone"] * 5 + ["dict"]


async def test_token_ends(stand, tmp_path):
    with pytest.raises(EnrolmentFailed, match="has expired"):
        await enrol(stand.url, await stand.token("node5", ttl_s=0.001), tmp_path / "n")


async def test_guessed_secret_learns_nothing(stand):
    token = parse_token(await stand.token("node6"))
    guess = new_token(token.pin)
    guessed = type(token)(token.id, guess.secret, token.pin)
    csr = signing_request(new_key(), "x")
    for wrong in (guessed, guess):
        with pytest.raises(Unauthorized, match="no such invitation"):
            await stand.authority.enrol(wrong, csr)
    await stand.authority.enrol(token, csr)


async def test_secret_is_not_in_the_database(stand):
    token = parse_token(await stand.token("node7"))
    async with stand.gateway.core.db.read() as tx:
        row = await tx.first(sa.select(invites).where(invites.c.id == token.id))
    assert token.secret not in repr(row)
    assert token.secret not in repr(token)


@pytest.mark.parametrize("text", ["", "gwp_", "gw_abc", "gwp_0011223344556677_00_x"])
async def test_other_words_are_no_tokens(text):
    with pytest.raises(BadRequest, match="no token"):
        parse_token(text)


async def test_wrong_pin_is_noticed_before_anything_is_sent(stand, tmp_path):
    token = parse_token(await stand.token("node8"))
    with pytest.raises(EnrolmentFailed, match="not the gateway that made the token"):
        await enrol(stand.url, type(token)(token.id, token.secret, other_issuer().pin).text, tmp_path / "n")
    await enrol(stand.url, token.text, tmp_path / "n")


@pytest.mark.parametrize("shown", ["its own certificate", "a node's certificate"])
async def test_somebody_in_between_gets_neither_token_nor_request(stand, tmp_path, shown):
    issuer, asked = await stand.issuer(), []

    async def relay(request):
        asked.append((request.method, request.path, await request.read()))
        return web.Response(text=issuer.pem)

    certificate = leaf(other_issuer() if shown == "its own certificate" else issuer)
    async with tls_server(certificate, tmp_path, relay) as url:
        with pytest.raises(EnrolmentFailed, match="nothing was sent"):
            await enrol(url, await stand.token("node9"), tmp_path / "n")
    assert asked == [("GET", "/pipe/ca", b"")]


async def test_certificate_of_the_authority_for_servers_without_the_mark_is_no_gateway(stand, tmp_path):
    issuer = await stand.issuer()
    host = leaf(issuer, sans=(x509.DNSName("localhost"),), usage=x509.oid.ExtendedKeyUsageOID.SERVER_AUTH)

    async def relay(_request):
        return web.Response(text=issuer.pem)

    async with tls_server(host, tmp_path, relay) as url:
        with pytest.raises(EnrolmentFailed, match="nothing was sent"):
            await enrol(url, await stand.token("node10"), tmp_path / "n")


async def test_authorities_behind_the_pinned_one_are_not_trusted(stand, tmp_path):
    issuer, other = await stand.issuer(), other_issuer()

    async def relay(_request):
        return web.Response(text=issuer.pem + other.pem)

    async with tls_server(leaf(other), tmp_path, relay) as url:
        with pytest.raises(EnrolmentFailed):
            await enrol(url, await stand.token("node11"), tmp_path / "n")


async def test_token_is_not_sent_in_the_open(tmp_path):
    with pytest.raises(ConfigError, match="https"):
        await enrol("http://gateway.example:8000", new_token(bytes(32)).text, tmp_path / "n")


async def test_main_port_on_this_machine_enrols_too(stand, tmp_path):
    made = await enrol(stand.gateway.url, await stand.token("node12"), tmp_path / "n")
    assert (await stand.get("/pipe/link/node12", made.context()))[0] == 200


async def test_identity_is_not_overwritten_unless_forced(stand, tmp_path):
    token = await stand.token("node13")
    await enrol(stand.url, await stand.token("node13"), tmp_path / "n")
    with pytest.raises(ConfigError, match="--force"):
        await enrol(stand.url, token, tmp_path / "n")
    assert (await enrol(stand.url, token, tmp_path / "n", force=True)).name == "node13"


async def test_only_the_key_of_a_request_is_taken(stand):
    key = new_key()
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("pipe:boss")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    csr = request.public_bytes(serialization.Encoding.PEM).decode()
    answer = await stand.authority.enrol(parse_token(await stand.token("node14")), csr)
    made = x509.load_pem_x509_certificate(answer["certificate"].encode())
    sans = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [san.value for san in sans] == ["pipe:node14", "node14"]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert made.public_key() == key.public_key()


async def test_certificates_are_as_the_web_profile_demands(stand):
    from cryptography.x509.verification import PolicyBuilder, Store

    issuer = await stand.issuer()
    signed = issuer.sign_node(signing_request(new_key(), "x"), "node15", days=30)
    verifier = PolicyBuilder().store(Store([issuer.certificate])).build_client_verifier()
    verified = verifier.verify(x509.load_pem_x509_certificate(signed.pem.encode()), [])
    assert [name.value for name in verified.subjects] == ["pipe:node15", "node15"]


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(lambda: ec.generate_private_key(ec.SECP384R1()), id="P-384"),
        pytest.param(ed25519.Ed25519PrivateKey.generate, id="Ed25519"),
        pytest.param(lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048), id="RSA"),
    ],
)
async def test_strong_keys_of_other_kinds_are_signed(stand, key):
    assert (await stand.authority.renew("node16", _csr(key())))["name"] == "node16"


@pytest.mark.parametrize(
    "csr",
    [
        pytest.param(lambda: _csr(rsa.generate_private_key(public_exponent=65537, key_size=1024)), id="RSA-1024"),
        pytest.param(lambda: _csr(ec.generate_private_key(ec.SECP256K1())), id="another curve"),
        pytest.param(
            lambda: "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----", id="garbage"
        ),
        pytest.param(lambda: "\x00ü", id="no text"),
        pytest.param(lambda: _broken(_csr(new_key())), id="of another key"),
    ],
)
async def test_requests_that_are_no_good_are_told_so(stand, csr):
    with pytest.raises(Invalid) as refused:
        await stand.authority.renew("node17", csr())
    assert "csr" in refused.value.errors


def _csr(key):
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, digest)
    return request.public_bytes(serialization.Encoding.PEM).decode()


def _broken(csr):
    """With the key of another one in the place of its own."""
    ours = x509.load_pem_x509_csr(csr.encode())
    der = ours.public_bytes(serialization.Encoding.DER)

    def point(key):
        return key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)

    forged = der.replace(point(ours.public_key()), point(new_key().public_key()))
    return (
        "-----BEGIN CERTIFICATE REQUEST-----\n"
        + base64.encodebytes(forged).decode()
        + "-----END CERTIFICATE REQUEST-----\n"
    )


async def test_renewal_brings_a_new_key(stand, tmp_path):
    old = await enrol(stand.url, await stand.token("node18"), tmp_path / "n")
    before = (old.key.read_text(), old.cert.read_text())
    request, use = renew_csr(tmp_path / "n")
    assert read_enrolled(tmp_path / "n").key.read_text() == before[0]
    new = use(await stand.authority.renew("node18", request))
    assert before[0] != new.key.read_text()
    assert (await stand.get("/pipe/link/node18", new.context()))[0] == 200


async def test_renewal_that_was_cut_off_between_its_files_is_completed(stand, tmp_path):
    folder = tmp_path / "n"
    await enrol(stand.url, await stand.token("node19"), folder)
    request = new_request(folder, "node19")
    answer = await stand.authority.renew("node19", request)
    (folder / "node.crt").write_text(answer["certificate"])
    assert (folder / NEXT_KEY).exists()
    found = read_enrolled(folder)
    assert not (folder / NEXT_KEY).exists()
    assert (await stand.get("/pipe/link/node19", found.context()))[0] == 200


async def test_certificate_for_another_key_is_not_installed(stand, tmp_path):
    folder = tmp_path / "n"
    await enrol(stand.url, await stand.token("node20"), folder)
    new_request(folder, "node20")
    with pytest.raises(ConfigError, match="another key"):
        install(folder, await stand.authority.renew("node20", signing_request(new_key(), "x")))
    assert (await stand.get("/pipe/link/node20", read_enrolled(folder).context()))[0] == 200


async def test_link_that_outlives_a_revocation_gets_no_certificate_though_the_name_is_invited_again(stand, tmp_path):
    old = await enrol(stand.url, await stand.token("node22"), tmp_path / "n")
    serial = f"{x509.load_pem_x509_certificate(old.cert.read_bytes()).serial_number:x}"
    csr = signing_request(new_key(), "x")
    assert (await stand.authority.renew("node22", csr, serial=serial))["name"] == "node22"
    await stand.authority.revocations.revoke("node22")
    await stand.token("node22")
    with pytest.raises(Forbidden, match="revoked"):
        await stand.authority.renew("node22", csr, serial=serial)


async def test_node_that_renews_without_a_pause_is_stopped(stand, monkeypatch):
    monkeypatch.setattr(authority, "_MOST_RENEWALS", 3)
    csr = signing_request(new_key(), "x")
    for _ in range(3):
        await stand.authority.renew("node23", csr)
    with pytest.raises(TooManyRequests):
        await stand.authority.renew("node23", csr)
    assert (await stand.authority.renew("node24", csr))["name"] == "node24"


async def test_folder_of_somebody_else_keeps_its_mode(stand, tmp_path):
    (tmp_path / "file").touch()
    tmp_path.chmod(0o755)
    made = await enrol(stand.url, await stand.token("node25"), tmp_path)
    assert (tmp_path.stat().st_mode & 0o777, made.key.stat().st_mode & 0o777) == (0o755, 0o600)


async def test_revoked_node_gets_no_renewal(stand, tmp_path):
    await enrol(stand.url, await stand.token("node21"), tmp_path / "node21")
    await stand.authority.revocations.revoke("node21")
    with pytest.raises(Forbidden, match="revoked"):
        await stand.authority.renew("node21", signing_request(new_key(), "x"))
    with pytest.raises(EnrolmentFailed, match="revoked"):
        await renew_after_expiry(tmp_path / "node21")


async def test_revocation_withdraws_open_invitations(stand, tmp_path):
    token = await stand.token("node22")
    await stand.authority.revocations.revoke("node22")
    with pytest.raises(EnrolmentFailed, match="no such invitation"):
        await enrol(stand.url, token, tmp_path / "n")


async def test_expired_node_renews_by_itself(stand, tmp_path):
    old = await _expired(stand, tmp_path / "node23")
    assert old.expired
    with pytest.raises((OSError, ClientError)):
        await stand.get("/pipe/link/node23", old.context())
    new = await renew_after_expiry(tmp_path / "node23")
    assert not new.expired
    assert (await stand.get("/pipe/link/node23", new.context()))[0] == 200


async def test_node_that_expired_long_ago_needs_an_invitation(stand, tmp_path):
    await _expired(stand, tmp_path / "node24")
    long_ago = certificates.c.expires - 91 * 86400
    async with stand.gateway.core.db.write() as tx:
        await tx.execute(sa.update(certificates).where(certificates.c.name == "node24").values(expires=long_ago))
    with pytest.raises(EnrolmentFailed, match="too long ago"):
        await renew_after_expiry(tmp_path / "node24")


async def test_certificate_alone_renews_nothing(stand, tmp_path):
    old = await _expired(stand, tmp_path / "node25")
    csr = signing_request(new_key(), "x")
    other = tmp_path / "other"
    await enrol(stand.url, await stand.token("node26"), other)
    stolen = {
        "csr": csr,
        "certificate": old.cert.read_text(),
        "signature": base64.b64encode(sign_with(other / "node.key", renewal_statement(csr))).decode(),
    }
    status, problem = await _post(stand, "/pipe/renew", stolen)
    assert (status, problem["detail"]) == (401, "the renewal is not signed with the key of that certificate")


async def test_certificate_of_another_authority_renews_nothing(stand):
    foreign, csr = leaf(other_issuer()), signing_request(new_key(), "x")
    signature = foreign.key.sign(renewal_statement(csr), ec.ECDSA(hashes.SHA256()))
    body = {"csr": csr, "certificate": foreign.pem, "signature": base64.b64encode(signature).decode()}
    status, problem = await _post(stand, "/pipe/renew", body)
    assert status == 401
    assert "not trusted" in problem["detail"]


async def test_renewal_is_due_at_two_thirds_of_the_life(stand, tmp_path):
    made = await enrol(stand.url, await stand.token("node27"), tmp_path / "n")
    life = made.expires - (made.begins + 300)
    assert life == pytest.approx(30 * 86400, abs=2)
    assert made.renew_at == pytest.approx(made.expires - life / 3)


async def test_wrong_attempts_are_slowed_down(make_gateway):
    async with identity_stand(make_gateway, listen=False) as stand:
        body = {"token": new_token(bytes(32)).text, "csr": "x"}
        answers = [(await _post(stand, "/pipe/enrol", body))[0] for _ in range(12)]
        assert answers == [401] * 10 + [429] * 2


async def test_authority_is_made_once_and_invites_only_when_made(make_gateway):
    async with identity_stand(make_gateway, ca=False, listen=False) as stand:
        with pytest.raises(NotFound, match="ca init"):
            await stand.authority.invite("node1", ttl_s=60)
        assert (await _post(stand, "/pipe/enrol", {"token": "x", "csr": "x"}))[0] == 401
        await stand.authority.init()
        with pytest.raises(Conflict, match="already"):
            await stand.authority.init()


async def test_authority_outlives_the_key_it_was_encrypted_under(make_gateway):
    from gateway_core.auth.keyring import Keyring
    from gateway_core.errors import StartupError

    old, new = "old key of 16 characters", "new key of 16 characters"
    async with identity_stand(make_gateway, listen=False, secret_key=(old,)) as stand:
        db, settings, pin = stand.gateway.core.db, stand.authority._settings, (await stand.issuer()).pin
        with pytest.raises(StartupError, match="SECRET_KEY"):
            await Authority(db, Keyring([new]), settings).issuer("nodes")
        await Authority(db, Keyring([new, old]), settings).check_keys()
        assert (await Authority(db, Keyring([new]), settings).issuer("nodes")).pin == pin


async def test_sweep_forgets_what_nobody_needs(stand):
    await stand.token("node28", ttl_s=0.001)
    kept = await stand.token("node28")
    await stand.authority.sweep()
    async with stand.gateway.core.db.read() as tx:
        left = await tx.rows(sa.select(invites.c.id).where(invites.c.name == "node28"))
    assert [row.id for row in left] == [parse_token(kept).id]


async def test_gateway_behind_a_proxy_with_a_public_certificate_is_known_by_the_system(stand, tmp_path, monkeypatch):
    public = other_issuer()
    store = tmp_path / "system.pem"
    store.write_text(public.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(store))
    certificate = leaf(
        public, sans=(x509.IPAddress(ip_address("127.0.0.1")),), usage=x509.oid.ExtendedKeyUsageOID.SERVER_AUTH
    )

    async def pass_on(request):
        async with ClientSession(stand.gateway.url) as session:
            async with session.request(request.method, request.path, data=await request.read()) as answer:
                return web.Response(body=await answer.read(), status=answer.status)

    async with tls_server(certificate, tmp_path, pass_on) as url:
        made = await enrol(url, await stand.token("node29"), tmp_path / "n")
        assert (made.verify, made.ca) == (Verify.SYSTEM, None)
        assert not (await renew_after_expiry(tmp_path / "n")).expired
