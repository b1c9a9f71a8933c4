"""Where settings come from, which of them wins, and what is told about names and files that do not fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from gateway_core.errors import ConfigError
from gateway_core.settings import Inputs, Loaded, PluginSettings, bootstrap, load_settings


class HelloSettings(PluginSettings):
    """What the greeter says."""

    greeting: str = Field("hi", description="Word to say")
    times: int = Field(1, description="How often")


def load(disabled: frozenset[str] = frozenset(), **inputs: Any) -> Loaded:
    return load_settings(Inputs(**inputs), {"hello": HelloSettings}, disabled=disabled)


def refusal(**inputs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(**inputs)
    return caught.value.detail


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A settings file that sets three things."""
    path = tmp_path / "gateway.py"
    path.write_text('PORT = 3\nHOST = "file"\nHELLO = {"greeting": "file", "times": 3}\n')
    path.chmod(0o600)
    return path


def test_the_order_is_command_line_environment_secret_file_python_file_default(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret file\n")
    weaker: dict[str, Any] = {"config": file}
    assert load().settings.host == "127.0.0.1"
    assert load(**weaker).settings.host == "file"
    weaker["environ"] = {"GATEWAY_HOST_FILE": str(secret)}
    assert load(**weaker).settings.host == "secret file"
    weaker["environ"]["GATEWAY_HOST"] = "environment"
    assert load(**weaker).settings.host == "environment"
    assert load(options={"host": "option"}, **weaker).settings.host == "option"


def test_options_that_were_not_given_and_empty_variables_set_nothing(file: Path) -> None:
    loaded = load(options={"host": None}, environ={"GATEWAY_HOST": "", "GATEWAY_HOST_FILE": ""}, config=file)
    assert loaded.settings.host == "file"


def test_sections_are_merged_key_by_key(file: Path) -> None:
    loaded = load(
        config=file,
        environ={"GATEWAY_HELLO__GREETING": "environment"},
        assignments=["hello.prefix=/set"],
    )
    section = loaded.settings.section("hello")
    assert section == HelloSettings(greeting="environment", times=3, prefix="/set")


def test_the_origin_of_each_value_is_known(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("a key of sixteen and more")
    loaded = load(
        options={"workers": 2},
        assignments=["hello.prefix=/x"],
        environ={"GATEWAY_HELLO__GREETING": "x", "GATEWAY_SECRET_KEY_FILE": str(secret)},
        config=file,
    )
    origins = {name: origin for name, _, origin in loaded.values()}
    assert origins["workers"] == "--workers"
    assert origins["hello.prefix"] == "--set hello.prefix"
    assert origins["hello.greeting"] == "GATEWAY_HELLO__GREETING"
    assert origins["secret_key"] == f"GATEWAY_SECRET_KEY_FILE={secret}"
    assert origins["hello.times"] == f"{file}: HELLO"
    assert origins["port"] == f"{file}: PORT"
    assert origins["debug"] == "default"


def test_values_hold_every_setting_of_core_and_sections_once() -> None:
    names = [name for name, _, _ in load().values()]
    assert len(names) == len(set(names))
    assert {"host", "secret_key", "hello.prefix", "hello.greeting", "hello.times"} <= set(names)
    assert "hello" not in names


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"environ": {"GATEWAY_PROT": "1"}}, "GATEWAY_PROT: no such setting; did you mean GATEWAY_PORT?"),
        (
            {"environ": {"GATEWAY_HELLO__GREETNIG": "1"}},
            "GATEWAY_HELLO__GREETNIG: no such setting; did you mean GATEWAY_HELLO__GREETING?",
        ),
        (
            {"environ": {"GATEWAY_HELO__GREETING": "1"}},
            "GATEWAY_HELO__GREETING: no such setting; did you mean GATEWAY_HELLO__GREETING?",
        ),
        (
            {"environ": {"GATEWAY_DBURL_FILE": os.devnull}},
            f"GATEWAY_DBURL_FILE={os.devnull}: no such setting; did you mean GATEWAY_DB_URL_FILE?",
        ),
        ({"environ": {"GATEWAY_QQQQQQ": "1"}}, "GATEWAY_QQQQQQ: no such setting"),
        ({"assignments": ["prot=1"]}, "--set prot: no such setting; did you mean PORT?"),
        ({"assignments": ["hello.gretting=1"]}, "--set hello.gretting: no such setting; did you mean HELLO__GREETING?"),
    ],
)
def test_a_name_that_no_setting_has_is_told_with_the_nearest(inputs: dict[str, Any], told: str) -> None:
    assert refusal(**inputs) == told


