"""Credentials over HTTP: the forms in which a secret may come, and all in which a token must not (RFC 8725)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
import pytest_asyncio
from aiohttp import ClientSession, web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway_core import Client, Identity, Route, Unauthorized, client_of, hookimpl
from gateway_core.auth.secrets import new_secret
from gateway_core.auth.store import NewClient
from gateway_core.testing.harness import RunningGateway, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")
AUDIENCE = "content-gateway"
SCOPE = "probe:use"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RSA_PRIVATE = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
PEM = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = RSA_KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


async def who(request: web.Request) -> web.Response:
    """The caller's name."""
    return web.Response(text=client_of(request).name)


class Sesame:
    """``Sesame: open`` is anybody's; ``Sesame: shut`` is a bad credential."""

    async def authenticate(self, request: web.Request) -> Identity | None:
        """As above."""
        word = request.headers.get("Sesame")
        if word == "shut":
            raise Unauthorized("shut")
        return Identity(Client("0" * 32, "sesame", frozenset({SCOPE}))) if word == "open" else None


PROBE = SimpleNamespace(
    gateway_routes=hookimpl(
        lambda gateway: [
            Route(method="GET", path="/x", name="x", handler=who, scope=SCOPE),
            Route(method="GET", path="/public", name="public", handler=who, public=True),
        ]
    ),
    gateway_authenticators=hookimpl(lambda gateway: [Sesame()]),
)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    """One gateway for all: nothing here changes what others see."""
    folder = tmp_path_factory.mktemp("authenticators")
    async with running_gateway(folder, settings={"plugins": "probe"}, plugins={"probe": PROBE}) as gateway:
        yield gateway


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def session(running: RunningGateway) -> AsyncIterator[ClientSession]:
    async with running.session() as http:
        yield http


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def known(running: RunningGateway) -> tuple[Client, str]:
    """A client with the scope, and its secret."""
    return await running.core.clients.add(NewClient("ckan", frozenset({SCOPE})))


async def answer(session: ClientSession, *values: str, header: str = "Authorization") -> tuple[int, str]:
    """Status and text of the guarded route with these Authorization headers."""
    async with session.get("/x", headers=[(header, value) for value in values]) as response:
        return response.status, await response.text()


# Secrets


@pytest.mark.parametrize("form", ["{secret}", "Bearer {secret}", "bearer {secret}", "BEARER   {secret}", "{secret} "])
async def test_a_secret_comes_alone_or_as_bearer(session: ClientSession, known: tuple[Client, str], form: str) -> None:
    assert await answer(session, form.format(secret=known[1])) == (200, "ckan")


WRONG_KEYS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "empty": lambda _: ("",),
    "scheme alone": lambda _: ("Bearer",),
    "scheme and nothing": lambda _: ("Bearer ",),
    "prefix only": lambda secret: (secret[:9],),
    "another form of ours": lambda _: (new_secret(),),
    "wrong checksum": lambda secret: (secret[:-1] + ("0" if secret[-1] != "0" else "1"),),
    "cut": lambda secret: (secret[:-1],),
    "padded": lambda secret: (secret + "A",),
    "padded within": lambda secret: (secret[:10] + " " + secret[10:],),
    "lower case": lambda secret: (secret.lower(),),
    "other scheme": lambda secret: (f"Basic {base64.b64encode(f'ckan:{secret}'.encode()).decode()}",),
    "unknown scheme": lambda secret: (f"Token {secret}",),
    "unicode": lambda secret: (secret[:-1] + "é",),
    "8 kB": lambda secret: (secret + "A" * 7000,),
    "two headers": lambda secret: (secret, secret),
    "two headers, one wrong": lambda secret: ("wrong", secret),
    "two in one": lambda secret: (f"{secret}, {secret}",),
    "quoted": lambda secret: (f'"{secret}"',),
    "twice bearer": lambda secret: (f"Bearer Bearer {secret}",),
    "percent-encoded": lambda secret: ("".join(f"%{ord(c):02x}" for c in secret),),
}


