"""``gateway doctor``: what it looks at, and what it says of it."""

from __future__ import annotations

from gateway_core.cli import doctor
from gateway_core.testing import run_gateway

ALONE = {"GATEWAY_PLUGINS": "archive"}


async def test_a_sound_gateway_has_no_failure(tmp_path):
    done = await run_gateway("doctor", data_dir=tmp_path)
    assert done.code == 0, done.out + done.err
    assert "ok       database: sqlite, answers" in done.out
    assert "ok       storage:" in done.out


async def test_a_url_that_may_not_be_fetched_fails_and_names_the_remedy(tmp_path):
    done = await run_gateway("doctor", "http://127.0.0.1:9/x", env=ALONE, data_dir=tmp_path)
    assert done.code == 1
    assert "failed   egress http://127.0.0.1:9/x: refused" in done.out
    assert "GATEWAY_EGRESS_ALLOW=127.0.0.1/32" in done.err


async def test_redis_away_is_a_warning(tmp_path):
    done = await run_gateway("doctor", env={**ALONE, "GATEWAY_REDIS_URL": "redis://127.0.0.1:1/0"}, data_dir=tmp_path)
    assert done.code == 0
    assert "warning  redis: away" in done.out


async def test_a_wrong_key_fails(tmp_path):
    first, second = ({**ALONE, "GATEWAY_SECRET_KEY": letter * 20} for letter in "ab")
    await run_gateway("client", "add", "x", env=first, data_dir=tmp_path)
    done = await run_gateway("doctor", env=second, data_dir=tmp_path)
    assert done.code == 1
    assert "failed   database: SECRET_KEY is not the key of this database" in done.out


def test_a_version_below_its_floor_is_a_warning(monkeypatch):
    monkeypatch.setitem(doctor.FLOORS, "aiohttp", ("999.0", "a reason"))
    assert ("warning", "aiohttp") in [(f.state, f.name) for f in doctor.check_versions()]


def test_a_missing_package_fails(monkeypatch):
    monkeypatch.setitem(doctor.FLOORS, "no-such-package", ("1", "a reason"))
    assert ("failed", "no-such-package") in [(f.state, f.name) for f in doctor.check_versions()]


def test_installed_versions_are_above_their_floors():
    states = {f.name: f.state for f in doctor.check_versions() if f.name != "Python"}
    assert set(states.values()) <= {"ok"}
