"""Bring the tables up to the code: what is pending is read by SQL, the work is done by Alembic in a child process.

Every source (the core, each plugin) has its scripts, its own version table ``alembic_version_<name>`` and its own
Alembic run, so that a plugin can be taken out and put back (one shared table breaks then: alembic#974).
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gateway_core.errors import ConfigError, StartupError

if TYPE_CHECKING:
    from gateway_core.db.engine import Database

Command = Literal["upgrade", "downgrade"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
_CHILD_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class MigrationSource:
    """Alembic scripts in ``directory``/versions, whose revisions are recorded in ``alembic_version_<name>``.

    ``name`` is lower-case letters, digits and underscores. The scripts need no env.py. Raises ConfigError.
    """

    name: str
    directory: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"{self.name!r} cannot name migrations: use lower-case letters, digits and underscores")
        if not (Path(self.directory) / "versions").is_dir():
            raise ConfigError(f"the migrations of {self.name} have no folder {self.directory}/versions")

    @property
    def version_table(self) -> str:
        """The table that holds the revision this source is at."""
        return f"alembic_version_{self.name}"


CORE = MigrationSource("core", str(Path(__file__).parent / "migrations"))
"""The core's own migrations; the first of the sources wherever a list of them is given."""


async def pending(db: Database, sources: Sequence[MigrationSource]) -> dict[str, tuple[str | None, str | None]]:
    """What each source is at and what it should be at, by name; equal means nothing to do, None is before the first.

    Does not load Alembic. Raises StartupError for a database that is newer than the code, ConfigError for scripts that
    do not form one line.
    """
    scripts = {source.name: await asyncio.to_thread(_revisions, source) for source in sources}
    found: dict[str, tuple[str | None, str | None]] = {}
    for source in sources:
        current = await _current(db, source)
        revisions, head = scripts[source.name]
        if current is not None and current not in revisions:
            raise StartupError(newer(source.name, current))
        found[source.name] = (current, head)
    return found


def newer(name: str, revision: str) -> str:
    """What to tell about a database at a revision that the code does not know."""
    return f"the database is at revision {revision} of {name}, which this version does not know: install a newer one"


async def run_migrations(
    url: str, sources: Sequence[MigrationSource], command: Command = "upgrade", *, target: str | None = None
) -> None:
    """Upgrade to ``target`` (default: the newest) or downgrade to it (default: nothing left), all of it or nothing.

    A target is a revision of the one source given; downgrades go in reverse order. Safe to be started by several
    processes at once. Raises ConfigError for a URL or target that does not fit, StartupError with what went wrong.
    """
    if target is not None and len(sources) != 1:
        raise ConfigError("a target revision needs the one plugin it belongs to")
    order = {"url": url, "sources": [asdict(source) for source in sources], "command": command, "target": target}
    # the URL holds a password: it goes through a pipe, as arguments can be read by every user of the machine
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "gateway_core.db.migrate",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        async with asyncio.timeout(_CHILD_TIMEOUT_S):
            _, complaint = await child.communicate(json.dumps(order).encode())
    except TimeoutError as error:
        raise StartupError(f"the migration of the database did not end in {_CHILD_TIMEOUT_S:.0f} s") from error
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()
    if child.returncode:
        text = complaint.decode(errors="replace").strip()
        raise StartupError(text or f"the migration of the database ended with exit code {child.returncode}")


async def _current(db: Database, source: MigrationSource) -> str | None:
    from sqlalchemy import column, func, literal, select, table

    name = source.version_table
    if db.dialect == "sqlite":
        there = select(literal(1)).select_from(table("sqlite_master", column("name"))).where(column("name") == name)
    else:
        there = select(literal(1)).where(func.to_regclass(name).is_not(None))
    async with db.read() as tx:
        if await tx.scalar(there) is None:
            return None
        version = await tx.scalar(select(column("version_num")).select_from(table(name)))
    return str(version) if version is not None else None


def _revisions(source: MigrationSource) -> tuple[frozenset[str], str | None]:
    """All revisions of the scripts, and the one that no other builds on."""
    parents: dict[str, str | None] = {}
    for script in sorted((Path(source.directory) / "versions").glob("*.py")):
        found = _assigned(script)
        if "revision" in found:
            parents[str(found["revision"])] = found.get("down_revision")
    heads = sorted(parents.keys() - set(parents.values()))
    if len(heads) > 1 or (parents and not heads):
        raise ConfigError(f"the migrations of {source.name} do not form one line; heads: {', '.join(heads) or 'none'}")
    return frozenset(parents), heads[0] if heads else None


def _assigned(script: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for statement in ast.parse(script.read_bytes(), str(script)).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                continue
        if name in {"revision", "down_revision"}:
            found[name] = ast.literal_eval(value)
    return found


if __name__ == "__main__":
    from gateway_core.db.alembic_run import main

    sys.exit(main(sys.stdin.read()))