@pytest.mark.parametrize("form", WRONG_KEYS)
async def test_other_forms_of_a_secret_are_refused(
    session: ClientSession, known: tuple[Client, str], form: str
) -> None:
    status, text = await answer(session, *WRONG_KEYS[form](known[1]))
    assert status == 401
    assert known[1] not in text


async def test_a_secret_counts_nowhere_but_in_its_header(session: ClientSession, known: tuple[Client, str]) -> None:
    secret = known[1]
    for header in ("X-Api-Key", "Proxy-Authorization", "Cookie", "X-Authorization"):
        assert (await answer(session, secret, header=header))[0] == 401
    async with session.get(
        "/x", params={"secret": secret, "access_token": secret, "Authorization": secret}
    ) as response:
        assert response.status == 401


GATEWAYS = "X-Gateway-Authorization"


@pytest.mark.parametrize("form", ["{secret}", "Bearer {secret}"])
async def test_a_credential_in_the_gateways_own_header_leaves_the_other_alone(
    session: ClientSession, known: tuple[Client, str], form: str
) -> None:
    headers = {GATEWAYS: form.format(secret=known[1]), "Authorization": "Basic dXNlcjpwYXNz"}
    async with session.get("/x", headers=headers) as response:
        assert (response.status, await response.text()) == (200, "ckan")


@pytest.mark.parametrize("value", ["", "wrong", "Basic x"])
async def test_where_the_gateways_own_header_is_wrong_the_other_does_not_count(
    session: ClientSession, known: tuple[Client, str], value: str
) -> None:
    async with session.get("/x", headers={GATEWAYS: value, "Authorization": known[1]}) as response:
        assert response.status == 401


async def test_a_credential_comes_once_in_the_gateways_own_header(
    session: ClientSession, known: tuple[Client, str]
) -> None:
    assert (await answer(session, known[1], known[1], header=GATEWAYS))[0] == 401


async def test_revoked_expired_and_scopeless_clients_are_refused(
    running: RunningGateway, session: ClientSession
) -> None:
    clients = running.core.clients
    _, revoked = await clients.add(NewClient("revoked", frozenset({SCOPE})))
    await clients.revoke("revoked")
    _, expired = await clients.add(NewClient("expired", frozenset({SCOPE}), expires=time.time() - 1))
    _, scopeless = await clients.add(NewClient("scopeless", frozenset({"probe:other"})))
    assert (await answer(session, revoked))[0] == 401
    assert (await answer(session, expired))[0] == 401
    assert (await answer(session, scopeless))[0] == 403


async def test_a_refusal_names_the_scheme_and_not_what_was_wrong(
    session: ClientSession, known: tuple[Client, str]
) -> None:
    texts = set()
    for value in (new_secret(), "unknown", known[1][:-1]):
        async with session.get("/x", headers={"Authorization": value}) as response:
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="gateway"'
            texts.add(await response.text())
    assert len(texts) == 1


# The chain


async def test_authenticators_of_plugins_come_after_the_cores(
    session: ClientSession, known: tuple[Client, str]
) -> None:
    assert await answer(session, "open", header="Sesame") == (200, "sesame")
    for authorization, sesame, wanted in ((known[1], "shut", 200), ("wrong", "open", 200), ("wrong", "shut", 401)):
        async with session.get("/x", headers={"Authorization": authorization, "Sesame": sesame}) as response:
            assert response.status == wanted
            if authorization == known[1]:
                assert await response.text() == "ckan"


# Tokens


def now() -> int:
    return int(time.time())


