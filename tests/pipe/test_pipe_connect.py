"""``gateway pipe connect``: its options, and one real process."""

from __future__ import annotations

import asyncio
import signal

import pytest
from click.testing import CliRunner
from cryptography import x509
from structlog.testing import capture_logs

from gateway_core.errors import ConfigError
from gateway_pipe.cli.connect import _warn, connect
from gateway_pipe.identity.urls import gateway_url
from gateway_pipe.link.model import Goodbye
from gateway_pipe.node.credentials import SecretIdentity
from gateway_pipe.node.program import Options
from tests.pipe.gateways import stub_gateway
from tests.pipe.identity_stand import leaf
from tests.pipe.node_process import node_process

URL = "https://127.0.0.1:9"
SECRET = ("--name", "node1", "--secret", "s3cret")


def run(*arguments, env=None):
    return CliRunner().invoke(connect, arguments, env={"GATEWAY_URL": None, "GATEWAY_SECRET": None, **(env or {})})


@pytest.fixture
def certificate(tmp_path):
    def make(*names):
        cert, key = leaf(None, sans=tuple(x509.UniformResourceIdentifier(f"pipe:{n}") for n in names)).write(tmp_path)
        return ("--cert", str(cert), "--key", str(key), "--ca", str(cert))

    return make


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "who is this?"),
        ([URL], "who is this?"),
        (["--name", "a", "--secret", "s"], "where is the gateway?"),
        ([URL, "--secret", "s"], "--secret needs --name"),
        ([URL, "--secret", "s", "--name", "-a"], "--name:"),
        ([URL, "--secret", "s s", "--name", "a"], "--secret:"),
        ([URL, *SECRET, "--local", "8788"], "HOST:PORT"),
        ([URL, *SECRET, "--local", "127.0.0.1:99999"], "HOST:PORT"),
        ([URL, *SECRET, "--statsd", "x"], "HOST:PORT"),
        ([URL, *SECRET, "--tag", "a b"], "a b"),
        ([URL, *SECRET, "--expose", "nonsense"], "expected NAME=URL"),
        ([URL, *SECRET, "--expose", "a=http://h:1", "--expose", "a=http://h:2"], "the same name"),
        ([URL, *SECRET, "--dir", "/tmp"], "exclude each other"),
        ([URL, *SECRET, "--slots", "0"], "--slots"),
        ([URL, "--dir", "/does/not/exist"], "--dir"),
        ([URL, "--secret-file", "/does/not/exist"], "--secret-file"),
    ],
)
def test_wrong_usage_is_explained(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("url", ["ftp://x", "127.0.0.1:9", "https://u:p@x", "https://x?y"])
def test_what_is_no_url_of_a_gateway_is_refused(url):
    result = run(url, *SECRET)
    assert isinstance(result.exception, ConfigError)


def test_certificate_and_key_belong_together(certificate):
    arguments = certificate("node1")
    result = run(URL, *arguments[:2])
    assert "--cert and --key belong together" in result.output


def test_a_certificate_needs_https(certificate):
    result = run("http://127.0.0.1:9", *certificate("node1"))
    assert "needs https://" in result.output


def test_the_name_must_be_the_certificates(certificate):
    result = run(URL, *certificate("node1"), "--name", "node2")
    assert "the certificate is for node1" in result.output


def test_of_several_names_one_must_be_given(certificate):
    result = run(URL, *certificate("node1", "node2"))
    assert isinstance(result.exception, ConfigError)
    assert "--name" in str(result.exception)


def test_a_key_of_another_certificate_is_told_at_once(certificate, tmp_path):
    arguments = list(certificate("node1"))
    (tmp_path / "other").mkdir()
    arguments[3] = str(leaf(None).write(tmp_path / "other")[1])
    result = run(URL, *arguments)
    assert isinstance(result.exception, ConfigError)
    assert "does not belong" in str(result.exception)


def test_a_folder_where_nobody_enrolled_is_named(tmp_path):
    result = run("--dir", str(tmp_path))
    assert isinstance(result.exception, ConfigError)
    assert "gateway pipe enroll" in str(result.exception)


def test_handlers_that_are_not_there_end_with_the_options_name(tmp_path):
    result = run(URL, *SECRET, "--handlers", "no.such:Thing", env={"XDG_STATE_HOME": str(tmp_path)})
    assert isinstance(result.exception, ConfigError)
    assert "--handlers" in str(result.exception)


@pytest.mark.parametrize(
    ("url", "local", "events"),
    [
        ("http://gateway.example", ("127.0.0.1", 1), ["the secret and all calls travel in the clear: use https://"]),
        ("http://127.0.0.1:8000", ("127.0.0.1", 1), []),
        ("https://gateway.example", None, []),
        (URL, ("0.0.0.0", 1), ["other machines can call the gateway's handlers through this node"]),
    ],
)
def test_what_is_not_safe_is_said(url, local, events):
    identity = SecretIdentity("node1", "s3cret", ca=None, secure=False)
    with capture_logs() as logs:
        _warn(Options(target=gateway_url(url), identity=identity, folder=None, local=local), plain_secret=True)
    assert [line["event"] for line in logs] == events


async def test_a_node_process_connects_with_a_secret_from_a_file_and_ends_with_0(tmp_path):
    (tmp_path / "secret").write_text("s3cret\n")
    async with stub_gateway() as gateway:
        arguments = (
            gateway.url,
            "--name",
            "node1",
            "--secret-file",
            str(tmp_path / "secret"),
            "--local",
            "127.0.0.1:0",
        )
        async with node_process(*arguments, env={"XDG_STATE_HOME": str(tmp_path)}) as node:
            link = await asyncio.wait_for(gateway.links.get(), 20)
            ready = await node.wait_log("connected")
            assert await node.stop(signal.SIGINT) == 0
            assert (await link.leaving()).code is Goodbye.SHUTDOWN
    assert gateway.requests[0].headers["Authorization"] == "Bearer s3cret"
    assert ready["server"] == gateway.url
    assert (tmp_path / "content-gateway" / "pipe" / "node1" / "journal.db").exists()
    assert "s3cret" not in str(node.logs)
    assert any(str(line["event"]).startswith(f"Connected: node1 at {gateway.url}") for line in node.logs)
