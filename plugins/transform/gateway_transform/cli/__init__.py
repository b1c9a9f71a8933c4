"""``gateway transform`` and ``gateway worker``.

``run`` and ``list`` are clients of a running gateway and load no settings; the other commands work on the gateway's own
database, and import what they need when they are called.
"""

from __future__ import annotations

from gateway_transform.cli.commands import transform, worker

__all__ = ["transform", "worker"]