def claims(client: Client, **changes: Any) -> dict[str, Any]:
    made = {"iss": client.name, "aud": AUDIENCE, "exp": now() + 60, **changes}
    return {name: value for name, value in made.items() if value is not ...}


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(secret: bytes | str, payload: Any, *, digest: str = "sha256", **header: Any) -> str:
    """A token by hand, so that it may be as wrong as wanted; ``payload`` may be bytes."""
    key = secret.encode() if isinstance(secret, str) else secret
    body = f"{part({'alg': 'HS256', 'typ': 'JWT', **header})}.{part(payload)}"
    return f"{body}.{part(hmac.digest(key, body.encode(), digest))}"


async def test_a_token_of_the_clients_secret_is_the_client(session: ClientSession, known: tuple[Client, str]) -> None:
    client, secret = known
    for issuer in (client.name, client.id, f"{client.id[:8]}-{client.id[8:]}".upper()):
        token = jwt.encode(claims(client, iss=issuer), secret, algorithm="HS256")
        assert await answer(session, f"Bearer {token}") == (200, "ckan")
        assert await answer(session, f"bearer  {token}") == (200, "ckan")


@pytest.mark.parametrize(
    "changes",
    [
        lambda: {"exp": now() + 10**6},
        lambda: {"exp": now() + 60.5},
        lambda: {"nbf": now() + 10},
        lambda: {"exp": now() - 10},
        lambda: {"iat": now(), "sub": "x", "jti": "x", "own": {"nested": []}},
    ],
    ids=["far", "fraction", "clock behind", "clock ahead", "more claims"],
)
async def test_tokens_within_the_leeway_and_with_more_claims_hold(
    session: ClientSession, known: tuple[Client, str], changes: Callable[[], dict[str, Any]]
) -> None:
    token = signed(known[1], claims(known[0], **changes()))
    assert (await answer(session, f"Bearer {token}"))[0] == 200


async def test_a_short_imported_secret_signs_tokens_too(running: RunningGateway, session: ClientSession) -> None:
    client, secret = await running.core.clients.add(NewClient("old", frozenset({SCOPE}), secret="short"))
    assert await answer(session, f"Bearer {signed(secret, claims(client))}") == (200, "old")


