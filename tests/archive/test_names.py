from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway_archive.names import (
    FALLBACK_NAME,
    MAX_NAME_BYTES,
    MAX_PATH_BYTES,
    NameRegistry,
    entry_name,
    folder_name,
    name_from_url,
)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/a/b.txt", "b.txt"),
        ("https://example.org/a/b.txt?x=/c.txt#/d.txt", "b.txt"),
        ("https://example.org/a%20b+c.txt", "a b+c.txt"),
        ("https://example.org/100%2525.txt", "100%25.txt"),
        ("https://example.org/o/folder%2Ffile.jpg?alt=media", "file.jpg"),
        ("https://example.org/%E6%97%A5%E6%9C%AC.txt", "日本.txt"),
        ("https://example.org/%FF.txt", "\ufffd.txt"),
        ("https://user:pass@Example.org:8080/", "example.org"),
        ("https://example.org", "example.org"),
        ("https://example.org/a/", "example.org"),
        ("job:1234/out.txt", "out.txt"),
        ("http://[::1", ""),
        ("", ""),
    ],
)
def test_a_url_names_its_file_by_its_last_part_decoded_once(url, name):
    assert name_from_url(url) == name


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("", "a.txt", "a.txt"),
        ("docs", "a.txt", "docs/a.txt"),
        ("docs/2024/", "a.txt", "docs/2024/a.txt"),
        ("", "x/y/a.txt", "a.txt"),
        ("../../etc", "passwd", "etc/passwd"),
        ("/abs//./x/", "a", "abs/x/a"),
        ("a/../b", "c", "a/b/c"),
        ("..\\..\\windows", "..\\system.ini", "windows/system.ini"),
        ("C:\\Users\\me", "D:\\a.txt", "Users/me/a.txt"),
        ("\\\\server\\share", "a", "server/share/a"),
        ("\\\\?\\C:\\x", "a", "_/x/a"),
        ("", "C:a.txt", "C_a.txt"),
        ("", "a\x00b\nc\x1b\x7f\x85.txt", "a_b_c___.txt"),
        ("", 'a<b>c:d"e|f?g*.txt', "a_b_c_d_e_f_g_.txt"),
        ("", "photo\u202egpj.exe", "photo_gpj.exe"),
        ("", "a\u2067b\u2028c", "a_b_c"),
        ("", "\ud800x\udfff", "_x_"),
        ("", "con", "_con"),
        ("", "CON.txt", "_CON.txt"),
        ("", "nul.tar.gz", "_nul.tar.gz"),
        ("", "Aux .txt", "_Aux .txt"),
        ("", "COM1", "_COM1"),
        ("", "com¹.log", "_com¹.log"),
        ("", "LPT0", "_LPT0"),
        ("", "CONIN$", "_CONIN$"),
        ("", "console.txt", "console.txt"),
        ("", "com10.txt", "com10.txt"),
        ("aux/x", "a", "_aux/x/a"),
        ("dir. . /", "name. . ", "dir/name"),
        ("", "  a b.txt", "a b.txt"),
        ("", ".bashrc", ".bashrc"),
        ("", "a...b", "a...b"),
        ("", "100%25.txt", "100%25.txt"),
        ("", "e\u0301.txt", "é.txt"),
        ("", "<\u0338", "≮"),
        ("", "👩‍🚀.png", "👩‍🚀.png"),
        ("", "", FALLBACK_NAME),
        ("docs", "..", f"docs/{FALLBACK_NAME}"),
        ("", ". . .", FALLBACK_NAME),
        ("...", "/", FALLBACK_NAME),
        ("", "c:", FALLBACK_NAME),
    ],
)
def test_names_are_made_safe(path, name, expected):
    assert entry_name(path, name) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a", "a/"), ("a/b/", "a/b/"), ("/../a\\b", "a/b/"), ("", "folder/"), ("..", "folder/"), ("nul", "_nul/")],
)
def test_folders_are_made_safe_and_end_in_a_slash(path, expected):
    assert folder_name(path) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a" * 300 + ".jpeg", "a" * 250 + ".jpeg"),
        ("a" * 300 + ".tar.gz", "a" * 248 + ".tar.gz"),
        ("é" * 200 + ".txt", "é" * 125 + ".txt"),
        ("a" * 300, "a" * 255),
        ("a" * 255, "a" * 255),
        ("a" * 200 + ". " + "b" * 100, "a" * 200 + ". " + "b" * 53),
        ("nul" + " " * 300 + "x.txt", "_nul.txt"),
    ],
)
def test_long_names_keep_their_extension(name, expected):
    assert entry_name("", name) == expected


