"""What ``gateway demo`` shows of this plugin: a call to a node, and one from it."""

from __future__ import annotations

import sys
from pathlib import Path

from gateway_core.hookspecs import hookimpl

_LINES = """A piped call: in a second terminal this machine becomes the node `laptop`

  {command} pipe connect {url} --name laptop --secret {secret}

and answers in a third, as it could from behind any firewall; the last line is its own call of the gateway

  curl -H 'Authorization: {secret}' {url}/client/laptop/time
  curl http://127.0.0.1:8788/server/cat//hello%20/world
"""


@hookimpl
def gateway_demo(url: str, secret: str) -> str:
    """A first piped call."""
    command = Path(sys.executable).with_name("gateway")
    shown = command.relative_to(Path.cwd()) if command.is_relative_to(Path.cwd()) else command
    return _LINES.format(command=shown, url=url, secret=secret)