HUGE = b'{"iss": "ckan", "aud": "content-gateway", "exp": 1e999}'
FORMS: dict[str, Callable[[Client, str], str]] = {
    "alg none": lambda c, _: f"{part({'alg': 'none'})}.{part(claims(c))}.",
    "alg None": lambda c, _: f"{part({'alg': 'None'})}.{part(claims(c))}.",
    "alg nOnE with a signature": lambda c, s: signed(s, claims(c), alg="nOnE"),
    "no alg": lambda c, s: signed(s, claims(c), alg=None),
    "alg list": lambda c, s: signed(s, claims(c), alg=["HS256", "none"]),
    "HS384": lambda c, s: signed(s, claims(c), digest="sha384", alg="HS384"),
    "HS512": lambda c, s: signed(s, claims(c), digest="sha512", alg="HS512"),
    "RS256": lambda c, _: jwt.encode(claims(c), RSA_PRIVATE, algorithm="RS256"),
    "HS256 under a public key, PEM": lambda c, _: signed(PEM, claims(c)),
    "HS256 under a public key, DER": lambda c, _: signed(DER, claims(c)),
    "HS256 under a key in the header": lambda c, _: signed(
        b"k", claims(c), jwk={"kty": "oct", "k": part(b"k"), "alg": "HS256"}
    ),
    "jku": lambda c, _: signed(b"k", claims(c), jku="http://127.0.0.1:1/keys"),
    "x5u": lambda c, _: signed(b"k", claims(c), x5u="http://127.0.0.1:1/cert"),
    "x5c": lambda c, _: signed(b"k", claims(c), x5c=[base64.b64encode(DER).decode()]),
    "kid of an empty file": lambda c, _: signed(b"", claims(c), kid="../../../../dev/null"),
    "kid with SQL": lambda c, _: signed(b"x", claims(c), kid="' UNION SELECT 'x' --"),
    "empty key": lambda c, _: signed(b"", claims(c)),
    "key is the digest of the secret": lambda c, s: signed(hashlib.sha256(s.encode()).hexdigest(), claims(c)),
    "empty signature": lambda c, s: signed(s, claims(c)).rpartition(".")[0] + ".",
    "stripped signature": lambda c, s: signed(s, claims(c)).rpartition(".")[0],
    "cut signature": lambda c, s: signed(s, claims(c))[:-2],
    "four parts": lambda c, s: signed(s, claims(c)) + ".x",
    "two dots alone": lambda _c, _s: "..",
    "changed payload": lambda c, s: _with_payload(signed(s, claims(c)), claims(c, iss="admin")),
    "crit": lambda c, s: signed(s, claims(c), crit=["exp"], exp=1),
    "unknown crit": lambda c, s: signed(s, claims(c), crit=["b64", "mine"], b64=False),
    "no audience": lambda c, s: signed(s, claims(c, aud=...)),
    "another audience": lambda c, s: signed(s, claims(c, aud="other")),
    "audience begins alike": lambda c, s: signed(s, claims(c, aud="content-gateway.evil.example")),
    "list of audiences": lambda c, s: signed(s, claims(c, aud=["other", AUDIENCE])),
    "audience is an object": lambda c, s: signed(s, claims(c, aud={AUDIENCE: 1})),
    "no issuer": lambda c, s: signed(s, claims(c, iss=...)),
    "nobody's name": lambda c, s: signed(s, claims(c, iss="nobody")),
    "issuer begins alike": lambda c, s: signed(s, claims(c, iss="cka")),
    "issuer goes on": lambda c, s: signed(s, claims(c, iss="ckan ")),
    "issuer in other case": lambda c, s: signed(s, claims(c, iss="CKAN")),
    "issuer is a list": lambda c, s: signed(s, claims(c, iss=["ckan"])),
    "issuer with a NUL": lambda c, s: signed(s, claims(c, iss="ckan\x00")),
    "issuer with half a pair": lambda c, s: signed(s, b'{"iss": "\\ud800", "aud": "content-gateway", "exp": 9e9}'),
    "no expiry": lambda c, s: signed(s, claims(c, exp=...)),
    "expiry null": lambda c, s: signed(s, claims(c, exp=None)),
    "expiry is a text": lambda c, s: signed(s, claims(c, exp=str(now() + 600))),
    "expiry is a list": lambda c, s: signed(s, claims(c, exp=[now() + 600])),
    "expiry true": lambda c, s: signed(s, claims(c, exp=True)),
    "expired": lambda c, s: signed(s, claims(c, exp=now() - 60)),
    "expired for ever": lambda c, s: signed(s, claims(c, exp=-(10**18))),
    "expiry 1e300": lambda c, s: signed(s, claims(c, exp=1e300)),
    "expiry beyond numbers": lambda _, s: signed(s, HUGE),
    "expiry no number": lambda _, s: signed(s, HUGE.replace(b"1e999", b"NaN")),
    "not yet": lambda c, s: signed(s, claims(c, nbf=now() + 600)),
    "begins with a text": lambda c, s: signed(s, claims(c, nbf="soon")),
    "begins with a list": lambda c, s: signed(s, claims(c, nbf=[1])),
    "issued with an object": lambda c, s: signed(s, claims(c, iat={})),
    "issued later": lambda c, s: signed(s, claims(c, iat=now() + 600)),
    "issuer twice": lambda c, _: signed(
        b"k", b'{"iss": "ckan", "aud": "content-gateway", "exp": 9e9, "iss": "nobody"}'
    ),
    "payload is a list": lambda c, s: signed(s, [claims(c)]),
    "payload is a text": lambda _, s: signed(s, b'"ckan"'),
    "payload is no JSON": lambda _, s: signed(s, b"{"),
    "payload is no UTF-8": lambda _, s: signed(s, b"\xff"),
    "payload is deep": lambda _, s: signed(s, b"[" * 2500),
    "header is a list": lambda c, _: f"{part(['HS256'])}.{part(claims(c))}.x",
    "no base64": lambda _c, _s: "a!.b!.c!",
    "encrypted, of much": lambda _c, _s: ".".join(
        (
            part({"alg": "dir", "enc": "A256GCM", "zip": "DEF"}),
            "",
            part(b"0" * 12),
            part(zlib.compress(b"0" * 10**6)),
            "x",
        )
    ),
}


