"""LibreOffice as a library (LibreOfficeKit's C interface), for where the program ``soffice`` cannot start.

``soffice`` wants a socket in ``/tmp`` itself, whatever TMPDIR says; Landlock forbids it, and this needs none. Run as a
process of its own: ``python office_kit.py PROGRAM_FOLDER PROFILE_URL FILE...`` writes a PDF beside each file.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

NOT_STARTED = 1

_LIBRARIES = ("libmergedlo.so", "libsofficeapp.so")
_LOAD = _SAVE_AS = 2
"""Where ``documentLoad`` and ``saveAs`` stand in LibreOfficeKit.h's tables of functions, after size and destroy."""


class _Object(ctypes.Structure):
    """``LibreOfficeKit`` and ``LibreOfficeKitDocument``: all they have is a table of functions."""

    _fields_ = (("functions", ctypes.POINTER(ctypes.c_void_p)),)


_Pointer = ctypes.POINTER(_Object)
_Load = ctypes.CFUNCTYPE(_Pointer, _Pointer, ctypes.c_char_p)
_SaveAs = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0, or ``NOT_STARTED``; a document that cannot be loaded has no PDF afterwards."""
    program, profile, *files = arguments
    kit = _started(Path(program), profile)
    if kit is None:
        return NOT_STARTED
    load = _Load(kit.contents.functions[_LOAD])
    for name in files:
        document = load(kit, Path(name).as_uri().encode())
        if not document:
            print(f"{name} could not be loaded", flush=True)  # noqa: T201 - what a program is for
            continue
        save_as = _SaveAs(document.contents.functions[_SAVE_AS])
        save_as(document, Path(name).with_suffix(".pdf").as_uri().encode(), b"pdf", None)
    return 0


def _started(program: Path, profile: str) -> ctypes._Pointer[_Object] | None:
    for name in _LIBRARIES:
        if not program.joinpath(name).exists():
            continue
        start = ctypes.CDLL(str(program / name), mode=os.RTLD_GLOBAL | os.RTLD_NOW).libreofficekit_hook_2
        start.restype = _Pointer
        start.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
        kit: ctypes._Pointer[_Object] = start(os.fsencode(program), profile.encode())
        return kit or None
    return None


def convert_and_exit(arguments: Sequence[str]) -> NoReturn:
    """``main`` for a process that does nothing else: the library's threads would crash an orderly end."""
    code = NOT_STARTED
    try:
        os.environ["SAL_USE_VCLPLUGIN"] = "svp"
        code = main(arguments)
    except OSError as error:
        print(error, flush=True)  # noqa: T201 - what a program is for
    finally:
        os._exit(code)


if __name__ == "__main__":
    convert_and_exit(sys.argv[1:])