def test_every_wrong_name_is_told_at_once() -> None:
    text = refusal(environ={"GATEWAY_PROT": "1", "GATEWAY_HSOT": "1"}, assignments=["wrokers=2"])
    assert {line.split(":")[0] for line in text.splitlines()} == {"GATEWAY_PROT", "GATEWAY_HSOT", "--set wrokers"}


def test_a_wrong_name_in_the_file_is_told_with_file_and_name(tmp_path: Path) -> None:
    path = tmp_path / "gateway.py"
    path.write_text("PROT = 1\n")
    assert refusal(config=path) == f"{path}: PROT: no such setting; did you mean PORT?"


def test_names_that_other_parts_read_are_left_alone() -> None:
    environ = {"GATEWAY_URL": "x", "GATEWAY_SECRET": "x", "GATEWAY_TEST_REQUIRE": "redis", "PORT": "1", "GATEWAYS": "1"}
    loaded = load(environ=environ)
    assert not loaded.warnings
    assert {origin for _, _, origin in loaded.values()} == {"default"}


def test_what_a_container_platform_injects_is_ignored_with_one_warning() -> None:
    environ = {
        "GATEWAY_PORT": "tcp://10.0.0.1:80",
        "GATEWAY_PORT_80_TCP": "tcp://10.0.0.1:80",
        "GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1",
        "GATEWAY_PORT_80_TCP_PROTO": "tcp",
        "GATEWAY_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_SERVICE_PORT": "80",
        "GATEWAY_SERVICE_PORT_HTTP": "80",
    }
    loaded = load(environ=environ)
    assert loaded.settings.port == 8000
    assert len(loaded.warnings) == 1
    assert all(name in loaded.warnings[0] for name in environ)


def test_a_port_of_ones_own_beside_injected_names_counts() -> None:
    loaded = load(environ={"GATEWAY_PORT": "81", "GATEWAY_SERVICE_HOST": "10.0.0.1"})
    assert loaded.settings.port == 81
    assert loaded.warnings == [
        "ignored what the platform injected for a service called gateway: GATEWAY_SERVICE_HOST",
    ]


def test_sections_of_disabled_plugins_are_accepted_unread(tmp_path: Path) -> None:
    path = tmp_path / "gateway.py"
    path.write_text('PIPE = {"nodes": 5}\n')
    environ = {"GATEWAY_PIPE__ANYTHING": "x"}
    assert load(frozenset({"pipe"}), environ=environ, config=path).settings.port == 8000
    assert "GATEWAY_PIPE__ANYTHING: no such setting" in refusal(environ=environ)


@pytest.mark.parametrize("text", ["port", "=5", " =5"])
def test_an_assignment_needs_a_key_and_an_equals_sign(text: str) -> None:
    assert refusal(assignments=[text]) == f"--set {text}: expected key=value"


def test_an_assignment_keeps_equals_signs_in_its_value() -> None:
    loaded = load(assignments=["db_url=postgresql://h/d?sslmode=require", 'secret_key=["a key of sixteen, or more"]'])
    assert loaded.settings.db_url == "postgresql://h/d?sslmode=require"
    assert [key.get_secret_value() for key in loaded.settings.secret_key] == ["a key of sixteen, or more"]


