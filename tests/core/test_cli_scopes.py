"""Which scopes a new client gets, and which it may be given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway_core.testing import run_gateway


@pytest.mark.parametrize("public", ["true", "false"])
async def test_metrics_are_given_only_by_name(tmp_path: Path, public: str):
    env = {"GATEWAY_METRICS_PUBLIC": public}
    plain = await run_gateway("client", "add", "one", "--json", env=env, data_dir=tmp_path)
    wanted = ("--scope", "core:metrics", "--json")
    named = await run_gateway("--plugins", "archive", "client", "add", "two", *wanted, env=env, data_dir=tmp_path)
    assert json.loads(plain.out)["scopes"] == ["archive:ticket", "blocks:read", "pipe:call:*", "transform:run"]
    assert json.loads(named.out)["scopes"] == ["core:metrics"]
