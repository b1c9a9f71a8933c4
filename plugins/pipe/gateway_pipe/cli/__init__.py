"""``gateway pipe``: identity of nodes, the node itself, and who is there."""

from __future__ import annotations

import click

from gateway_pipe.cli.connect import connect
from gateway_pipe.cli.identity import ca, doctor, enroll, invite, revoke
from gateway_pipe.cli.nodes import nodes


@click.group()
def pipe() -> None:
    """Call programs behind firewalls: connect this machine as a node, say who may be one, see who is there."""


for command in (ca, connect, doctor, enroll, invite, nodes, revoke):
    pipe.add_command(command)
