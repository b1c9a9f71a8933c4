"""Office documents to PDF by LibreOffice: a profile of its own for each run, no macros, no links to elsewhere."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway_transform.api import BadInput, Needs, transformation
from gateway_transform.converters import office_kit
from gateway_transform.converters.files import FILES, beside, convert_each, matching
from gateway_transform.converters.office_files import check_office_file
from gateway_transform.converters.programs import run

_EXTENSIONS = (".doc", ".docx", ".odt", ".fodt", ".rtf", ".xls", ".xlsx", ".ods", ".fods", ".ppt", ".pptx", ".odp")

_STARTED = ("convert /", "could not be loaded")
"""What LibreOffice says once it looks at documents."""

_SECURITY = "/org.openoffice.Office.Common/Security/Scripting"
_SETTINGS = (
    (_SECURITY, "MacroSecurityLevel", "3"),
    (_SECURITY, "DisableMacrosExecution", "true"),
    (_SECURITY, "BlockUntrustedRefererLinks", "true"),
    ("/org.openoffice.Office.Writer/Content/Update", "Link", "0"),
    ("/org.openoffice.Office.Calc/Content/Update", "Link", "1"),
    ("/org.openoffice.Office.Common/Misc", "UseLocking", "false"),
)
"""Macros only from trusted places, of which there are none, and not even those; linked files never; each program
counts its choices for links on loading in its own way, 0 and 1 are "never"."""


@transformation(
    label="Office document to PDF",
    help="Every document (.doc, .docx, .odt, .rtf), sheet (.xls, .xlsx, .ods) and presentation (.ppt, .pptx, .odp) as "
    "a PDF beside it, by LibreOffice. Macros do not run, linked files are not loaded.",
    options=(FILES,),
    needs=Needs(programs=("soffice",)),
)
def office2pdf(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """``a.docx`` gives ``a.pdf``.

    All files go through one run, since starting takes longer than most documents. What such a run leaves out is tried
    alone, so that a file which makes LibreOffice crash takes no other with it.
    """
    paths = matching(working_dir, options, _EXTENSIONS, expected="office document")
    with tempfile.TemporaryDirectory(prefix="office-") as scratch:
        office = _Office(Path(scratch), logger)
        office.convert([path for path in paths if _is_sound(path)])

        def convert(path: Path) -> list[Path]:
            check_office_file(path)
            if path not in office.made:
                office.convert([path])
            if path not in office.made:
                raise BadInput("is damaged, or protected by a password")
            target = beside(path, ".pdf")
            target.write_bytes(office.made[path].read_bytes())
            return [target]

        convert_each(working_dir, logger, paths, convert=convert)


def _is_sound(path: Path) -> bool:
    try:
        check_office_file(path)
    except BadInput:
        return False
    return True


class _Office:
    """LibreOffice with ``scratch`` as its profile's home; ``made`` has the PDFs of the documents that worked."""

    def __init__(self, scratch: Path, logger: logging.Logger) -> None:
        self.made: dict[Path, Path] = {}
        self._scratch = scratch
        self._logger = logger
        profile = scratch / "profile" / "user"
        profile.mkdir(parents=True)
        items = "".join(
            f'<item oor:path="{path}"><prop oor:name="{name}" oor:op="fuse"><value>{value}</value></prop></item>'
            for path, name, value in _SETTINGS
        )
        profile.joinpath("registrymodifications.xcu").write_text(
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<oor:items xmlns:oor="http://openoffice.org/2001/registry">{items}</oor:items>\n',
            encoding="utf-8",
        )

    def convert(self, paths: Sequence[Path]) -> None:
        """Convert through links with plain names: equal names from several folders, or odd ones, cannot clash.

        RuntimeError if LibreOffice gives up before it looks at any; a crash may be a document's doing.
        """
        if not paths:
            return
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        links = {path: folder / f"{number}{path.suffix.lower()}" for number, path in enumerate(paths)}
        for path, link in links.items():
            link.symlink_to(path)
        profile = (self._scratch / "profile").as_uri()
        ran = run(
            [
                "soffice",
                f"-env:UserInstallation={profile}",
                *("--headless", "--norestore", "--nolockcheck", "--nodefault", "--nofirststartwizard", "--nologo"),
                *("--convert-to", "pdf", "--outdir", folder),
                *links.values(),
            ],
            self._logger,
        )
        if ran.code == 1 and not any(said in ran.output for said in _STARTED):
            self._convert_in_library(profile, list(links.values()))
        self.made |= {path: pdf for path, link in links.items() if (pdf := link.with_suffix(".pdf")).is_file()}

    def _convert_in_library(self, profile: str, links: Sequence[Path]) -> None:
        """In a fork, since the library may crash: starting another Python may be forbidden here too."""
        program = Path(shutil.which("soffice") or "soffice").resolve().parent
        pid = os.fork()
        if pid == 0:
            office_kit.convert_and_exit([str(program), profile, *map(str, links)])
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._logger.debug("LibreOffice as a library ended with %d", code)
        if code == office_kit.NOT_STARTED:
            raise RuntimeError("LibreOffice did not start, neither as a program nor as a library")