def test_a_path_that_is_too_long_loses_its_innermost_folders():
    assert entry_name("/".join("d" * 100 for _ in range(30)), "name.txt") == "/".join(["d" * 100] * 10 + ["name.txt"])


NASTY = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("/\\.: \x00<>|?*\u202e\u0301\u0338éǰßKCON1nul¹$~"),
        st.characters(min_codepoint=0xD800, max_codepoint=0xDFFF),
    ),
    max_size=80,
)
LONG = st.builds(lambda text, times: text * times, NASTY, st.integers(1, 12))
DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{d}{n}" for d in ("com", "lpt") for n in "0123456789¹²³"
}


def assert_safe(path: str) -> None:
    assert path
    path.encode()
    assert unicodedata.is_normalized("NFC", path)
    assert "\\" not in path
    assert PureWindowsPath(path).anchor == PurePosixPath(path).anchor == ""
    assert not re.search('[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069<>:"|?*]', path)
    for part in path.split("/"):
        assert part not in ("", ".", "..")
        assert part[-1] not in ". "
        assert part.split(".")[0].rstrip(" ").lower() not in DEVICES
        assert len(part.encode()) <= MAX_NAME_BYTES


@settings(deadline=None)
@given(path=LONG, name=LONG)
@example(path="", name="con" + " " * 300 + "x")
@example(path="", name="." * 300 + "x")
@example(path="x" * 254 + " y", name="con." + "x" * 251)
def test_any_name_becomes_safe_and_stays_the_same_when_cleaned_again(path, name):
    cleaned = entry_name(path, name)
    assert_safe(cleaned)
    assert len(cleaned.encode()) <= MAX_PATH_BYTES
    folder, _, last = cleaned.rpartition("/")
    assert entry_name(folder, last) == cleaned


@settings(deadline=None)
@given(path=LONG)
def test_any_folder_becomes_safe(path):
    folder = folder_name(path)
    assert folder.endswith("/")
    assert_safe(folder[:-1])
    assert folder_name(folder) == folder


@settings(deadline=None)
@given(url=LONG | NASTY.map(lambda text: f"https://example.org/{text}"))
def test_any_url_gives_a_name(url):
    assert_safe(entry_name("", name_from_url(url)))


