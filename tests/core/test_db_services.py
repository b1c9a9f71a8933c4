"""The private services that tests run on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway_core.testing import services
from gateway_core.testing.services import PrivatePostgres, PrivateRedis, find_programs, private_redis, require


def test_missing_service_skips_with_its_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(services._PROGRAMS, "redis", ("no-such-program",))
    monkeypatch.delenv("GATEWAY_TEST_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-program not found"):
        require("redis")


def test_missing_service_fails_where_it_is_required(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(services._PROGRAMS, "redis", ("no-such-program",))
    monkeypatch.setenv("GATEWAY_TEST_REQUIRE", "postgres, redis")
    with pytest.raises(pytest.fail.Exception, match="no-such-program not found"):
        require("redis")


def test_services_listen_on_ports_of_their_own(postgres_server: PrivatePostgres, redis_server: PrivateRedis):
    assert not {postgres_server.port, redis_server.port} & {5432, 6379}
    assert postgres_server.answers()
    assert redis_server.answers()


def test_service_can_be_killed_and_started_again_on_its_port(redis_server: PrivateRedis):
    redis_server.kill()
    assert not redis_server.answers()
    redis_server.start()
    assert redis_server.answers()


def test_nothing_of_a_service_is_left_after_its_block():
    require("redis")
    with private_redis() as server:
        folder, process = server._folder, server._process
        assert process is not None
    assert not folder.exists()
    assert not Path(f"/proc/{process.pid}").exists()


def test_programs_are_found_by_absolute_path():
    require("postgres")
    assert all(os.path.isabs(path) for path in find_programs("postgres").values())
