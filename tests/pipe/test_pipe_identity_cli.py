"""``gateway pipe ca``, ``invite``, ``revoke``: what they print, and their exit codes."""

from __future__ import annotations

import json
import sqlite3
import ssl
import subprocess
import sys
import time
from contextlib import closing

import pytest

from gateway_core.cli import main
from gateway_pipe.identity.tokens import parse_token
from tests.core.log_state import logging_restored


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Of all tests here, in their order: the authority is made once."""
    return tmp_path_factory.mktemp("cli") / "data"


@pytest.fixture
def call(data_dir, monkeypatch, capsys):
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(data_dir))
    monkeypatch.setenv("GATEWAY_PLUGINS", "pipe")

    def called(*arguments):
        with logging_restored(), pytest.raises(SystemExit) as ended:
            main(["pipe", *arguments])
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return called


def test_authority_and_invitations_by_command(call, data_dir):
    code, _, err = call("invite", "node1")
    assert (code, "gateway pipe ca init" in err) == (1, True)

    code, out, _ = call("ca", "init")
    assert code == 0
    assert "SHA-256" in out
    code, _, err = call("ca", "init")
    assert (code, "already" in err) == (1, True)

    code, pem, _ = call("ca", "show")
    assert ssl.PEM_cert_to_DER_cert(pem)

    code, out, _ = call("invite", "node1", "--ttl", "60", "--json")
    told = json.loads(out)
    assert (code, sorted(told), told["name"]) == (0, ["expires", "name", "token"], "node1")
    assert told["expires"] == pytest.approx(time.time() + 60, abs=30)
    assert parse_token(told["token"]).text == told["token"]

    code, out, err = call("revoke", "node1")
    assert (code, err) == (0, "")
    assert "gateway pipe invite node1" in out
    with closing(sqlite3.connect(data_dir / "gateway.db")) as db:
        assert db.execute("SELECT counter FROM wakeups WHERE topic = 'pipe:revoked'").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM pipe_invites").fetchone() == (0,)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("invite", "a/b"), "1 to 128 letters"),
        (("invite", "node1", "--ttl", "0"), "more than nothing"),
        (("invite", "node1", "--ttl", "soon"), "a span such as 15m"),
        (("revoke", ""), "1 to 128"),
        (("enroll", "https://127.0.0.1:1", "--token", "gw_x", "--dir", "d"), "no token"),
        (("enroll", "ftp://127.0.0.1", "--token", "gw_x", "--dir", "d"), "expected https://"),
        (("doctor", "127.0.0.1:1"), "expected https://"),
        (("doctor", "https://127.0.0.1:1", "--cert", __file__), "--cert and --key"),
        (("doctor", "https://127.0.0.1:1", "--dir", "."), "no node has enrolled here"),
    ],
)
def test_wrong_usage_is_told_and_ends_with_two(call, arguments, words):
    code, _, err = call(*arguments)
    assert (code, words in err) == (2, True), err


def test_doctor_ends_with_one_when_something_is_wrong(call):
    code, out, _ = call("doctor", "https://127.0.0.1:1")
    assert code == 1
    assert "WRONG  127.0.0.1 port 1: the connection was refused" in out


def test_a_revocation_by_mistake_is_undone(call, data_dir):
    assert call("revoke", "node1")[0] == 0
    code, out, _ = call("revoke", "node1", "--undo")
    assert (code, out) == (0, "Revocation undone: node1\n")
    with closing(sqlite3.connect(data_dir / "gateway.db")) as db:
        assert db.execute("SELECT count(*) FROM pipe_revocations").fetchone() == (0,)
    code, _, err = call("revoke", "node1", "--undo")
    assert (code, err) == (1, "gateway: node1 is not revoked\n")


def test_a_node_loads_neither_settings_nor_database():
    code = (
        "import sys; import gateway_pipe.cli.connect, gateway_pipe.cli.identity, gateway_pipe.node.program;"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'pydantic', 'sqlalchemy'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
