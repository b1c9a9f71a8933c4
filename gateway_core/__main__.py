"""``python -m gateway_core``: the same as ``gateway``."""

from __future__ import annotations

from gateway_core.cli import main

main()
