"""The built-in certificate authorities, kept in the database, and what they sign."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from gateway_core.auth.keyring import Keyring
from gateway_core.db.engine import Database
from gateway_core.db.transaction import Transaction
from gateway_core.errors import Conflict, Forbidden, Gone, NotFound, TooManyRequests, Unauthorized
from gateway_core.gateway import StateKey
from gateway_core.observe.logs import get_logger
from gateway_pipe.identity.revocations import Revocations
from gateway_pipe.identity.tokens import Token, new_token
from gateway_pipe.settings import PipeSettings
from gateway_pipe.tables import authorities, certificates, invites

if TYPE_CHECKING:
    from gateway_pipe.identity.signing import Issuer

AUTHORITY_TOPIC = "pipe:authority"
"""Woken when the authority for nodes was made."""
RENEWABLE_S = 90 * 86400.0
"""A certificate may be renewed so long after its end: devices are switched off over a season."""
_MOST_RENEWALS = 100
_WITHIN_S = 3600.0
"""Many more than the shortest life needs; each is a row for 90 days."""

log = get_logger("gateway.pipe.identity")


class Purpose(StrEnum):
    """Whom an authority signs for: nodes and what they connect to, or links between gateways."""

    NODES = "nodes"
    PEERS = "peers"


class Authority:
    """Signs for nodes and gateways; one object a process.

    Its keys are in the database, encrypted under ``SECRET_KEY``. With ``PIPE__CA`` set, nodes' certificates come from
    elsewhere and nothing is signed for them here.
    """

    def __init__(self, db: Database, keyring: Keyring, settings: PipeSettings) -> None:
        self._db, self._keyring, self._settings = db, keyring, settings
        self._issuers: dict[Purpose, Issuer] = {}
        self.revocations = Revocations(db)

    async def init(self) -> Issuer:
        """Make the authority for nodes; raises Conflict when there is one, or ``PIPE__CA`` names another."""
        self._must_be_built_in()
        if not await self._make(Purpose.NODES):
            raise Conflict("there is a certificate authority already; `gateway pipe ca show` shows it")
        return await self.issuer(Purpose.NODES)

    async def issuer(self, purpose: Purpose, *, create: bool = False) -> Issuer:
        """The authority of that purpose, made now with ``create``.

        Raises NotFound when there is none, StartupError when ``SECRET_KEY`` does not open its key.
        """
        if purpose not in self._issuers:
            if create:
                await self._make(purpose)
            async with self._db.read() as tx:
                row = await tx.first(sa.select(authorities).where(authorities.c.purpose == purpose))
            if row is None:
                raise NotFound("there is no certificate authority yet; make it with `gateway pipe ca init`")
            from gateway_pipe.identity.signing import load_issuer

            key = self._keyring.decrypt(row.key.partition(":")[2].encode())
            self._issuers[purpose] = load_issuer(row.certificate, key)
        return self._issuers[purpose]

    async def check_keys(self) -> None:
        """Encrypt the keys anew where ``SECRET_KEY`` has a new first one; raises StartupError where none fits."""
        current = self._keyring.fingerprints[0]
        async with self._db.write() as tx:
            for row in await tx.rows(sa.select(authorities.c.purpose, authorities.c.key)):
                fingerprint, _, token = row.key.partition(":")
                if fingerprint != current:
                    renewed = f"{current}:{self._keyring.rotate(token.encode()).decode()}"
                    mine = authorities.c.purpose == row.purpose
                    await tx.execute(sa.update(authorities).where(mine).values(key=renewed))

    async def invite(self, name: str, *, ttl_s: float) -> tuple[Token, float]:
        """A token with which one node can get a certificate for ``name``, and its end in Unix seconds.

        It lifts a revocation for certificates issued from now on. Raises NotFound without an authority, Conflict where
        ``PIPE__CA`` names another.
        """
        self._must_be_built_in()
        token = new_token((await self.issuer(Purpose.NODES)).pin)
        now = self._db.now()
        row = {"id": token.id, "name": name, "secret_sha256": token.digest, "created": now, "expires": now + ttl_s}
        async with self._db.write() as tx:
            await self.revocations.lift(tx, name)
            await tx.execute(sa.insert(invites).values(used=None, **row))
            expires = await tx.scalar(sa.select(invites.c.expires).where(invites.c.id == token.id))
        return token, float(expires)

    async def enrol(self, token: Token, csr: str) -> dict[str, Any]:
        """A certificate for who holds an invitation, once, as JSON: ``name``, ``certificate``, ``ca``, ``expires``.

        Raises Unauthorized for a token that is none, Gone for one that was used or has expired, Invalid for a request
        that cannot be signed.
        """
        now = self._db.now()
        known = sa.select(invites, (invites.c.expires <= now).label("expired")).where(invites.c.id == token.id)
        async with self._db.read() as tx:
            row = await tx.first(known)
        if row is None or not hmac.compare_digest(row.secret_sha256, token.digest):
            raise Unauthorized("no such invitation; ask for a new one (`gateway pipe invite`)")
        if row.used is not None or row.expired:
            raise _spent(row.name, "was used already" if row.used is not None else "has expired")

        async def use(tx: Transaction) -> None:
            mine = (invites.c.id == token.id, invites.c.used == sa.null(), invites.c.expires > now)
            if await tx.count(sa.update(invites).where(*mine).values(used=now)) != 1:
                raise _spent(row.name, "was used already, or withdrawn")

        return await self._issue(row.name, csr, admit=use)

    async def renew(self, name: str, csr: str, *, serial: str = "") -> dict[str, Any]:
        """A further certificate for a node that is connected as ``name``; JSON as of ``enrol``.

        ``serial`` is that of the certificate on the link: one from before a revocation brings no other, though the name
        was invited again before the link was closed. Raises Forbidden when it is revoked, TooManyRequests for 100 in an
        hour, Invalid for a request that cannot be signed, NotFound where certificates come from elsewhere.
        """
        issued = (await self.revocations.issued(serial) or 0.0) if serial else None

        async def admit(tx: Transaction) -> None:
            await self._admit_renewal(tx, name, issued)

        return await self._issue(name, csr, admit=admit)

    async def renew_expired(self, *, certificate: str, csr: str, signature: bytes) -> dict[str, Any]:
        """A certificate for a node whose last one may have expired meanwhile; JSON as of ``enrol``.

        ``signature`` is its old key's, see ``renewal_statement``. Raises Unauthorized for another signature or
        certificate, Gone 90 days after its end, Forbidden when it is revoked.
        """
        from gateway_pipe.identity.chains import renewable

        old = renewable((await self._nodes()).pem, certificate, csr=csr, signature=signature)
        query = sa.select(certificates, (certificates.c.expires < self._db.now() - RENEWABLE_S).label("late"))
        async with self._db.read() as tx:
            row = await tx.first(query.where(certificates.c.serial == old.serial))
        if row is None or row.name not in old.names:
            raise Unauthorized("the certificate is not known here; ask for a new invitation")
        if row.late:
            raise Gone("the certificate ended too long ago; ask for a new invitation")

        async def admit(tx: Transaction) -> None:
            await self._admit_renewal(tx, row.name, row.issued)

        return await self._issue(row.name, csr, admit=admit)

    async def ca_pem(self) -> str:
        """The certificate of the authority for nodes; raises NotFound where there is none, or it is elsewhere."""
        return (await self._nodes()).pem

    async def sweep(self) -> None:
        """Forget invitations that have expired, and certificates that nobody can renew any more."""
        from gateway_core.db.sweep import sweep_rows

        await sweep_rows(self._db, invites, invites.c.expires, before=self._db.now())
        await sweep_rows(self._db, certificates, certificates.c.expires, before=self._db.now() - RENEWABLE_S)

    async def _admit_renewal(self, tx: Transaction, name: str, issued: float | None) -> None:
        if await self.revocations.stands(tx, name, issued):
            raise Forbidden(f"{name} is revoked")
        lately = (certificates.c.name == name, certificates.c.issued > self._db.now() - _WITHIN_S)
        signed = await tx.scalar(sa.select(sa.func.count()).select_from(certificates).where(*lately))
        if int(signed or 0) >= _MOST_RENEWALS:
            raise TooManyRequests(f"{name} has got {signed} certificates within an hour", retry_after_s=600)

    async def _nodes(self) -> Issuer:
        if self._settings.ca is not None:
            raise NotFound("nodes of this gateway get their certificates elsewhere (PIPE__CA)")
        return await self.issuer(Purpose.NODES)

    async def _issue(self, name: str, csr: str, *, admit: Callable[[Transaction], Awaitable[None]]) -> dict[str, Any]:
        issuer = await self._nodes()
        signed = issuer.sign_node(csr, name, days=self._settings.cert_days)
        row = {"serial": signed.serial, "name": name, "issued": self._db.now(), "expires": signed.expires}
        async with self._db.write() as tx:
            await admit(tx)
            await tx.execute(sa.insert(certificates).values(**row))
        log.info("certificate signed", node=name, serial=signed.serial, expires=signed.expires)
        return {"name": name, "certificate": signed.pem, "ca": issuer.pem, "expires": signed.expires}

    async def _make(self, purpose: Purpose) -> bool:
        from gateway_pipe.identity.signing import new_issuer

        made = new_issuer(purpose)
        encrypted = self._keyring.encrypt(made.key_pem.encode()).decode()
        row = {
            "purpose": purpose,
            "certificate": made.pem,
            "key": f"{self._keyring.fingerprints[0]}:{encrypted}",
            "created": self._db.now(),
        }
        put = self._db.insert(authorities).values(**row).on_conflict_do_nothing(index_elements=["purpose"])
        async with self._db.write() as tx:
            return await tx.count(put) == 1

    def _must_be_built_in(self) -> None:
        if self._settings.ca is not None:
            raise Conflict("PIPE__CA is set: certificates of nodes come from that authority, not from here")


AUTHORITY_KEY = StateKey("pipe.authority", Authority)


def _spent(name: str, how: str) -> Gone:
    return Gone(f"the invitation for {name} {how}; ask for a new one (`gateway pipe invite {name}`)")
