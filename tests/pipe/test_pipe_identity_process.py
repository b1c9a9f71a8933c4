"""Enrolment as an operator does it: a server process, commands, another folder for the node."""

from __future__ import annotations

import json
import socket

import pytest

pytestmark = pytest.mark.slow


def _free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


async def test_node_enrols_is_revoked_and_enrols_again_by_commands(serve_process, run_gateway, tmp_path):
    port, folder = _free_port(), tmp_path / "node"
    env = {"GATEWAY_PIPE__LISTEN": f"127.0.0.1:{port}", "GATEWAY_PLUGINS": "pipe"}
    url = f"https://127.0.0.1:{port}"

    async def command(*arguments, code=0):
        done = await run_gateway("pipe", *arguments, env=env)
        assert done.code == code, done
        return done

    async def token():
        return json.loads((await command("invite", "node1", "--json")).out)["token"]

    async with serve_process(env=env):
        await command("ca", "init")
        first = await token()
        enrol = ("enroll", url, "--dir", str(folder), "--token")
        for _ in range(20):
            done = await run_gateway("pipe", *enrol, first, env=env)
            if done.code == 0:
                break
        assert done.code == 0, done
        assert "Enrolled as node1" in done.out
        await command("doctor", url, "--dir", str(folder))
        await command("revoke", "node1")
        assert "revoked" in (await command("doctor", url, "--dir", str(folder), code=1)).out
        await command(*enrol, await token(), "--force")
        await command("doctor", url, "--dir", str(folder))
