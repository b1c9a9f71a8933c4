"""The ``gateway`` command line.

Commands are loaded when they are called. Exit codes: 0 done, 1 it did not work, 2 wrong usage or configuration.
"""

from __future__ import annotations

from gateway_core.cli.context import run
from gateway_core.cli.root import main

__all__ = ["main", "run"]
