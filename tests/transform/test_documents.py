"""Real documents through the gateway, from upload to result; what comes out is opened by other programs."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from PIL import Image

from gateway_core.testing.requirements import require_program
from tests.transform.job_stand import Caller, files_of, standing, tar_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "# Yearly report\n\nThe **harbour** grew.\n\n| month | ships |\n|---|---|\n| May | 12 |\n| June | 15 |\n"
HTML = """<!doctype html><meta charset="utf-8"><title>Report</title>
<style>h1 { color: navy } .new { break-before: page }</style>
<h1>Yearly report</h1><p>The harbour grew.</p><h1 class="new">Ships</h1><p>Fifteen of them.</p>"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[Caller]:
    async with standing(tmp_path_factory.mktemp("jobs"), {"workers": 2}, templates=gateway_templates) as stood:
        yield await stood.caller()


async def converted(caller: Caller, steps: str, **files: bytes) -> dict[str, bytes]:
    """Files of the result of a job with these steps (the JSON list) that succeeded."""
    named = {name.replace("__", "."): data for name, data in files.items()}
    job = b'{"transformations": %s}' % steps.encode()
    answer = await caller.post(tar_of({"job.json": job, **named}), "?block=1")
    found = files_of(answer.body)
    assert b'"state": "succeeded"' in found["status.json"], found["out.log"].decode()
    return found


def told(*command: str | Path) -> str:
    """What a program prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


async def test_a_page_becomes_a_pdf_and_the_pdf_pictures(caller: Caller, tmp_path: Path):
    steps = '[{"name": "html2pdf"}, {"name": "pdf2png", "options": {"dpi": "72"}}]'
    found = await converted(caller, steps, report__html=HTML.encode())
    pdf = tmp_path / "report.pdf"
    pdf.write_bytes(found["report.pdf"])
    assert "Pages:           2" in told(require_program("pdfinfo", "pdfinfo"), pdf)
    assert "Fifteen of them." in told(require_program("pdftotext", "pdftotext"), pdf, "-")
    for page in ("report-1.png", "report-2.png"):
        (tmp_path / page).write_bytes(found[page])
        shown = told(require_program("identify", "identify"), "-format", "%m %w %h", tmp_path / page)
        assert shown == "PNG 596 842"


async def test_a_word_document_becomes_a_page(caller: Caller, tmp_path: Path):
    pandoc = require_program("pandoc", "pandoc")
    (tmp_path / "report.md").write_text(TEXT)
    told(pandoc, "-o", tmp_path / "report.docx", tmp_path / "report.md")
    found = await converted(caller, '[{"name": "docx2html"}]', report__docx=(tmp_path / "report.docx").read_bytes())
    (tmp_path / "report.html").write_bytes(found["report.html"])
    plain = told(pandoc, "-f", "html", "-t", "plain", tmp_path / "report.html")
    assert "Yearly report" in plain
    assert "June" in plain


async def test_a_photo_is_made_smaller(caller: Caller, tmp_path: Path):
    photo = Image.linear_gradient("L").resize((1600, 900)).convert("RGB")
    photo.save(tmp_path / "photo.jpg", quality=90)
    steps = '[{"name": "image_resize", "options": {"width": "320"}}]'
    found = await converted(caller, steps, photo__jpg=(tmp_path / "photo.jpg").read_bytes())
    (tmp_path / "small.jpg").write_bytes(found["photo-resized.jpg"])
    shown = told(require_program("identify", "identify"), "-format", "%m %w %h", tmp_path / "small.jpg")
    assert shown == "JPEG 320 180"
