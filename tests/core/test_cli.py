"""Every command of the core: what it prints, what it leaves behind, and its exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import circe_client
import pytest

from gateway_core.cli import main
from gateway_core.testing.services import PrivatePostgres
from gateway_core.version import __version__
from tests.core.log_state import logging_restored

KEY = "a key of more than sixteen characters"


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """What it printed, as JSON; it must have gone well."""
        assert (self.code, self.err) == (0, "")
        return json.loads(self.out)


class Call(Protocol):
    """``gateway("client", "list", GATEWAY_X="y")``."""

    def __call__(self, *arguments: str, **environ: str) -> Done: ...


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file at the code's revision, as the command line makes it."""
    folder = tmp_path_factory.mktemp("cli")
    command = [sys.executable, "-m", "gateway_core", "--plugins", "archive", "db", "upgrade"]
    environ = {"PATH": "/usr/bin:/bin", "GATEWAY_DATA_DIR": str(folder)}
    subprocess.run(command, env=environ, cwd=Path(__file__).parents[2], check=True, capture_output=True, timeout=60)
    return folder / "gateway.db"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def empty(data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """The command line on a data folder that is not there yet."""
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(data_dir))
    monkeypatch.setenv("GATEWAY_PLUGINS", "archive")

    def call(*arguments: str, **environ: str) -> Done:
        capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Done(int(ended.value.code or 0), out, err)

    with logging_restored():
        yield call


@pytest.fixture
def gateway(empty: Call, data_dir: Path, migrated: Path) -> Call:
    """The command line on a data folder with a database."""
    data_dir.mkdir(mode=0o700)
    shutil.copy(migrated, data_dir / "gateway.db")
    return empty


def rows(data_dir: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(data_dir / "gateway.db")) as connection:
        return connection.execute(query).fetchall()


# gateway client add


def test_add_prints_name_and_secret(gateway: Call) -> None:
    done = gateway("client", "add", "ckan")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"Client created: ckan - gw_[0-9A-Za-z]{46}\n", done.out)


def test_add_prints_json(gateway: Call) -> None:
    made = gateway("client", "add", "ckan", "--json").json()
    assert list(made) == ["id", "name", "secret", "scopes", "uuid", "title", "endpoint"]
    assert re.fullmatch(r"[0-9a-f]{32}", made["id"])
    assert made["name"] == "ckan"
    assert made["scopes"] == ["archive:ticket"]


def test_the_first_command_makes_folder_key_and_database(empty: Call, data_dir: Path) -> None:
    assert empty("client", "add", "ckan").code == 0
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((data_dir / "instance.key").stat().st_mode) == 0o600
    assert rows(data_dir, "SELECT name FROM clients") == [("ckan",)]


def test_scopes_are_those_that_were_named(gateway: Call) -> None:
    made = gateway("client", "add", "x", "--scope", "archive:*", "--scope", "admin", "--json").json()
    assert made["scopes"] == ["admin", "archive:*"]


@pytest.mark.parametrize("scope", ["archve:ticket", "*", "", "archive:tickets", "ticket", "pipe:connect", "ADMIN"])
def test_an_unknown_scope_is_wrong_usage_and_those_there_are_are_named(
    gateway: Call, data_dir: Path, scope: str
) -> None:
    done = gateway("client", "add", "x", "--scope", scope)
    assert (done.code, done.out) == (2, "")
    assert "there are: admin, archive:ticket" in " ".join(done.err.split())
    assert rows(data_dir, "SELECT count(*) FROM clients") == [(0,)]


def test_a_name_is_taken_once(gateway: Call) -> None:
    assert gateway("client", "add", "ckan").code == 0
    done = gateway("client", "add", "ckan")
    assert (done.code, done.out) == (1, "")
    assert done.err == "gateway: client ckan: name, id or secret is already taken\n"


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256, "\x1b[31m"])
def test_a_name_that_cannot_be_shown_is_wrong_usage(gateway: Call, name: str) -> None:
    assert gateway("client", "add", name).code == 2


