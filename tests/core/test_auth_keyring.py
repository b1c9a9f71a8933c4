"""Keys: what is encrypted under them, how they change, and the key an installation makes for itself."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pytest

from gateway_core.auth.keyring import Keyring, instance_key
from gateway_core.errors import StartupError

OLD, NEW, OTHER = ("an old key of sixteen", "a new key of sixteen", "another key of sixteen")


def test_what_was_encrypted_can_be_read_and_looks_different_each_time() -> None:
    keys = Keyring([OLD])
    first, second = keys.encrypt(b"secret"), keys.encrypt(b"secret")
    assert first != second
    assert b"secret" not in first
    assert keys.decrypt(first) == keys.decrypt(second) == b"secret"


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    old, both, new = Keyring([OLD]), Keyring([NEW, OLD]), Keyring([NEW])
    assert both.decrypt(old.encrypt(b"x")) == b"x"
    assert new.decrypt(both.encrypt(b"x")) == b"x"
    with pytest.raises(StartupError):
        old.decrypt(both.encrypt(b"x"))


def test_rotation_puts_old_secrets_under_the_new_key() -> None:
    token = Keyring([OLD]).encrypt(b"x")
    assert Keyring([NEW]).decrypt(Keyring([NEW, OLD]).rotate(token)) == b"x"


@pytest.mark.parametrize(
    "token",
    [b"", b"x", b"gAAAAA", "ä".encode(), Keyring([OTHER]).encrypt(b"x")],
    ids=["empty", "letter", "cut", "not ascii", "another key"],
)
def test_what_fits_no_key_is_told_as_such(token: bytes) -> None:
    with pytest.raises(StartupError, match="fits none of the keys in SECRET_KEY"):
        Keyring([NEW, OLD]).decrypt(token)


def test_a_changed_token_is_refused() -> None:
    keys = Keyring([OLD])
    token = bytearray(keys.encrypt(b"secret"))
    token[-5] ^= 1
    with pytest.raises(StartupError):
        keys.decrypt(bytes(token))


def test_fingerprints_tell_keys_apart_and_not_what_they_are() -> None:
    keys = Keyring([NEW, OLD])
    assert keys.fingerprints == (Keyring([NEW]).fingerprints + Keyring([OLD]).fingerprints)
    assert len({*keys.fingerprints, *Keyring([OTHER]).fingerprints}) == 3
    assert not any(part in found for found in keys.fingerprints for part in (NEW, OLD))


def test_a_keyring_needs_a_key() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        Keyring([])


def test_the_instance_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    key = instance_key(tmp_path)
    assert len(key) >= 40
    assert instance_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "instance.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["instance.key"]


def test_two_installations_have_different_keys(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert instance_key(tmp_path / "a") != instance_key(tmp_path / "b")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_an_instance_key_that_others_may_use_stops_the_start(tmp_path: Path, mode: int) -> None:
    instance_key(tmp_path)
    (tmp_path / "instance.key").chmod(mode)
    with pytest.raises(StartupError, match="others may read the instance key; chmod 600"):
        instance_key(tmp_path)


@pytest.mark.parametrize("text", ["", " \n", "short", "ä" * 40])
def test_a_damaged_instance_key_is_not_used(tmp_path: Path, text: str) -> None:
    (tmp_path / "instance.key").write_text(text)
    (tmp_path / "instance.key").chmod(0o600)
    with pytest.raises(StartupError, match=r"instance\.key: no key"):
        instance_key(tmp_path)


def test_starters_that_race_agree_on_one_key(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    with fork.Pool(8) as pool:
        keys = pool.map(instance_key, [tmp_path] * 64, chunksize=1)
    assert len(set(keys)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["instance.key"]
