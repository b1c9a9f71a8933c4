"""A gateway that takes nodes with certificates of an authority of its own, and many such nodes."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from process import Server, accepts, clean_environment, free_port
from programs import GATEWAY, HERE

NAMES_EACH = 5
"""A real node has one; a few spare the other end of all of them as many contexts."""


class Authority:
    """Its certificates lie in ``folder``: ``ca.pem``, ``server.pem`` with its key, ``nodes-*.pem`` with theirs."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
        authority = x509.BasicConstraints(ca=True, path_length=None)
        own = self._builder(self._name, self._key).add_extension(authority, critical=True)
        (folder / "ca.pem").write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        self._write(folder / "server.pem", [loopback], ExtendedKeyUsageOID.SERVER_AUTH)
        for first in range(0, nodes, NAMES_EACH):
            names = [x509.DNSName(f"n{number}") for number in range(first, min(first + NAMES_EACH, nodes))]
            self._write(folder / f"nodes-{first:06}.pem", names, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _write(self, path: Path, names: list[x509.GeneralName], usage: x509.ObjectIdentifier) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, path.stem)])
        builder = self._builder(subject, key)
        for extension in (
            x509.SubjectAlternativeName(names),
            x509.ExtendedKeyUsage([usage]),
            x509.BasicConstraints(ca=False, path_length=None),
        ):
            builder = builder.add_extension(extension, critical=False)
        made = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + made)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=2))
        )


class Place:
    """A gateway and its swarm in ``home``; the server can be started again on the same ports."""

    def __init__(self, home: Path, nodes: int) -> None:
        self.home, self.nodes = home, nodes
        self.port, self.tls_port = free_port(), free_port()
        Authority(home, nodes)
        self.environment = clean_environment(
            GATEWAY_HOST="127.0.0.1",
            GATEWAY_PORT=str(self.port),
            GATEWAY_DATA_DIR=str(home / "data"),
            GATEWAY_PLUGINS="pipe",
            GATEWAY_PIPE__LISTEN=f"127.0.0.1:{self.tls_port}",
            GATEWAY_PIPE__CA=str(home / "ca.pem"),
            GATEWAY_PIPE__CERT=str(home / "server.pem"),
            GATEWAY_PIPE__KEY=str(home / "server.pem"),
        )
        self._log = home / "swarm.log"

    @contextmanager
    def server(self) -> Iterator[Server]:
        """The gateway."""
        server = Server([str(GATEWAY), "serve"], self.home / "server.log", self.environment, cwd=self.home)
        with server.running(lambda: accepts(self.port)):
            yield server

    @contextmanager
    def swarm(self, what: str) -> Iterator[Server]:
        """All nodes; ``what`` is idle or nodes."""
        url = f"https://127.0.0.1:{self.tls_port}"
        command = [sys.executable, str(HERE / "pipe_swarm.py"), what, url, str(self.home), str(self.nodes)]
        swarm = Server(command, self._log, clean_environment(), cwd=self.home)
        with swarm.running(lambda: self.told()["at"] > 0):
            yield swarm

    def told(self) -> dict[str, float]:
        """The swarm's last word: ``up``, ``failed``, ``at``."""
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - 4096))
            lines = [line for line in log.read().splitlines()[1:] if line.startswith(b'{"up"') and line.endswith(b"}")]
        told: dict[str, float] = json.loads(lines[-1]) if lines else {"up": 0, "failed": 0, "at": 0}
        return told

    def wait_up(self, timeout_s: float) -> float:
        """Until all nodes are connected; seconds that it took. Raises SystemExit when they are not in time."""
        began = time.monotonic()
        while self.told()["up"] < self.nodes:
            if time.monotonic() - began > timeout_s:
                raise SystemExit(f"after {timeout_s:g} s: {self.told()}\n{self._log.read_text()[-2000:]}")
            time.sleep(0.05)
        return time.monotonic() - began


def rss_bytes(pid: int) -> int:
    """Resident memory of a process now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"process {pid} has no memory")
