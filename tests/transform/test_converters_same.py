"""Equal files and options give equal bytes, in another folder and another process: what the result cache relies on."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from gateway_transform.converters.names import BUILT_IN
from tests.transform.converting import convert, converter, docx, picture, site

OPTIONS = {
    "html2pdf": {"variant": "pdf/a-3b"},
    "image_resize": {"width": "33"},
    "image_convert": {"format": "pdf"},
}
DETERMINISTIC = [name for name in BUILT_IN if converter(name).deterministic]
AGAIN = """
import sys
from pathlib import Path
from tests.transform.test_converters_same import DETERMINISTIC, sums
for name in DETERMINISTIC:
    print(name, sums(Path(sys.argv[1]) / name, name))
"""


def sums(folder: Path, name: str) -> str:
    """A digest over all that ``name`` makes of one of each kind of document."""
    page = site(folder)
    page.write_text(
        page.read_text(encoding="utf-8") + '<a rel="attachment" href="image.png">file</a>', encoding="utf-8"
    )
    folder.joinpath("text.md").write_text("# Title\n\n![a](image.png)\n")
    docx(folder / "letter.docx", "Title", image=picture(folder / "photo.jpg"))
    convert("html2pdf", folder)
    given = set(folder.rglob("*"))
    convert(name, folder, **OPTIONS.get(name, {}))
    digest = hashlib.sha256()
    for made in sorted(set(folder.rglob("*")) - given):
        digest.update(f"{made.relative_to(folder)}\n".encode())
        if made.is_file():
            digest.update(made.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def other_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    argv = [sys.executable, "-c", AGAIN, str(tmp_path_factory.mktemp("again"))]
    ran = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=100)
    return dict(line.split() for line in ran.stdout.splitlines())


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_equal_input_gives_equal_bytes(tmp_path, other_process, name):
    assert sums(tmp_path / "elsewhere", name) == other_process[name]
