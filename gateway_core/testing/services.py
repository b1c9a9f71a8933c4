"""Real PostgreSQL and Redis for tests: private processes on free ports, in folders of their own.

Nothing is asked of what runs on the machine already, and the standard ports are never touched.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gateway_core.testing.requirements import absent

_PROGRAMS: dict[str, tuple[str, ...]] = {
    "postgres": ("postgres", "initdb", "pg_isready", "createdb", "dropdb"),
    "redis": ("redis-server",),
}
_PORTS = range(20_000, 32_768)
"""Below those that Linux gives away by itself (ip_local_port_range)."""
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0
_SUPERUSER = "gateway"


class ServiceMissing(Exception):
    """A program of a service is not installed; the message names it."""


def find_programs(name: str) -> dict[str, str]:
    """Paths of the programs of ``postgres`` or ``redis``, by program; raises ServiceMissing."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: folder.parent.name, reverse=True)
    path = os.pathsep.join([*map(str, debian), os.environ.get("PATH", os.defpath)])
    found = {program: shutil.which(program, path=path) for program in _PROGRAMS[name]}
    missing = [program for program, where in found.items() if where is None]
    if missing:
        raise ServiceMissing(f"{name}: {', '.join(missing)} not found")
    return {program: where for program, where in found.items() if where is not None}


def require(name: str) -> None:
    """Skip the test with the reason where the service is missing; fail it where GATEWAY_TEST_REQUIRE lists ``name``."""
    try:
        find_programs(name)
    except ServiceMissing as error:
        absent(name, str(error))


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody has at the moment, and that the kernel gives to nobody who asks for any port.

    Raises RuntimeError where all that were tried are taken.
    """
    for port in secrets.SystemRandom().sample(_PORTS, 100):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no free port found from {_PORTS.start} to {_PORTS.stop - 1}")


class PrivateService:
    """One server process that a test may kill, pause and start again on the same port with the same data."""

    def __init__(self, command: list[str], folder: Path, account: pwd.struct_passwd | None = None) -> None:
        self._command = command
        self._folder = folder
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers; raises RuntimeError with the end of its log when it does not."""
        self._process = self._spawn(self._command)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(self._log())
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it takes commands now."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it as a power cut does (SIGKILL), with its children; PostgreSQL starts again only when these are gone."""
        children = [] if self._process is None else _children(self._process.pid)
        self._signal(signal.SIGKILL)
        self._reap()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        while any(map(_runs, children)) and time.monotonic() < deadline:
            time.sleep(0.005)

    def pause(self) -> None:
        """Stop it from answering while its connections stay open (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after ``pause``."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in order; SIGQUIT is PostgreSQL's immediate shutdown and ends Redis too."""
        if self._process is not None:
            self.resume()
            self._process.send_signal(signal.SIGQUIT)
            self._reap()

    def _spawn(self, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        account = self._account
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603  every command is put together in this file
                command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                start_new_session=True,  # Ctrl-C ends the tests, whose fixtures then end the server
                env={"PATH": os.defpath, **environment},
            )

    def _call(self, command: list[str], **environment: str) -> int:
        return self._spawn(command, **environment).wait(_START_TIMEOUT_S)

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-2000:]

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_STOP_TIMEOUT_S)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        for pid in (self._process.pid, *_children(self._process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class PrivatePostgres(PrivateService):
    """A PostgreSQL server on 127.0.0.1 whose superuser ``gateway`` has a password."""

    def __init__(self, folder: Path, programs: Mapping[str, str], account: pwd.struct_passwd | None) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(12)
        self._programs = programs
        options = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "shared_buffers": "16MB",
            "max_connections": "60",
            "fsync": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        super().__init__([programs["postgres"], "-D", str(folder / "data"), *settings], folder, account)

    def initialise(self) -> None:
        """Create the cluster's files."""
        secret = self._folder / "password"
        secret.write_text(self.password)
        if self._account is not None:
            os.chown(secret, self._account.pw_uid, self._account.pw_gid)
        command = [
            self._programs["initdb"],
            "-D",
            str(self._folder / "data"),
            "-U",
            _SUPERUSER,
            "--pwfile",
            str(secret),
        ]
        command += ["--auth=scram-sha-256", "--no-locale", "--encoding=UTF8", "--no-sync"]
        if self._call(command):
            raise RuntimeError(self._log())

    def url(self, database: str = "postgres") -> str:
        """``postgresql://`` URL of one of its databases, with the password."""
        return f"postgresql://{_SUPERUSER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, *, template: str = "template0") -> str:
        """Create a database as a copy of ``template`` and return its URL."""
        self._run("createdb", f"--template={template}", database)
        return self.url(database)

    def drop(self, database: str) -> None:
        """Remove a database, cutting off who uses it."""
        self._run("dropdb", "--force", "--if-exists", database)

    def answers(self) -> bool:
        """As above."""
        check = [self._programs["pg_isready"], "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return self._call(check) == 0

    def _run(self, program: str, *arguments: str) -> None:
        command = [self._programs[program], "-h", "127.0.0.1", "-p", str(self.port), "-U", _SUPERUSER, *arguments]
        if self._call(command, PGPASSWORD=self.password):
            raise RuntimeError(self._log())


class PrivateRedis(PrivateService):
    """A Redis server on 127.0.0.1 with a password, which keeps nothing when it ends."""

    def __init__(self, folder: Path, programs: Mapping[str, str]) -> None:
        self.port = free_port()
        self.password = secrets.token_hex(12)
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--requirepass", self.password]
        options += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
        super().__init__([programs["redis-server"], *options], folder)

    @property
    def url(self) -> str:
        """``redis://`` URL of its first database, with the password."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        """As above."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as link:
            link.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
            answer = b""
            while b"+PONG" not in answer:
                received = link.recv(100)
                if not received:
                    return False
                answer += received
            return True
        return False


@contextmanager
def private_postgres() -> Iterator[PrivatePostgres]:
    """A running server; raises ServiceMissing. Under root it runs as ``postgres`` or ``nobody``: it refuses root."""
    account = _unprivileged() if os.geteuid() == 0 else None
    programs = find_programs("postgres")
    with _folder("postgres", account) as folder:
        server = PrivatePostgres(folder, programs, account)
        server.initialise()
        with _running(server):
            yield server


@contextmanager
def private_redis() -> Iterator[PrivateRedis]:
    """A running server; raises ServiceMissing."""
    programs = find_programs("redis")
    with _folder("redis", None) as folder:
        server = PrivateRedis(folder, programs)
        with _running(server):
            yield server


@contextmanager
def _running(server: PrivateService) -> Iterator[None]:
    server.start()
    try:
        yield
    finally:
        server.stop()


@contextmanager
def _folder(name: str, account: pwd.struct_passwd | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"gateway-{name}-"))
    try:
        if account is not None:
            os.chown(folder, account.pw_uid, account.pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServiceMissing("postgres: refuses to run as root, and there is no user postgres or nobody")


def _runs(pid: int) -> bool:
    """Whether it holds memory and files, as a process that is dead and not yet waited for does not (proc(5))."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    return False


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
