"""A plugin that goes through the seams of the core as the built-in ones do: each hook once, each kind of route once."""

from __future__ import annotations

import hmac
import os
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
from aiohttp import WSMsgType, web
from pydantic import Field
from sqlalchemy import Column, MetaData, String, Table, insert, select

from gateway_core import (
    Authenticator,
    Body,
    Client,
    Degraded,
    Gateway,
    GatewayError,
    Identity,
    Kind,
    Listener,
    MigrationSource,
    ObjectMissing,
    PluginSettings,
    Route,
    Source,
    SourceChanged,
    SourceGone,
    SourceInfo,
    SourceRefused,
    SourceRequest,
    StateKey,
    Storage,
    StoredObject,
    Unauthorized,
    client_of,
    hookimpl,
    hookspec,
)
from gateway_core.cli import run
from gateway_core.http.body import body, read_body
from gateway_core.http.stream import open_response
from gateway_core.http.ws import open_websocket
from gateway_core.storage.local import LocalStorage

GOOD_ORIGIN = "https://good.example"
notes = Table("seam_notes", MetaData(), Column("text", String(64), primary_key=True))


class SeamSettings(PluginSettings):
    """What the tests switch on."""

    bind: str = Field("127.0.0.1:0", description="Where the listener listens")
    certificate: str = Field("", description="PEM file of the listener; without one there is no listener")
    authority: str = Field("", description="PEM file of those who sign client certificates")
    turns: str = Field("", description="File to which each turn of the periodic task adds a line")
    period_s: float = Field(1.0, description="Of the periodic task")
    degraded: bool = Field(default=False, description="What the health check says")


@dataclass
class Live:
    """What the plugin holds while it runs."""

    role: str
    echoed: list[str] = field(default_factory=list)


LIVE: StateKey[Live] = StateKey("seam.live", Live)


class SeamSpecs:
    """Hooks by which other plugins extend this one."""

    @hookspec
    def seam_words(self, length: int) -> Iterable[str]:
        """Return words of that length."""


class BodyMac:
    """The body must have the HMAC-SHA256 that was announced for it."""

    def __init__(self, secret: str, announced: str) -> None:
        self._mac = hmac.new(secret.encode(), digestmod="sha256")
        self._announced = announced

    def update(self, chunk: bytes) -> None:
        self._mac.update(chunk)

    def finish(self) -> None:
        if not hmac.compare_digest(self._mac.hexdigest(), self._announced):
            raise Unauthorized("the body is not the one that was signed")


class MacAuthenticator:
    """``Seam-Mac: <client's name> <hex HMAC of the body>``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def authenticate(self, request: web.Request) -> Identity | None:
        name, _, mac = request.headers.get("Seam-Mac", "").partition(" ")
        client = await self._gateway.clients.find(name) if mac else None
        if client is None:
            return None
        return Identity(client, BodyMac(await self._gateway.clients.secret_of(client.id), mac))


class CertificateAuthenticator:
    """A client certificate whose common name is a client's."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def authenticate(self, request: web.Request) -> Identity | None:
        certificate = request.get_extra_info("peercert") or {}
        names = dict(pair for group in certificate.get("subject", ()) for pair in group)
        client = await self._gateway.clients.find(names["commonName"]) if names else None
        return None if client is None else Identity(client)