def test_a_value_where_a_section_belongs_is_refused(tmp_path: Path) -> None:
    assert "HELLO: " in refusal(environ={"GATEWAY_HELLO": "5"})
    assert "both a value and a section" in refusal(environ={"GATEWAY_HELLO": "5", "GATEWAY_HELLO__TIMES": "5"})
    assert "both a value and a section" in refusal(environ={"GATEWAY_HELLO__TIMES": "5", "GATEWAY_HELLO": "5"})
    path = tmp_path / "gateway.py"
    path.write_text("HELLO = 5\n")
    assert "HELLO: " in refusal(config=path)


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert refusal(environ={"GATEWAY_DB_URL_FILE": str(missing)}).startswith(
        f"GATEWAY_DB_URL_FILE: cannot read {missing}: "
    )
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert "GATEWAY_DB_URL_FILE: cannot read" in refusal(environ={"GATEWAY_DB_URL_FILE": str(binary)})


def test_the_file_is_python_and_only_its_upper_case_names_count(tmp_path: Path) -> None:
    path = tmp_path / "gateway.py"
    path.write_text(
        "from pathlib import Path\n"
        "_HIDDEN = 1\n"
        "port = 5\n"
        "def Helper(): return 41\n"
        "PORT = Helper() + 1\n"
        "DATA_DIR = Path(__file__).parent / 'data'\n"
        "HELLO__TIMES = 7\n"
        "EGRESS_ALLOW = ['10.0.0.0/8']\n"
    )
    settings = load(config=path).settings
    assert (settings.port, settings.data_dir, settings.egress_allow) == (42, tmp_path / "data", ("10.0.0.0/8",))
    assert settings.section("hello") == HelloSettings(times=7)


def test_the_environment_may_name_the_file_and_the_command_line_another(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text("PORT = 4\n")
    environ = {"GATEWAY_CONFIG": str(file)}
    assert load(environ=environ).settings.port == 3
    assert load(environ=environ, config=other).settings.port == 4


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_to_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert refusal(config=file) == f"{file}: others may write to it; chmod go-w, and own it yourself or as root"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(file: Path) -> None:
    os.chown(file, 65534, 65534)
    assert "others may write to it" in refusal(config=file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("PORT = = 5", "invalid syntax"),
        ("PORT = 1 / 0", "ZeroDivisionError: division by zero"),
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
        ("raise SystemExit(0)", "SystemExit"),
        ("\0", "null bytes"),
    ],
)
def test_a_file_that_fails_is_told_with_its_reason(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "gateway.py"
    path.write_text(text)
    told = refusal(config=path)
    assert told.startswith(f"{path}: ")
    assert words in told


def test_a_missing_file_or_a_folder_is_told(tmp_path: Path) -> None:
    assert refusal(config=tmp_path / "missing.py") == f"{tmp_path / 'missing.py'}: No such file or directory"
    assert str(tmp_path) in refusal(config=tmp_path)
    assert refusal(config=Path(os.devnull)) == f"{os.devnull}: not a regular file"


def test_plugins_are_known_before_the_rest_fits(file: Path) -> None:
    file.write_text('PLUGINS = ["a", "b"]\nPLUGINS_STRICT = False\nPORT = "no port"\n')
    early = bootstrap(Inputs(config=file))
    assert (early.plugins, early.plugins_strict) == (("a", "b"), False)
    early = bootstrap(Inputs(config=file, environ={"GATEWAY_PLUGINS": "c,d"}, options={"plugins": "e"}))
    assert (early.plugins, early.plugins_strict) == (("e",), False)


def test_all_plugins_are_wanted_where_nothing_says_otherwise() -> None:
    assert bootstrap(Inputs()).plugins is None
    assert bootstrap(Inputs(environ={"GATEWAY_PLUGINS": ""})).plugins is None
    assert bootstrap(Inputs(options={"plugins": ""})).plugins == ()


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"GATEWAY_PLUGINS": "[archive"}, "PLUGINS: not valid JSON"),
        ({"GATEWAY_PLUGINS": '{"a": 1}'}, "PLUGINS: "),
        ({"GATEWAY_PLUGINS_STRICT": "perhaps"}, "PLUGINS_STRICT: "),
    ],
)
def test_a_list_of_plugins_that_does_not_fit_is_told(environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bootstrap(Inputs(environ=environ))
    assert caught.value.detail.startswith(words)
    assert caught.value.detail.endswith(f"(from {next(iter(environ))})")
