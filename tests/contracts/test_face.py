"""The public face, the wheel, and what the server must not load."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import gateway_core

ROOT = Path(__file__).parents[2]
NEVER_IN_THE_SERVER = (
    "alembic",
    "mako",
    "rich",
    "redis",
    "arq",
    "jwt",
    "cryptography.x509",
    "obstore",
    "asyncpg",
    "pytest",
)


def test_face_is_sorted_and_complete():
    names = gateway_core.__all__
    assert names == sorted(names)
    assert set(names) - {"__version__"} == set(gateway_core._HOME_OF)
    for name in names:
        assert getattr(gateway_core, name) is not None


def test_core_never_imports_its_own_face():
    for path in (ROOT / "gateway_core").rglob("*.py"):
        if "testing" not in path.parts:
            text = path.read_text()
            assert "from gateway_core import" not in text.replace("from gateway_core import hookspecs", ""), path


def test_server_start_is_lean():
    code = (
        "import sys; from gateway_core.app.compose import compose; from gateway_core.gateway import Role;"
        "from gateway_core.settings import Inputs; import gateway_core.server.process, gateway_core.cli.serve;"
        "compose(Inputs(environ={'GATEWAY_DATA_DIR': '/tmp/nowhere'}), role=Role.SERVER);"
        f"print([m for m in {NEVER_IN_THE_SERVER!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_wheel_holds_the_packages_and_nothing_else(tmp_path):
    build = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        names = wheel.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"gateway_core", "gateway_archive", "gateway_blocks", "gateway_pipe", "gateway_transform"}
    assert "gateway_core/py.typed" in names
    assert "gateway_core/app/static/swagger-ui/swagger-ui-bundle.js" in names
    assert "gateway_archive/migrations/versions/0001_archive.py" in names
    assert "gateway_blocks/migrations/versions/0001_blocks.py" in names
    assert "gateway_pipe/migrations/versions/0001_pipe.py" in names
    assert "gateway_transform/migrations/versions/0001_jobs.py" in names