class SeamSource:
    """``seam://<client id>/<name>``: bytes in the gateway's storage that only their owner may use."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def check(self, url: str, client: Client) -> None:
        if self._place(url)[0] != client.id:
            raise SourceRefused("somebody else's")

    async def probe(self, request: SourceRequest) -> SourceInfo:
        return self._info(await self._stat(request), request)

    @asynccontextmanager
    async def open(self, request: SourceRequest) -> AsyncIterator[SeamStream]:
        stored = await self._stat(request)
        if request.offset > stored.size_bytes:
            raise SourceChanged("shorter than that")
        async with self._gateway.storage.open(stored.key, offset=request.offset) as chunks:
            if await self._stat(request) != stored:
                raise SourceChanged("replaced just now")
            yield SeamStream(self._info(stored, request), chunks)

    def lane(self, url: str) -> str:
        return "seam"

    async def _stat(self, request: SourceRequest) -> StoredObject:
        await self.check(request.url, request.client)
        owner, name = self._place(request.url)
        try:
            stored = await self._gateway.storage.stat(f"seam/{owner}/{name}")
        except (ObjectMissing, ValueError) as error:
            raise SourceGone("no such thing") from error
        if request.validator not in {None, f'"{stored.sha256}"'}:
            raise SourceChanged("another version")
        return stored

    def _info(self, stored: StoredObject, request: SourceRequest) -> SourceInfo:
        name = self._place(request.url)[1]
        return SourceInfo(
            size_bytes=stored.size_bytes, validator=f'"{stored.sha256}"', strong=True, name=name, ranges=True
        )

    def _place(self, url: str) -> tuple[str, str]:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise SourceRefused("not a URL") from error
        return parts.netloc, unquote(parts.path.removeprefix("/"))


@dataclass(frozen=True)
class SeamStream:
    """Chunks from the storage."""

    info: SourceInfo
    chunks: AsyncIterator[bytes]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.chunks


class Handlers:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def store(self, request: web.Request) -> web.Response:
        """Store the body as it comes; it is there when its MAC was right."""
        async with self._gateway.storage.writer(f"seam/{request.match_info['key']}") as writer:
            async for chunk in body(request):
                await writer.write(chunk)
            stored = await writer.commit()
        return web.json_response({"size": stored.size_bytes})

    async def ignore(self, request: web.Request) -> web.Response:
        """Look at no body."""
        return web.json_response({"shown": True})

    async def hasty(self, request: web.Request) -> web.StreamResponse:
        """Begin the answer before the body was looked at."""
        response = web.StreamResponse()
        async with open_response(request, response) as writer:
            await writer.write(b"shown")
        return response

    async def forgiving(self, request: web.Request) -> web.Response:
        """Take a wrong MAC for an end of the body."""
        with suppress(Unauthorized):
            await read_body(request)
        return web.json_response({"shown": True})

    async def echo(self, request: web.Request) -> web.StreamResponse:
        """Say again what is said."""
        async with open_websocket(request, draining=self._gateway.closing) as socket:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._gateway.state[LIVE].echoed.append(message.data)
                    await socket.send_str(message.data)
        return socket

    async def words(self, request: web.Request) -> web.Response:
        """What other plugins have to say."""
        found = dict(self._gateway.hooks.each("seam_words", length=4))
        return web.json_response({plugin: list(words) for plugin, words in found.items()})

    async def note(self, request: web.Request) -> web.Response:
        """Write into a table of the plugin's own and read it."""
        async with self._gateway.db.write() as tx:
            await tx.execute(insert(notes).values(text=request.match_info["text"]))
        async with self._gateway.db.read() as tx:
            return web.json_response([row.text for row in await tx.rows(select(notes))])

    async def who(self, request: web.Request) -> web.Response:
        """Who asks."""
        return web.json_response({"client": client_of(request).name, **request.match_info})

    async def anything(self, request: web.Request) -> web.Response:
        """Whatever nobody else answers, with the path as it was sent."""
        return web.json_response({"method": request.method, "raw": request.raw_path})

    async def big(self, request: web.Request) -> web.StreamResponse:
        """A large file by sendfile."""
        return web.FileResponse(self._gateway.settings.data_dir / "big")


def seam_errors(request: web.Request, error: GatewayError) -> web.Response:
    """The shape of a contract that knows no 401."""
    return web.json_response({"seam": error.title}, status=403 if error.status == 401 else error.status)


@hookimpl
def gateway_settings() -> type[PluginSettings]:
    return SeamSettings


@hookimpl
def gateway_hookspecs() -> type:
    return SeamSpecs


@hookimpl
def gateway_migrations() -> MigrationSource:
    return MigrationSource("seam", str(Path(__file__).parent / "seam_migrations"))


