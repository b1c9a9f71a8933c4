"""Lists of checksums, as GNU coreutils write and read them."""

from __future__ import annotations

import hashlib
import os
import subprocess

import pytest

from gateway_blocks.files.paths import decode_name
from gateway_blocks.formats.checksum_list import checksum_line
from gateway_core.testing.requirements import require_program

NAMES = [
    b"plain.bin",
    b"below/the folder/a b",
    b"line\nfeed",
    b"carriage\rreturn",
    b"back\\slash",
    b"\\n",
    b"not-\xff\xfe-utf8",
    "日本".encode(),
    b"-",
    b"--help",
    b" two  spaces ",
    b"*star",
    b"#hash",
]


def folder_of(tmp_path, names):
    """A folder with a file of each name; the content by the name."""
    contents = {}
    for number, name in enumerate(names):
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        contents[name] = b"content %d" % number
        with open(path, "wb") as file:
            file.write(contents[name])
    return contents


def command(algorithm, *arguments, folder, piped=None):
    program = require_program(f"{algorithm}sum")
    return subprocess.run([program, *arguments], cwd=folder, input=piped, capture_output=True, timeout=30, check=False)


def lines(algorithm, contents):
    return b"".join(
        checksum_line(hashlib.new(algorithm, content).digest(), decode_name(name)) for name, content in contents.items()
    )


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_coreutils_find_every_file_of_the_list_whatever_its_name(tmp_path, algorithm):
    contents = folder_of(tmp_path, NAMES)
    done = command(algorithm, "--check", "--strict", folder=tmp_path, piped=lines(algorithm, contents))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(b": OK\n") == len(NAMES)
    assert done.stderr == b""


def test_lines_are_those_that_coreutils_write(tmp_path):
    names = [name for name in NAMES if name != b"-"]
    contents = folder_of(tmp_path, names)
    done = command("sha256", "--", *names, folder=tmp_path)
    assert lines("sha256", contents) == done.stdout


def test_coreutils_find_a_changed_file(tmp_path):
    listed = lines("sha256", folder_of(tmp_path, [b"a", b"b"]))
    (tmp_path / "b").write_bytes(b"other")
    done = command("sha256", "--check", folder=tmp_path, piped=listed)
    assert done.returncode == 1
    assert done.stdout == b"a: OK\nb: FAILED\n"
