"""Options of commands that are clients of a running gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import click
import pytest
from click.testing import CliRunner

from gateway_core.cli import Remote, remote_options
from gateway_core.cli.commands import GROUP, client_commands, load_client
from gateway_core.errors import PluginError


@click.command()
@click.argument("name")
@remote_options
def hello(name: str, *, remote: Remote) -> None:
    click.echo(f"{name} {remote.url} {remote.secret} {remote.headers.get('Authorization')}")


def call(*arguments: str, **environ: str):
    return CliRunner().invoke(hello, arguments, env={"GATEWAY_URL": None, "GATEWAY_SECRET": None, **environ})


def test_options_win_over_the_environment():
    done = call("ann", "--server", "https://g.test/p/", "--secret", "s1", GATEWAY_URL="http://no", GATEWAY_SECRET="no")
    assert done.output == "ann https://g.test/p s1 Bearer s1\n"


def test_environment_stands_for_the_options():
    done = call("ann", GATEWAY_URL="http://h:1", GATEWAY_SECRET="s2")
    assert done.output == "ann http://h:1 s2 Bearer s2\n"


def test_without_a_secret_nothing_is_sent():
    assert call("ann").output == "ann http://127.0.0.1:8000 None None\n"


def test_a_credentials_file_holds_the_secret(tmp_path):
    file = tmp_path / "client.json"
    file.write_text(json.dumps({"id": "1", "name": "n", "secret": "s3", "scopes": []}))
    assert call("ann", "--credentials", str(file)).output.split()[2] == "s3"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"secret": 1}'])
def test_a_file_that_is_none_is_a_usage_error(tmp_path, text):
    file = tmp_path / "client.json"
    file.write_text(text)
    done = call("ann", "--credentials", str(file))
    assert done.exit_code == 2
    assert "no credentials file" in done.output


def test_a_server_that_is_no_url_is_a_usage_error():
    assert call("ann", "--server", "g.test").exit_code == 2


def test_a_secret_is_not_shown():
    assert "s3cret" not in repr(Remote("http://h", "s3cret"))


def test_a_client_starts_without_the_server():
    code = (
        "import sys; from gateway_core.cli.root import root;"
        "root.main(args=['get', '--help'], standalone_mode=False);"
        "print([name for name in ('aiohttp', 'sqlalchemy', 'pydantic', 'pluggy', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_clients_are_found_by_their_entry_points():
    assert load_client(client_commands()["get"]).name == "get"


@pytest.mark.parametrize("value", ["no_such_module:command", "json:loads", "json:nothing"])
def test_a_client_that_cannot_be_loaded_is_named(value):
    with pytest.raises(PluginError, match=f"'mine' \\({value}\\)"):
        load_client(EntryPoint("mine", value, GROUP))