@hookimpl
def gateway_storages() -> Mapping[str, object]:
    def open_seam(url: str, data_dir: Path) -> Storage:
        return LocalStorage(data_dir / urlsplit(url).netloc)

    return {"seam": open_seam}


@hookimpl
def gateway_sources(gateway: Gateway) -> Mapping[str, Source]:
    return {"seam": SeamSource(gateway)}


@hookimpl
def gateway_authenticators(gateway: Gateway) -> Iterable[Authenticator]:
    return [MacAuthenticator(gateway), CertificateAuthenticator(gateway)]


@hookimpl
def gateway_routes(gateway: Gateway) -> Iterable[Route]:
    handlers, settings = Handlers(gateway), gateway.section(SeamSettings)
    if settings.turns:
        gateway.every(settings.period_s, turn(Path(settings.turns)), "seam.turn")
    signed = {"body": Body.STREAM, "scope": "seam:store:{key}"}
    return [
        Route(method="PUT", path="/seam/store/{key}", handler=handlers.store, name="store", **signed),
        Route(method="POST", path="/seam/ignore/{key}", handler=handlers.ignore, name="ignore", **signed),
        Route(method="POST", path="/seam/hasty/{key}", handler=handlers.hasty, name="hasty", **signed),
        Route(method="POST", path="/seam/forgiving/{key}", handler=handlers.forgiving, name="forgiving", **signed),
        Route(
            method="POST",
            path="/seam/shape/{key}",
            handler=handlers.ignore,
            name="shape",
            errors=seam_errors,
            **signed,
        ),
        Route(
            method="GET",
            path="/seam/echo",
            handler=handlers.echo,
            name="echo",
            kind=Kind.WEBSOCKET,
            public=True,
            origins=(GOOD_ORIGIN,),
        ),
        Route(method="GET", path="/seam/words", handler=handlers.words, name="words", public=True),
        Route(method="POST", path="/seam/note/{text}", handler=handlers.note, name="note", public=True),
        Route(method="GET", path="/seam/big", handler=handlers.big, name="big", public=True, kind=Kind.STREAM),
        Route(method="GET", path="/seam/who", handler=handlers.who, name="who", public=True),
        Route(
            method="GET",
            path="/seam/node/{node}",
            handler=handlers.who,
            name="node",
            scope="seam:node:{node}",
            grant=False,
        ),
        Route(method="*", path="/seam/{rest:.*}", handler=handlers.anything, name="rest", public=True, at_root=True),
    ]


@hookimpl
def gateway_listeners(gateway: Gateway) -> Iterable[Listener]:
    settings = gateway.section(SeamSettings)
    if not settings.certificate:
        return []

    def context() -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(settings.certificate)
        made.load_verify_locations(settings.authority)
        made.verify_mode = ssl.CERT_OPTIONAL
        return made

    node = Route(
        method="GET",
        path="/node/{node}",
        handler=Handlers(gateway).who,
        name="node",
        scope="seam:node:{node}",
        grant=False,
    )
    return [Listener(name="tls", bind=settings.bind, routes=[node], ssl_context=context)]


@hookimpl
def gateway_lifespan(gateway: Gateway) -> AbstractAsyncContextManager[None]:
    @asynccontextmanager
    async def live() -> AsyncIterator[None]:
        gateway.state[LIVE] = Live(gateway.role)
        yield
        gateway.state[LIVE].role = "ended"

    return live()


@hookimpl
def gateway_health(gateway: Gateway) -> Mapping[str, object]:
    async def mood() -> None:
        if gateway.section(SeamSettings).degraded:
            raise Degraded("a little tired")

    return {"mood": mood}


@hookimpl
def gateway_commands(cli: click.Group) -> None:
    @cli.command("seam")
    def command() -> None:
        """Say which role a command's gateway has."""

        async def work(gateway: Gateway) -> str:
            return f"{gateway.role}, live: {LIVE in gateway.state}"

        click.echo(run(work))


def turn(file: Path):
    """A turn of the periodic task: adds the process and the moment to ``file``."""

    async def take() -> None:
        with file.open("a") as turns:
            turns.write(f"{os.getpid()} {time.time()}\n")

    return take
