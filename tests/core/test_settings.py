"""What can be set, which forms are taken, and what is refused in words that help."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, SecretStr, ValidationError

from gateway_core.errors import ConfigError
from gateway_core.settings import Inputs, PluginSettings, Seconds, Settings, load_settings, parse_duration
from gateway_core.settings.docs import render_docs
from gateway_core.settings.load import settings_model
from gateway_core.settings.mask import mask_url

KEY = "a key of more than sixteen characters"


class HelloSettings(PluginSettings):
    """What the greeter says."""

    words: tuple[str, ...] = Field(("hi",), description="Words to say")
    limits: dict[str, int] = Field(default_factory=dict, description="Limits by name")
    ttl: Seconds = Field(60.0, description="Life of a greeting")
    maybe: list[int] | None = Field(None, description="Numbers, or none")


def loaded(environ: dict[str, str]) -> Settings:
    return load_settings(Inputs(environ=environ), {"hello": HelloSettings}).settings


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(environ)
    return caught.value.detail


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("90s", 90.0),
        (" 15m ", 900.0),
        ("24h", 86400.0),
        ("7D", 604800.0),
        ("1.5 h", 5400.0),
        ("2w", 1209600.0),
        ("250ms", 0.25),
    ],
)
def test_time_spans_are_seconds_or_have_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "h", "-1h", "1y", "1h30m", "1e3", "inf", "nan", "1,5h", "one"])
def test_other_texts_are_no_time_span(text: str) -> None:
    with pytest.raises(ValueError, match="such as 24h"):
        parse_duration(text)


def test_a_number_is_a_time_span_as_it_is() -> None:
    assert parse_duration(0.5) == 0.5


@pytest.mark.parametrize(
    ("text", "ports"),
    [("80", (80,)), ("80,443", (80, 443)), (" 80 , 443, ", (80, 443)), ("[80, 443]", (80, 443)), ("[]", ())],
)
def test_lists_are_taken_with_commas_and_as_json(text: str, ports: tuple[int, ...]) -> None:
    assert loaded({"GATEWAY_EGRESS_PORTS": text}).egress_ports == ports


def test_sections_take_lists_dicts_and_time_spans() -> None:
    section = loaded(
        {
            "GATEWAY_HELLO__WORDS": "a,b",
            "GATEWAY_HELLO__LIMITS": '{"x": 1}',
            "GATEWAY_HELLO__TTL": "2m",
            "GATEWAY_HELLO__MAYBE": "1,2",
        }
    ).section("hello")
    assert isinstance(section, HelloSettings)
    assert (section.words, section.limits, section.ttl, section.maybe) == (("a", "b"), {"x": 1}, 120.0, [1, 2])


def test_a_list_that_is_broken_json_is_refused_by_name() -> None:
    text = refusal({"GATEWAY_HOST": "x", "GATEWAY_HELLO__WORDS": '["a"', "GATEWAY_EGRESS_PORTS": "[80"})
    assert "HELLO__WORDS: " in text
    assert "(from GATEWAY_HELLO__WORDS)" in text
    assert "EGRESS_PORTS: " in text
    assert "(from GATEWAY_EGRESS_PORTS)" in text
    assert "GATEWAY_HOST" not in text


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "65536", "less than or equal to 65535"),
        ("PORT", "http", "valid integer"),
        ("WORKERS", "0", "greater than or equal to 1"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("PUBLIC_URL", "gateway.example", "http:// or https://"),
        ("TRUSTED_PROXIES", "10.0.0.0/8,proxy.example", "proxy.example"),
        ("DRAIN_TIMEOUT_S", "soon", "such as 24h"),
        ("DEBUG", "perhaps", "valid boolean"),
        ("SECRET_KEY", "a key that is long enough,short", "at least 16 characters"),
        ("EGRESS_STALL_S", "0", "greater than 0"),
        ("HELLO__PREFIX", "hello", "begins with /"),
        ("HELLO__PREFIX", "/{id}", "no braces"),
        ("HELLO__TTL", "x", "such as 24h"),
        ("HELLO__LIMITS", '{"x": "many"}', "valid integer"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_origin(name: str, value: str, words: str) -> None:
    text = refusal({f"GATEWAY_{name}": value})
    assert text.startswith(f"{name}")
    assert words in text
    assert text.endswith(f"(from GATEWAY_{name})")


def test_a_refusal_never_repeats_a_secret() -> None:
    assert "hunter2" not in refusal({"GATEWAY_SECRET_KEY": "hunter2", "GATEWAY_DB_URL": "postgresql://u:hunter2@h/d"})


def test_all_problems_are_told_at_once() -> None:
    text = refusal({"GATEWAY_PORT": "x", "GATEWAY_WORKERS": "x"})
    assert text.splitlines() == [
        "PORT: Input should be a valid integer, unable to parse string as an integer (from GATEWAY_PORT)",
        "WORKERS: Input should be a valid integer, unable to parse string as an integer (from GATEWAY_WORKERS)",
    ]


def test_postgresql_needs_a_secret_key() -> None:
    text = refusal({"GATEWAY_HOST": "0.0.0.0", "GATEWAY_DB_URL": "postgresql://db.example/gateway"})
    assert text == "SECRET_KEY must be set with PostgreSQL, so that all gateways use the same"
    assert loaded({"GATEWAY_DB_URL": "postgresql://db.example/gateway", "GATEWAY_SECRET_KEY": KEY}).secret_key


def test_several_secret_keys_are_newest_first() -> None:
    keys = loaded({"GATEWAY_SECRET_KEY": f"new {KEY},old {KEY}"}).secret_key
    assert [key.get_secret_value() for key in keys] == [f"new {KEY}", f"old {KEY}"]
    assert KEY not in repr(keys)


def test_public_url_and_prefix_lose_their_last_slash() -> None:
    settings = loaded({"GATEWAY_PUBLIC_URL": "https://gw.example/fpx/", "GATEWAY_HELLO__PREFIX": "/hello/"})
    assert settings.public_url == "https://gw.example/fpx"
    assert settings.section("hello").prefix == "/hello"


def test_the_data_folder_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert loaded({"GATEWAY_DATA_DIR": "~/data"}).data_dir == tmp_path / "data"
    assert loaded({"GATEWAY_DATA_DIR": "data"}).data_dir == tmp_path / "data"


def test_the_database_is_in_the_data_folder_unless_set() -> None:
    assert loaded({"GATEWAY_DATA_DIR": "/d"}).database_url == "sqlite:////d/gateway.db"
    assert loaded({"GATEWAY_DB_URL": "sqlite:////x.db"}).database_url == "sqlite:////x.db"


def test_defaults_are_safe_without_anything_set() -> None:
    settings = loaded({})
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8000, 1)
    assert settings.egress_allow == ()
    assert settings.egress_ports == (80, 443)
    assert not settings.debug


def test_settings_cannot_be_changed_later() -> None:
    settings = loaded({})
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1
    with pytest.raises(ValidationError, match="frozen"):
        settings.section("hello").prefix = "/x"


def test_only_plugins_have_sections() -> None:
    with pytest.raises(KeyError):
        loaded({}).section("host")


def test_a_section_cannot_have_the_name_of_a_core_setting() -> None:
    with pytest.raises(ConfigError, match="plugin section 'host' has the name of a core setting"):
        settings_model({"host": HelloSettings})


def test_no_setting_of_a_section_ends_in_file_since_the_environment_reads_that_file() -> None:
    class KeyedSettings(PluginSettings):
        """Has a name that GATEWAY_KEYED__CERT_FILE can never set."""

        cert_file: str = Field("", description="A file")

    with pytest.raises(ConfigError, match="keyed: the setting cert_file ends in _file"):
        settings_model({"keyed": KeyedSettings})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:secret@db.example/gateway", "postgresql://user:***@db.example/gateway"),
        ("redis://:secret@127.0.0.1:6379/0", "redis://:***@127.0.0.1:6379/0"),
        ("s3://key:secret@bucket/prefix", "s3://key:***@bucket/prefix"),
        ("postgresql://db/x?user=u&password=secret", "postgresql://db/x?user=u&password=***"),
        ("s3://b?access_key=secret&secret_key=secret&region=eu", "s3://b?access_key=***&secret_key=***&region=eu"),
        ("postgresql://user:se/cr@et@db/gateway", "postgresql://user:***@db/gateway"),
        ("postgresql://user:secr#et@db/gateway", "postgresql://user:***@db/gateway"),
        ("postgresql://user:secr?et@db/gateway", "postgresql://user:***@db/gateway"),
        ("postgresql://user:secret@[::1/gateway", "postgresql://user:***@[::1/gateway"),
        ("postgresql://user@db/gateway", "postgresql://user@db/gateway"),
        ("sqlite:////var/gateway.db", "sqlite:////var/gateway.db"),
        ("", ""),
    ],
)
def test_passwords_in_urls_are_masked(url: str, shown: str) -> None:
    assert mask_url(url) == shown


def test_the_page_of_settings_has_every_field_with_its_description() -> None:
    page = render_docs({"hello": HelloSettings})
    for name, field in Settings.model_fields.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `GATEWAY_{name.upper()}` |"))
        assert field.description
        assert row.endswith(f"| {field.description} |")
        assert row.count(" | ") == 3, row
    assert "## Plugin `hello`" in page
    assert "| `GATEWAY_HELLO__WORDS` | list of text | `hi` | Words to say |" in page
    assert "| `GATEWAY_HELLO__TTL` | time span | `60` | Life of a greeting |" in page
    assert "| `GATEWAY_HELLO__PREFIX` | text | none | " in page
    assert "| `GATEWAY_SECRET_KEY` | list of secret | none | " in page


def test_no_type_in_the_page_is_a_name_of_python() -> None:
    types = {line.split(" | ")[1] for line in render_docs({"hello": HelloSettings}).splitlines() if line[:3] == "| `"}
    assert "text" in types
    assert types.isdisjoint({"Path", "str", "dict", "list", "bool", "int", "float", SecretStr.__name__})
