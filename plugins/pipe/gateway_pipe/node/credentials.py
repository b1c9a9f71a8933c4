"""What a node shows its gateway, and by what it knows it: a secret, or a certificate."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Protocol

from gateway_core.observe.logs import get_logger
from gateway_pipe.identity.contexts import Verify, node_context
from gateway_pipe.identity.material import Material, read_enrolled

log = get_logger("gateway.pipe.node")


class Identity(Protocol):
    """A node's name and what proves it."""

    @property
    def name(self) -> str:
        """The node's."""

    def headers(self) -> dict[str, str]:
        """Sent with the request for a link."""

    async def context(self) -> ssl.SSLContext | None:
        """TLS for the next connection, with what is valid now; None without. Raises GatewayError, OSError."""


class SecretIdentity:
    """A client's secret, over TLS to a server that public authorities, or the one in ``ca``, vouch for."""

    def __init__(self, name: str, secret: str, *, ca: Path | None, secure: bool) -> None:
        self.name = name
        self._secret = secret
        self._ca = ca
        self._secure = secure

    def headers(self) -> dict[str, str]:
        """The secret as a Bearer token."""
        return {"Authorization": f"Bearer {self._secret}"}

    async def context(self) -> ssl.SSLContext | None:
        """Raises ConfigError for a file that is no authority's certificate."""
        if not self._secure:
            return None
        verify = Verify.SYSTEM if self._ca is None else Verify.NAMES
        return await asyncio.to_thread(lambda: node_context(verify=verify, ca=self._ca))


class CertificateIdentity:
    """A certificate, read again for each connection: somebody may have renewed it.

    One that enrolled and was off until it expired gets a new one from the gateway first.
    """

    def __init__(self, name: str, material: Material) -> None:
        self.name = name
        self.material = material

    def headers(self) -> dict[str, str]:
        """None: the certificate says it all."""
        return {}

    async def context(self) -> ssl.SSLContext:
        """Raises ConfigError for files that cannot be used, EnrolmentFailed for a certificate that stays expired."""
        folder = self.material.folder
        if folder is not None:
            self.material = await asyncio.to_thread(read_enrolled, folder)
            if self.material.expired:
                await self._replace_expired(folder)
        return await asyncio.to_thread(self.material.context)

    async def _replace_expired(self, folder: Path) -> None:
        from gateway_pipe.identity.enrolment import renew_after_expiry

        log.warning("the certificate of this node has expired; asking for a new one", folder=str(folder))
        self.material = await renew_after_expiry(folder)
        log.info("certificate renewed", expires=round(self.material.expires))