@pytest.mark.parametrize(
    ("text", "span_s"), [("90d", 90 * 86400), ("12h", 12 * 3600), ("3600", 3600), ("1.5d", 129600)]
)
def test_a_life_may_be_a_span(gateway: Call, text: str, span_s: float) -> None:
    before = time.time()
    gateway("client", "add", "x", "--expires", text)
    (listed,) = gateway("client", "list", "--json").json()
    assert before + span_s <= listed["expires"] <= time.time() + span_s


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2099-01-31", datetime(2099, 1, 31, tzinfo=UTC)),
        ("2099-01-31T12:30", datetime(2099, 1, 31, 12, 30, tzinfo=UTC)),
        ("2099-01-31T12:30:00+02:00", datetime(2099, 1, 31, 10, 30, tzinfo=UTC)),
    ],
    ids=["day", "moment", "moment elsewhere"],
)
def test_a_life_may_end_at_a_date(gateway: Call, text: str, moment: datetime) -> None:
    gateway("client", "add", "x", "--expires", text)
    (listed,) = gateway("client", "list", "--json").json()
    assert listed["expires"] == moment.timestamp()


@pytest.mark.parametrize(
    "text",
    ["", "soon", "-1d", "0", "0d", "2001-01-31", "2099-13-01", "1y", "99999999999d", "9" * 400 + "d", "9999-12-32"],
)
def test_a_life_that_is_none_is_wrong_usage(gateway: Call, data_dir: Path, text: str) -> None:
    done = gateway("client", "add", "x", f"--expires={text}")
    assert done.code == 2
    assert "--expires" in done.err
    assert rows(data_dir, "SELECT count(*) FROM clients") == [(0,)]


def test_id_and_secret_may_be_given(gateway: Call) -> None:
    made = gateway(
        "client", "add", "x", "--id", "01234567-89AB-cdef-0123-456789abcdef", "--secret", "their-old-secret", "--json"
    ).json()
    assert (made["id"], made["secret"]) == ("0123456789abcdef" * 2, "their-old-secret")


@pytest.mark.parametrize(
    "given",
    [
        ("--id", "123"),
        ("--id", "g" * 32),
        ("--id", ""),
        ("--secret", ""),
        ("--secret", "ä"),
        ("--secret", "x" * 513),
        ("--secret", "gw_" + "x" * 46),
    ],
    ids=lambda given: f"{given[0]}={given[1][:8]}",
)
def test_an_id_or_secret_that_is_none_is_wrong_usage(gateway: Call, given: tuple[str, str]) -> None:
    done = gateway("client", "add", "x", *given)
    assert done.code == 2
    assert given[0] in done.err


def test_credentials_go_into_a_new_file_for_its_owner_alone(gateway: Call, tmp_path: Path) -> None:
    out = tmp_path / "client.json"
    done = gateway("client", "add", "x", "--out", str(out))
    assert (done.code, done.out) == (0, f"Client created: x - written to {out}\n")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    made = json.loads(out.read_text())
    assert made["name"] == "x"
    assert made["secret"] not in done.out + done.err


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, "http://127.0.0.1:8000/"),
        ({"GATEWAY_HOST": "10.1.2.3", "GATEWAY_PORT": "8080"}, "http://10.1.2.3:8080/"),
        ({"GATEWAY_HOST": "0.0.0.0"}, "http://127.0.0.1:8000/"),
        ({"GATEWAY_HOST": "::"}, "http://[::1]:8000/"),
        ({"GATEWAY_PUBLIC_URL": "https://gateway.example/docs"}, "https://gateway.example/docs/"),
        ({"GATEWAY_PUBLIC_URL": "https://gateway.example/"}, "https://gateway.example/"),
    ],
    ids=["default", "bound", "any IPv4", "any IPv6", "public", "public root"],
)
def test_credentials_are_those_of_the_client_library_of_circe(
    gateway: Call, tmp_path: Path, environ: dict[str, str], endpoint: str
) -> None:
    out = tmp_path / "client.json"
    assert gateway("client", "add", "x", "--out", str(out), **environ).code == 0
    made = json.loads(out.read_text())
    library = circe_client.Client(credentials_file_path=str(out))
    assert (library.endpoint, library.secret_key, library.application_uuid) == (endpoint, made["secret"], made["id"])
    assert made["title"] == "x"


@pytest.mark.parametrize("place", ["taken.json", "missing/client.json", "link.json"])
def test_no_client_is_made_where_its_credentials_cannot_be_written(
    gateway: Call, data_dir: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / "taken.json").write_text("precious")
    (tmp_path / "link.json").symlink_to(tmp_path / "elsewhere.json")
    done = gateway("client", "add", "x", "--out", str(tmp_path / place))
    assert (done.code, done.out) == (1, "")
    assert f"cannot create {tmp_path / place}" in done.err
    assert (tmp_path / "taken.json").read_text() == "precious"
    assert not (tmp_path / "elsewhere.json").exists()
    assert rows(data_dir, "SELECT count(*) FROM clients") == [(0,)]


