"""Programs and services that a test needs: where one is absent the test is skipped, or fails where it must not be."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

VARIABLE = "GATEWAY_TEST_REQUIRE"
"""Names, separated by commas, whose absence is a failure; continuous integration lists all that it installs."""


def required(name: str) -> bool:
    """Whether ``GATEWAY_TEST_REQUIRE`` lists ``name``."""
    return name in {part.strip() for part in os.environ.get(VARIABLE, "").split(",")}


def absent(name: str, reason: str) -> NoReturn:
    """Skip the test for ``reason``, or fail it where ``name`` is required."""
    import pytest

    if required(name):
        pytest.fail(f"{VARIABLE} wants {name}: {reason}")
    pytest.skip(reason)


def require_program(program: str, name: str = "") -> str:
    """Path of ``program``; without it the test is skipped, or fails where ``name`` (else the program) is required."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin")
    return found if found is not None else absent(name or program, f"{program} is not installed")
