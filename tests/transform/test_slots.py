"""How many jobs a process runs at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway_core.app.compose import compose
from gateway_core.gateway import Role
from gateway_core.settings import Inputs
from gateway_transform.settings import TransformSettings
from gateway_transform.work.service import slots_of


@pytest.mark.parametrize(
    ("role", "jobs", "slots"),
    [(Role.SERVER, 8, 2), (Role.SERVER, 0, 0), (Role.WORKER, 8, 8), (Role.WORKER, 0, 0)],
    ids=[
        "a part of the server's",
        "a server that only accepts",
        "a worker is one process",
        "a worker that does nothing",
    ],
)
def test_slots_are_shared_among_the_processes_of_a_server_only(tmp_path: Path, role: Role, jobs: int, slots: int):
    options = {"data_dir": tmp_path, "plugins": "transform", "workers": 4, "transform": {"workers": jobs}}
    gateway = compose(Inputs(options=options), role=role).gateway
    assert slots_of(gateway, gateway.section(TransformSettings)) == slots