def test_no_file_is_left_where_no_client_was_made(gateway: Call, tmp_path: Path) -> None:
    gateway("client", "add", "x")
    assert gateway("client", "add", "x", "--out", str(tmp_path / "client.json")).code == 1
    assert not (tmp_path / "client.json").exists()


# gateway client list, revoke, rotate, import


def test_list_shows_everything_but_secrets(gateway: Call) -> None:
    made = gateway("client", "add", "ckan", "--json").json()
    gateway("client", "add", "another", "--expires", "2099-01-31")
    done = gateway("client", "list")
    assert done.code == 0
    another, ckan = done.out.splitlines()
    assert re.fullmatch(
        rf"ckan  {made['id']}  created \d{{4}}-\S+\+00:00  expires never  last used never  archive:ticket", ckan
    )
    assert "expires 2099-01-31T00:00:00+00:00" in another
    assert made["secret"] not in done.out


def test_list_prints_json(gateway: Call) -> None:
    assert gateway("client", "list", "--json").json() == []
    made = gateway("client", "add", "ckan", "--json").json()
    (listed,) = gateway("client", "list", "--json").json()
    assert set(listed) == {"id", "name", "created", "expires", "last_used", "scopes"}
    assert (listed["id"], listed["scopes"], listed["last_used"]) == (made["id"], ["archive:ticket"], None)


def test_revoke_shuts_out_by_name_or_id(gateway: Call) -> None:
    gateway("client", "add", "first")
    second = gateway("client", "add", "second", "--json").json()
    assert gateway("client", "revoke", "first").out == "Client revoked: first\n"
    assert gateway("client", "revoke", second["id"]).out == "Client revoked: second\n"
    assert gateway("client", "list").out == ""


def test_rotate_prints_a_new_secret(gateway: Call) -> None:
    made = gateway("client", "add", "ckan", "--json").json()
    done = gateway("client", "rotate", "ckan")
    found = re.fullmatch(r"Client rotated: ckan - (gw_\w{46})\n", done.out)
    assert found is not None
    assert found[1] != made["secret"]


@pytest.mark.parametrize("by", ["name", "id"])
def test_webhooks_are_verified_with_the_bytes_of_the_secret(gateway: Call, by: str) -> None:
    made = gateway("client", "add", "ckan", "--json").json()
    done = gateway("client", "webhook-secret", made[by])
    assert (done.code, done.err) == (0, "")
    assert done.out == f"whsec_{b64encode(made['secret'].encode()).decode()}\n"
    (listed,) = gateway("client", "list", "--json").json()
    assert listed["last_used"] is None


@pytest.mark.parametrize("command", ["revoke", "rotate", "webhook-secret"])
@pytest.mark.parametrize("name", ["nobody", "", "0" * 32, "\udcff"])
def test_a_client_that_is_not_there_is_told(gateway: Call, command: str, name: str) -> None:
    done = gateway("client", command, name)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("gateway: no client ")


def fpx(tmp_path: Path) -> str:
    with closing(sqlite3.connect(tmp_path / "fpx.db")) as connection, connection:
        connection.execute("CREATE TABLE clients (id VARCHAR PRIMARY KEY, name VARCHAR UNIQUE NOT NULL)")
        connection.execute("INSERT INTO clients VALUES ('their-secret', 'ckan'), ('another-secret', 'portal')")
    return str(tmp_path / "fpx.db")


def test_import_takes_over_the_clients_of_fpx(gateway: Call, data_dir: Path, tmp_path: Path) -> None:
    done = gateway("client", "import", "fpx", fpx(tmp_path))
    assert (done.code, done.out, done.err) == (0, "2 clients imported\n", "")
    listed = gateway("client", "list", "--json").json()
    assert [(client["name"], client["scopes"]) for client in listed] == [
        ("ckan", ["archive:ticket"]),
        ("portal", ["archive:ticket"]),
    ]
    assert "their-secret" not in str(rows(data_dir, "SELECT * FROM clients"))


def test_a_second_import_leaves_them_alone(gateway: Call, tmp_path: Path) -> None:
    gateway("client", "import", "fpx", fpx(tmp_path))
    done = gateway("client", "import", "fpx", str(tmp_path / "fpx.db"))
    assert (done.code, done.out) == (0, "0 clients imported\n")
    assert done.err.splitlines() == [
        "left alone: client ckan: name, id or secret is already taken",
        "left alone: client portal: name, id or secret is already taken",
    ]


