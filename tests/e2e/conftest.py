"""Fixtures of the tests from end to end."""

from __future__ import annotations

from tests.prepared import serve_prepared

__all__ = ["serve_prepared"]
