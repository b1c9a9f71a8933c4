"""The servers of jobs."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import ClassVar

from process import Server, accepts, clean_environment, free_port, output_of
from programs import GATEWAY, HERE, installed
from sides import OPEN
from transform_client import JobClient, noop_archive, prove

MODULE = "transform_steps"
WORKERS = os.cpu_count() or 1
"""Jobs at once, on each side."""

CIRCE = (
    "circe-CERTIC==0.0.48",
    "aiofiles==23.2.1",
    "argh==0.29.4",
    "huey==2.5.0",
    "itsdangerous==2.1.2",
    "markdown2==2.4.10",
    "python-dotenv==1.0.0",
    "python-json-logger==2.0.7",
    "requests==2.31.0",
    "sanic==23.6.0",
    "setuptools<81",
    "websockets<14",
)
"""It asks for the package asyncio from PyPI too, which is older than Python's own and breaks."""


class JobServer:
    """``launch`` gives its process, which finds the transformations in ``home``, and makes a client's credentials."""

    name: ClassVar[str]
    process: Server
    client: JobClient

    def __init__(self) -> None:
        self.port = free_port()

    def launch(self, home: Path, credentials: Path) -> Server:
        raise NotImplementedError

    def ready(self) -> bool:
        return accepts(self.port)

    @contextmanager
    def running(self, home: Path) -> Iterator[None]:
        """Until it has done a job; raises SystemExit when that is no good."""
        shutil.copy(HERE / f"{MODULE}.py", home)
        credentials = home / "credentials.json"
        self.process = self.launch(home, credentials)
        with self.process.running(self.ready):
            self.client = JobClient.of(self.port, credentials)
            prove(self.client.job(noop_archive()))
            yield

    def cpu_s(self) -> float:
        """User and system time of all its processes so far."""
        return self.process.cpu_s()


class GatewayJobs(JobServer):
    """This project, as it comes."""

    name = "gateway"

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self._settings = settings

    def launch(self, home: Path, credentials: Path) -> Server:
        environment = clean_environment(
            GATEWAY_HOST="127.0.0.1",
            GATEWAY_PORT=str(self.port),
            GATEWAY_DATA_DIR=str(home / "data"),
            GATEWAY_PLUGINS="transform",
            GATEWAY_TRANSFORM__MODULES=MODULE,
            GATEWAY_TRANSFORM__WORKERS=str(WORKERS),
            **self._settings,
        )
        output_of([str(GATEWAY), "client", "add", "bench", "--out", str(credentials)], environment)
        return Server([str(GATEWAY), "serve"], home / "server.log", environment, cwd=home)

    def ready(self) -> bool:
        """Raises SystemExit for a lesser sandbox: it would be another measurement."""
        try:
            with OPEN(f"http://127.0.0.1:{self.port}/readyz", timeout=10) as answer:
                checks = json.load(answer)["checks"]
        except OSError:
            return False
        if checks["transform.sandbox"] != "ok: namespaces":
            raise SystemExit(f"these figures are of a sandbox with namespaces, but here it is: {checks['sandbox']}")
        return True


class CirceJobs(JobServer):
    """Circe with as many workers."""

    name = "circe"

    def launch(self, home: Path, credentials: Path) -> Server:
        programs = installed(*CIRCE, alone=True)
        environment = clean_environment(
            PATH=f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # it starts others by their names
            CIRCE_HOST="127.0.0.1",
            CIRCE_PORT=str(self.port),
            CIRCE_WORKERS=str(WORKERS),
            CIRCE_WORKING_DIR=f"{home}/data/",
            CIRCE_TRANSFORMATIONS_MODULE=MODULE,
        )
        circe = str(programs / "circe")
        command = [circe, "make-api-access", "--title", "bench", "--out", str(credentials)]
        output_of(command, environment, cwd=home)
        return Server([circe, "run"], home / "server.log", environment, cwd=home)


SERVERS: dict[str, type[JobServer]] = {server.name: server for server in (GatewayJobs, CirceJobs)}


@contextmanager
def running(home: Path, names: Sequence[str]) -> Iterator[Mapping[str, JobServer]]:
    """Fresh processes of these servers, each of which has done a job."""
    servers = {name: SERVERS[name]() for name in names}
    with ExitStack() as stack:
        for server in servers.values():
            stack.enter_context(server.running(Path(tempfile.mkdtemp(prefix=f"{server.name}-", dir=home))))
        yield servers