def test_import_takes_over_the_applications_of_circe(gateway: Call, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "circe.db")) as connection, connection:
        connection.execute("CREATE TABLE auth(app_uuid text, app_name text, app_secret text)")
        connection.execute(f"INSERT INTO auth VALUES ('{'ab' * 16}', 'certic', 'their-secret')")
    assert gateway("client", "import", "circe", str(tmp_path / "circe.db")).out == "1 clients imported\n"
    (listed,) = gateway("client", "list", "--json").json()
    assert (listed["id"], listed["name"]) == ("ab" * 16, "certic")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fpx", "missing.db"), "missing.db"),
        (("fpx", __file__), "not a database"),
        (("ckan", "x.db"), "'ckan' is not one of 'fpx', 'circe'"),
        (("fpx",), "Missing argument 'DB'"),
    ],
    ids=["missing", "no database", "no such kind", "no database named"],
)
def test_what_cannot_be_imported_is_wrong_usage(gateway: Call, arguments: tuple[str, ...], words: str) -> None:
    done = gateway("client", "import", *arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


# gateway config


def test_check_says_ok_and_touches_nothing(empty: Call, data_dir: Path) -> None:
    done = empty("config", "check")
    assert (done.code, done.out, done.err) == (0, "ok: plugins archive\n", "")
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        ((), {"GATEWAY_PROT": "1"}, "GATEWAY_PROT: no such setting; did you mean GATEWAY_PORT?"),
        ((), {"GATEWAY_PORT": "x"}, "PORT: Input should be a valid integer"),
        ((), {"GATEWAY_ARCHIVE__MAX_ITMES": "1"}, "did you mean GATEWAY_ARCHIVE__MAX_ITEMS?"),
        (("--set", "archive.max_items=0"), {}, "ARCHIVE__MAX_ITEMS: Input should be greater than or equal to 1"),
        (("--set", "x"), {}, "--set x: expected key=value"),
        (("--plugins", "nothing"), {}, "no plugin 'nothing' is installed"),
        (("--config", "/nowhere.py"), {}, "/nowhere.py: No such file or directory"),
        ((), {"GATEWAY_DB_URL": "mysql://h/d"}, "the database URL begins with mysql:"),
        ((), {"GATEWAY_DB_URL": "postgresql://h/d"}, "SECRET_KEY must be set"),
        ((), {"GATEWAY_STORAGE_URL": "ftp://h/d"}, "STORAGE_URL: unknown scheme 'ftp'"),
        ((), {"GATEWAY_EGRESS_ALLOW": "10.0.0.0/99"}, "10.0.0.0/99"),
        ((), {"GATEWAY_REDIS_URL": "http://h"}, "Redis URL"),
    ],
    ids=lambda value: "" if not isinstance(value, str) else value[:30],
)
def test_wrong_configuration_is_exit_2_for_check_and_every_other_command(
    empty: Call, data_dir: Path, arguments: tuple[str, ...], environ: dict[str, str], words: str
) -> None:
    done = empty(*arguments, "config", "check", **environ)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("gateway: ")
    assert words in done.err
    assert not data_dir.exists()


@pytest.mark.parametrize(
    "command", [("client", "list"), ("db", "current"), ("config", "show"), ("serve", "--port", "0"), ("doctor",)]
)
def test_a_misspelt_name_stops_every_command(empty: Call, command: tuple[str, ...]) -> None:
    done = empty(*command, GATEWAY_HSOT="127.0.0.1")
    assert (done.code, done.out) == (2, "")
    assert done.err == "gateway: GATEWAY_HSOT: no such setting; did you mean GATEWAY_HOST?\n"


def test_show_tells_where_each_value_was_set(empty: Call, tmp_path: Path) -> None:
    file = tmp_path / "gateway.py"
    file.write_text('ARCHIVE = {"max_items": 500}\nWORKERS = 2\n')
    done = empty("--config", str(file), "--set", "archive.per_host=3", "config", "show", GATEWAY_PORT="81")
    assert (done.code, done.err) == (0, "")
    lines = {line.split()[0]: line.partition(" = ")[2] for line in done.out.splitlines()}
    assert lines["HOST"] == "127.0.0.1  (default)"
    assert lines["PORT"] == "81  (GATEWAY_PORT)"
    assert lines["WORKERS"] == f"2  ({file}: WORKERS)"
    assert lines["ARCHIVE__MAX_ITEMS"] == f"500  ({file}: ARCHIVE)"
    assert lines["ARCHIVE__PER_HOST"] == "3  (--set archive.per_host)"
    assert lines["PLUGINS"] == "archive  (GATEWAY_PLUGINS)"


