from __future__ import annotations

import pytest

from gateway_blocks.files.media import UNKNOWN, is_active, media_type


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", "text/plain; charset=utf-8"),
        ("README.MD", "text/markdown; charset=utf-8"),
        ("index.html", "text/html; charset=utf-8"),
        ("app.mjs", "text/javascript; charset=utf-8"),
        ("data.json", "application/json"),
        ("feed.xml", "application/xml"),
        ("drawing.svg", "image/svg+xml"),
        ("photo.JPG", "image/jpeg"),
        ("film.mkv", "video/matroska"),
        ("font.woff2", "font/woff2"),
        ("big.iso", "application/x-iso9660-image"),
        ("program.exe", UNKNOWN),
        ("name.of.no.known.ending", UNKNOWN),
        ("LICENSE", UNKNOWN),
        (".html", UNKNOWN),
        ("html", UNKNOWN),
        ("a.", UNKNOWN),
        ("", UNKNOWN),
        ("bad-\udcff.txt", "text/plain; charset=utf-8"),
        ("data:text", UNKNOWN),
    ],
)
def test_the_ending_of_a_name_tells_the_media_type(name: str, expected: str) -> None:
    assert media_type(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.tar.gz", "application/gzip"),
        ("a.tgz", "application/gzip"),
        ("drawing.svgz", "application/gzip"),
        ("page.html.gz", "application/gzip"),
        ("a.txt.bz2", "application/x-bzip2"),
        ("a.txt.xz", "application/x-xz"),
        ("a.txt.zst", "application/zstd"),
        ("a.css.br", "application/x-brotli"),
        ("a.Z", "application/x-compress"),
    ],
)
def test_a_compressed_file_is_a_compressed_file(name: str, expected: str) -> None:
    assert media_type(name) == expected


@pytest.mark.parametrize("name", ["a.html", "a.htm", "a.xhtml", "a.svg", "a.xml", "a.xsl", "a.atom", "a.meta4"])
def test_what_may_run_scripts_is_active(name: str) -> None:
    assert is_active(media_type(name))


@pytest.mark.parametrize("kind", ["TEXT/HTML", "text/html;charset=x", "application/xhtml+xml", "text/xml", "x/y+XML "])
def test_activity_does_not_depend_on_case_or_parameters(kind: str) -> None:
    assert is_active(kind)


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.png", "a.pdf", "a.gz", "a.css", "a.bin", "a.xmlish"])
def test_other_files_are_not_active(name: str) -> None:
    assert not is_active(media_type(name))
