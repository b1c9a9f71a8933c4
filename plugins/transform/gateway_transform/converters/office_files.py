"""Are these really office documents, and not bombs? Looked at before a library or a program opens them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from gateway_transform.api import BadInput

MAX_XML_BYTES = 64 << 20
"""XML parts of one document, unpacked: in memory they grow tenfold and more."""
MAX_UNPACKED_BYTES = 512 << 20
"""One document, unpacked, images and all."""
MAX_PARTS = 10_000

_OPC = "[Content_Types].xml"
"""The one part whose name ECMA-376 fixes: some programs write word/document2.xml."""
_ZIPPED = {
    ".docx": _OPC,
    ".xlsx": _OPC,
    ".pptx": _OPC,
    ".odt": "content.xml",
    ".ods": "content.xml",
    ".odp": "content.xml",
    ".epub": "META-INF/container.xml",
}
_RTF = b"{\\rtf"
_COMPOUND_FILE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_XML = (b"<?xml", b"\xef\xbb\xbf<?xml")
_BEGINS = {
    ".doc": (_COMPOUND_FILE, _RTF),
    ".xls": (_COMPOUND_FILE,),
    ".ppt": (_COMPOUND_FILE,),
    ".rtf": (_RTF,),
    ".fodt": _XML,
    ".fods": _XML,
}


def check_office_file(path: Path) -> None:
    """``BadInput`` if ``path`` is not what its extension says, is damaged at first sight, encrypted or too big.

    A zip's sizes are those it declares: no reader gets more out of a part than that. Other files pass.
    """
    extension = path.suffix.lower()
    if extension in _ZIPPED:
        _check_zip(path, _ZIPPED[extension])
    elif extension in _BEGINS:
        with path.open("rb") as file:
            if not file.read(8).startswith(_BEGINS[extension]):
                raise BadInput(f"is damaged, or no {extension} file")


def _check_zip(path: Path, needed: str) -> None:
    with path.open("rb") as file:
        if file.read(8) == _COMPOUND_FILE:
            raise BadInput("is protected by a password, or an old format under a new name")
    try:
        with zipfile.ZipFile(path) as document:
            parts = document.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise BadInput(f"is damaged: {error}") from error
    xml_bytes = sum(part.file_size for part in parts if part.filename.lower().endswith((".xml", ".rels")))
    if (
        len(parts) > MAX_PARTS
        or xml_bytes > MAX_XML_BYTES
        or sum(part.file_size for part in parts) > MAX_UNPACKED_BYTES
    ):
        raise BadInput(
            f"unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB, {MAX_XML_BYTES >> 20} MiB of XML "
            f"or {MAX_PARTS} parts"
        )
    if needed not in {part.filename for part in parts}:
        raise BadInput(f"is damaged: {needed} is missing")