def test_show_masks_secrets(empty: Call, tmp_path: Path) -> None:
    secret = tmp_path / "db"
    secret.write_text("postgresql://gateway:canary@db.example/gateway?ssl=require\n")
    environ = {
        "GATEWAY_DB_URL_FILE": str(secret),
        "GATEWAY_SECRET_KEY": "canary is a long key,canary is another key",
        "GATEWAY_REDIS_URL": "redis://:canary@redis.example/0",
        "GATEWAY_STORAGE_URL": "s3://bucket/prefix?access_key=canary&secret_key=canary&endpoint=http://s3.example",
    }
    shown = empty("config", "show", "--json", **environ).json()
    assert shown["db_url"] == {
        "value": "postgresql://gateway:***@db.example/gateway?ssl=require",
        "source": f"GATEWAY_DB_URL_FILE={secret}",
    }
    assert shown["secret_key"] == {"value": "***,***", "source": "GATEWAY_SECRET_KEY"}
    assert shown["redis_url"]["value"] == "redis://:***@redis.example/0"
    assert "canary" not in str(shown)
    assert "canary" not in empty("config", "show", **environ).out


def test_docs_is_the_page_of_settings(empty: Call) -> None:
    done = empty("config", "docs")
    assert done.code == 0
    assert done.out.startswith("# Configuration\n")
    assert "| `GATEWAY_ARCHIVE__MAX_ITEMS` |" in done.out


def test_injected_names_are_ignored_with_one_warning(empty: Call) -> None:
    done = empty("config", "check", GATEWAY_PORT="tcp://10.0.0.1:80", GATEWAY_SERVICE_HOST="10.0.0.1")
    assert (done.code, done.out) == (0, "ok: plugins archive\n")
    assert done.err.count("ignored what the platform injected") == 1


# gateway plugins


def test_plugins_are_listed_with_package_version_status_and_hooks(empty: Call) -> None:
    done = empty("plugins")
    line = next(line for line in done.out.splitlines() if line.startswith("archive "))
    assert f"content-gateway {__version__}  enabled  " in line
    assert "routes" in line
    listed = {plugin["name"]: plugin for plugin in empty("plugins", "--json").json()}
    assert listed["archive"]["entry_point"] == "gateway_archive.plugin"
    assert "gateway_routes" in listed["archive"]["hooks"]


def test_disabled_plugins_are_listed_as_such(empty: Call) -> None:
    done = empty("--plugins", "", "plugins", "--json")
    assert {plugin["status"] for plugin in done.json()} == {"disabled"}


# gateway db