def _with_payload(token: str, payload: Any) -> str:
    head, _, signature = token.split(".")
    return f"{head}.{part(payload)}.{signature}"


@pytest.mark.parametrize("form", FORMS)
async def test_a_token_of_another_form_is_refused_and_is_no_error_of_ours(
    session: ClientSession, known: tuple[Client, str], form: str
) -> None:
    status, text = await answer(session, f"Bearer {FORMS[form](*known)}")
    assert status == 401, text
    assert known[1] not in text


async def test_a_token_longer_than_a_header_is_refused_before_it_is_read(
    session: ClientSession, known: tuple[Client, str]
) -> None:
    token = signed(known[1], claims(known[0], own="x" * (1 << 20)))
    async with session.get("/x", headers={"Authorization": f"Bearer {token}"}) as response:
        assert response.status == 400


async def test_a_token_beside_another_credential_is_refused(session: ClientSession, known: tuple[Client, str]) -> None:
    token = f"Bearer {signed(known[1], claims(known[0]))}"
    assert (await answer(session, token, "Bearer other"))[0] == 401
    assert (await answer(session, token, token))[0] == 401


async def test_a_token_without_bearer_is_refused(session: ClientSession, known: tuple[Client, str]) -> None:
    token = signed(known[1], claims(known[0]))
    assert (await answer(session, token))[0] == 401
    assert (await answer(session, f"JWT {token}"))[0] == 401


@pytest.mark.parametrize("end", ["rotate", "revoke"])
async def test_tokens_end_with_their_clients_secret(running: RunningGateway, session: ClientSession, end: str) -> None:
    client, secret = await running.core.clients.add(NewClient(f"to {end}", frozenset({SCOPE})))
    token = f"Bearer {signed(secret, claims(client))}"
    assert (await answer(session, token))[0] == 200
    await getattr(running.core.clients, end)(client.name)
    assert (await answer(session, token))[0] == 401


async def test_a_token_of_one_client_is_not_good_for_another(
    running: RunningGateway, session: ClientSession, known: tuple[Client, str]
) -> None:
    _, secret = await running.core.clients.add(NewClient("other", frozenset({SCOPE})))
    assert (await answer(session, f"Bearer {signed(secret, claims(known[0]))}"))[0] == 401


async def test_a_token_gives_no_more_than_its_clients_scopes(running: RunningGateway, session: ClientSession) -> None:
    client, secret = await running.core.clients.add(NewClient("little", frozenset({"probe:other"})))
    token = signed(secret, claims(client, scope=SCOPE, scopes=[SCOPE]))
    assert (await answer(session, f"Bearer {token}"))[0] == 403


@pytest.mark.parametrize("form", ["alg none", "expired", "issuer with a NUL", "payload is no UTF-8"])
async def test_a_bad_token_on_a_public_route_is_nobody(
    session: ClientSession, known: tuple[Client, str], form: str
) -> None:
    async with session.get("/public", headers={"Authorization": f"Bearer {FORMS[form](*known)}"}) as response:
        assert (response.status, await response.text()) == (200, "anonymous")


async def test_a_token_may_come_in_the_gateways_own_header(session: ClientSession, known: tuple[Client, str]) -> None:
    client, secret = known
    token = f"Bearer {signed(secret, claims(client))}"
    assert await answer(session, token, header=GATEWAYS) == (200, "ckan")
