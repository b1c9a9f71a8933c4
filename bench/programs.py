"""Programs that take part: the gateway of this checkout, those on the machine, and peers from PyPI."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from process import clean_environment, output_of

HERE = Path(__file__).parent
GATEWAY = HERE.parent / ".venv" / "bin" / "gateway"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "content-gateway-bench"


def program(name: str, package: str) -> str:
    """Path of a program of the machine; raises SystemExit that names the Debian ``package`` where there is none."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise SystemExit(f"{name} is needed: apt-get install {package}")
    return found


def installed(*requirements: str, alone: bool = False) -> Path:
    """The folder with the programs of ``requirements`` from PyPI, the first of them pinned by ``==``.

    They have a virtual environment of their own, which is kept in the cache directory. ``alone``: the first comes
    without what it asks for itself, the others are in its stead.
    """
    venv = CACHE / requirements[0].replace("==", "-")
    complete = venv / "complete"
    if not complete.exists():
        print(f"installing {requirements[0]} into {venv}", file=sys.stderr)
        output_of([sys.executable, "-m", "venv", "--clear", str(venv)], clean_environment())
        pip = [str(venv / "bin" / "pip"), "install", "-q"]
        if alone:
            output_of([*pip, "--no-deps", requirements[0]], clean_environment())
        output_of([*pip, *requirements[alone:]], clean_environment())
        complete.touch()
    return venv / "bin"