def test_the_database_is_brought_up_shown_and_brought_down(empty: Call, data_dir: Path) -> None:
    assert re.fullmatch(r"core: nothing -> \w+\narchive: nothing -> \w+\n", empty("db", "current").out)
    assert empty("db", "upgrade").out == "the database is up to date\n"
    assert re.fullmatch(r"core: \w+\narchive: \w+\n", empty("db", "current").out)
    assert empty("db", "upgrade").code == 0
    assert empty("db", "downgrade", "archive").out == "archive is at nothing\n"
    assert re.fullmatch(r"core: \w+\narchive: nothing -> \w+\n", empty("db", "current").out)
    tables = {name for (name,) in rows(data_dir, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert "clients" in tables
    assert not [name for name in tables if name.startswith("archive_")]


def test_a_downgrade_before_anything_is_there_changes_nothing(empty: Call) -> None:
    assert empty("db", "downgrade", "archive").code == 0


def test_a_downgrade_may_name_a_revision(gateway: Call) -> None:
    at = re.findall(r"^core: (\w+)$", gateway("db", "current").out, re.MULTILINE)[0]
    assert gateway("db", "downgrade", "core", at).out == f"core is at {at}\n"
    assert f"core: {at}\n" in gateway("db", "current").out


def test_what_cannot_be_downgraded_is_told(gateway: Call) -> None:
    done = gateway("db", "downgrade", "nothing")
    assert done.code == 2
    assert "no migrations are called 'nothing'" in done.err
    done = gateway("db", "downgrade", "core", "nowhere")
    assert done.code == 1
    assert "nowhere" in done.err


def test_a_database_newer_than_the_code_is_refused(gateway: Call, data_dir: Path) -> None:
    with closing(sqlite3.connect(data_dir / "gateway.db")) as connection, connection:
        connection.execute("UPDATE alembic_version_core SET version_num = 'core_9999'")
    for command in (("client", "list"), ("db", "current"), ("db", "upgrade")):
        done = gateway(*command)
        assert done.code == 1
        assert "core_9999 of core, which this version does not know" in done.err


def test_commands_on_postgresql_do_not_migrate_by_themselves(empty: Call, postgres_server: PrivatePostgres) -> None:
    environ = {"GATEWAY_DB_URL": postgres_server.create("cli"), "GATEWAY_SECRET_KEY": KEY}
    done = empty("client", "list", **environ)
    assert done.code == 1
    assert done.err.endswith("gateway: the database is behind the code (core, archive); run: gateway db upgrade\n")
    assert empty("db", "upgrade", **environ).out == "the database is up to date\n"
    assert empty("client", "add", "ckan", **environ).code == 0
    assert empty("client", "list", **environ).out.startswith("ckan  ")


# Trouble


def test_a_wrong_key_stops_commands(gateway: Call) -> None:
    assert gateway("client", "add", "x", GATEWAY_SECRET_KEY=KEY).code == 0
    done = gateway("client", "list", GATEWAY_SECRET_KEY="another key of more than sixteen")
    assert done.code == 1
    assert done.err == "gateway: SECRET_KEY is not the key of this database; add the old key behind the new one\n"
    both = f"another key of more than sixteen,{KEY}"
    assert gateway("client", "list", GATEWAY_SECRET_KEY=both).code == 0
    assert gateway("client", "list", GATEWAY_SECRET_KEY="another key of more than sixteen").code == 0


@pytest.mark.parametrize("place", ["/dev/null/data", "/proc/gateway-data", "/proc"])
def test_a_data_folder_that_cannot_be_had_is_wrong_configuration(empty: Call, place: str) -> None:
    done = empty("client", "list", GATEWAY_DATA_DIR=place)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"gateway: DATA_DIR: cannot use {place}: ")


def test_a_file_that_is_no_database_is_told(gateway: Call, data_dir: Path) -> None:
    (data_dir / "gateway.db").write_bytes(b"no database " * 1000)
    done = gateway("client", "list")
    assert (done.code, done.out) == (1, "")
    assert "the file is not an SQLite database" in done.err


def test_unknown_commands_and_options_are_wrong_usage(empty: Call) -> None:
    for arguments in (("nothing",), ("client", "nothing"), ("client", "add"), ("--nothing",), ("client", "list", "x")):
        done = empty(*arguments)
        assert (done.code, done.out) == (2, ""), arguments
        assert done.err


# The rest


def test_the_version_needs_no_settings(empty: Call) -> None:
    assert empty("--version", GATEWAY_PROT="1").out == f"gateway, version {__version__}\n"


def test_help_names_every_command(empty: Call) -> None:
    done = empty("--help")
    assert done.code == 0
    for name in ("serve", "demo", "config", "plugins", "db", "client", "doctor", "completion", "ticket"):
        assert re.search(rf"^  {name} +\w", done.out, re.MULTILINE), name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(empty: Call, shell: str) -> None:
    done = empty("completion", shell)
    assert (done.code, done.err) == (0, "")
    assert "_GATEWAY_COMPLETE" in done.out


def test_completion_of_another_shell_is_wrong_usage(empty: Call) -> None:
    assert empty("completion", "cmd").code == 2


def test_completion_completes() -> None:
    environ = {"PATH": "/usr/bin:/bin", "_GATEWAY_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", "from gateway_core.cli import main; main()"],
        env={**environ, "COMP_WORDS": "gateway client re"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert set(done.stdout.split()) == {"plain,revoke"}


def test_the_module_is_the_command_and_its_exit_code_the_process() -> None:
    command = [sys.executable, "-m", "gateway_core"]
    environ = {"PATH": "/usr/bin:/bin", "GATEWAY_PROT": "1"}
    done = subprocess.run([*command, "--version"], env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"gateway, version {__version__}\n")
    done = subprocess.run(
        [*command, "config", "check"], env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
