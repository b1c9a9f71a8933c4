"""The ``gateway`` command line.

Commands are loaded when they are called. Exit codes: 0 done, 1 it did not work, 2 wrong usage or configuration. For
plugins' commands: ``run`` with an opened gateway, ``work`` as a worker process, ``remote_options`` for clients of a
running gateway.
"""

from __future__ import annotations

from gateway_core.cli.context import run
from gateway_core.cli.remote import Remote, remote_options
from gateway_core.cli.root import main
from gateway_core.cli.serve import work

__all__ = ["Remote", "main", "remote_options", "run", "work"]