def resolve(*paths: str) -> list[str | None]:
    registry = NameRegistry()
    return [registry.folder(path) if path.endswith("/") else registry.file(path) for path in paths]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a.txt", "a.txt", "a.txt"], ["a.txt", "a (2).txt", "a (3).txt"]),
        (["A.txt", "a.TXT"], ["A.txt", "a (2).TXT"]),
        (["straße", "STRASSE"], ["straße", "STRASSE (2)"]),
        (["a.tar.gz", "a.tar.gz"], ["a.tar.gz", "a (2).tar.gz"]),
        (["v1.2.txt", "v1.2.txt"], ["v1.2.txt", "v1.2 (2).txt"]),
        ([".bashrc", ".bashrc"], [".bashrc", ".bashrc (2)"]),
        (["1. An intro", "1. An intro"], ["1. An intro", "1. An intro (2)"]),
        (["a", "a", "a (2)"], ["a", "a (2)", "a (2) (2)"]),
        (["a (2)", "a", "a"], ["a (2)", "a", "a (3)"]),
        (["x/a", "y/a", "x/a"], ["x/a", "y/a", "x/a (2)"]),
        (["Docs/a", "docs/b", "DOCS/A"], ["Docs/a", "Docs/b", "Docs/A (2)"]),
        (["a", "a/b", "a/c", "a/b"], ["a", "a (2)/b", "a (2)/c", "a (2)/b (2)"]),
        (["a/b", "a", "a/c"], ["a/b", "a (2)", "a/c"]),
        (["a", "a (2)/x", "a/y", "a (2)/z"], ["a", "a (2)/x", "a (3)/y", "a (2)/z"]),
        (["a", "a/y", "a (2)/x"], ["a", "a (2)/y", "a (2) (2)/x"]),
        (["v1.2", "v1.2/a"], ["v1.2", "v1.2 (2)/a"]),
        (["a/", "a/b", "a/", "A/"], ["a/", "a/b", None, None]),
        (["a/b", "a/", "a/"], ["a/b", "a/", None]),
        (["a", "a/"], ["a", "a (2)/"]),
        (["a/", "a"], ["a/", "a (2)"]),
        (["a/b", "a/b/c/"], ["a/b", "a/b (2)/c/"]),
    ],
    ids=repr,
)
def test_clashes_are_resolved_in_order(paths, expected):
    assert resolve(*paths) == expected


def test_numbered_long_names_stay_within_255_bytes():
    first, second, third = resolve(*["é" * 125 + ".txt"] * 3)
    assert first == "é" * 125 + ".txt"
    assert second == "é" * 119 + " (2).txt"
    assert third == "é" * 119 + " (3).txt"


def test_long_names_that_differ_only_at_their_end_share_their_numbers():
    paths = [f"{'x' * 250}{number:05}" for number in range(500)]
    resolved = resolve(*paths, *paths)
    assert len(set(resolved)) == 1000
    assert resolved[-1] == "x" * 243 + " (501)"


def test_many_equal_names_take_a_bounded_number_of_tries():
    class Counting(set):
        tries = 0

        def __contains__(self, item):
            self.tries += 1
            return super().__contains__(item)

    registry = NameRegistry()
    registry._taken = Counting()
    for number in range(2, 5_000):
        registry.file(f"a ({number}).txt")
    assert [registry.file("a.txt") for _ in range(10_000)][-1] == "a (14998).txt"
    assert registry._taken.tries < 45_000


pieces = st.sampled_from(["a", "A", "a (2)", "a.txt", "é", "É", "b", "a (3)", "ß", "ss"])
trees = st.lists(st.tuples(st.lists(pieces, min_size=1, max_size=3).map("/".join), st.booleans()), max_size=30)


@settings(deadline=None)
@given(tree=trees)
def test_no_two_paths_clash_on_any_system(tree):
    resolved = resolve(*(path + "/" if folder else path for path, folder in tree))
    assert resolved == resolve(*(path + "/" if folder else path for path, folder in tree))
    seen = [path for path in resolved if path is not None]
    files = [path for path in seen if not path.endswith("/")]
    keys = [unicodedata.normalize("NFC", path.casefold()) for path in seen]
    assert len(set(keys)) == len(keys)
    folders = {str(parent) for path in seen for parent in PurePosixPath(path).parents} | {p[:-1] for p in seen}
    folders -= set(files)
    assert not {f.casefold() for f in files} & {f.casefold() for f in folders if f != "."}
    assert len({f.casefold() for f in folders}) == len(folders)


def test_resolved_paths_extract_side_by_side(tmp_path: Path):
    for path in resolve("a", "a/b", "a/b/c", "A", "a/", "é", "e\u0301"):
        target = tmp_path / str(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if str(path).endswith("/"):
            target.mkdir(exist_ok=True)
        else:
            target.open("x").close()
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(
        ["a", "a (2)/b", "a (2)/b (2)/c", "A (3)", "é", "e\u0301 (2)"]
    )
