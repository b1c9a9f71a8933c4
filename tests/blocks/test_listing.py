"""The listing of a folder, as a page and as JSON."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway_blocks.files.paths import UrlPath, decode_name, encode_name
from gateway_blocks.files.root import Entry
from gateway_blocks.formats.listing import (
    CONTENT_SECURITY_POLICY,
    HTML_TYPE,
    Listing,
    human_size,
    listing_html,
    listing_json,
)
from gateway_core.testing.requirements import require_program
from gateway_core.testing.upstream import Upstream
from gateway_core.testing.upstream_answer import Resource
from tests.blocks.programs import run

MTIME_NS = 1_787_047_872_999_999_999
BASE = "https://example.org/files/"
FILE_NAMES = (
    st.binary(min_size=1, max_size=60)
    .map(lambda raw: decode_name(re.sub(rb"[\0/]", b"_", raw)))
    .filter(lambda name: name not in {".", ".."})
)


class Page(HTMLParser):
    """What a browser would make of a page: elements with their attributes, links with their text."""

    def __init__(self, source):
        super().__init__()
        self.tags = []
        self.links = []
        self.title = ""
        self._open = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "a":
            self.links.append([dict(attrs)["href"], ""])

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "a" in self._open:
            self.links[-1][1] += data
        if "title" in self._open:
            self.title += data


def listing(*entries, names=(), links=None):
    path = UrlPath(names, folder=True)
    return Listing(path, BASE + path.encoded, entries, links or {})


def file(name, size_bytes=7):
    return Entry(name, False, size_bytes, MTIME_NS)


def folder(name):
    return Entry(name, True, 0, MTIME_NS)


def html(found):
    return b"".join(listing_html(found)).decode()


def told(found):
    return json.loads(b"".join(listing_json(found)))


def test_json_tells_each_entry():
    assert told(listing(folder("a b"), file("c.bin", 9), names=("x", "y"))) == {
        "ok": True,
        "msg": "",
        "path": "x/y",
        "entries": [
            {"name": "a b", "url": "a%20b/", "folder": True, "size": None, "modified": "2026-08-18T10:11:12Z"},
            {"name": "c.bin", "url": "c.bin", "folder": False, "size": 9, "modified": "2026-08-18T10:11:12Z"},
        ],
    }


def test_an_empty_folder_is_an_empty_list():
    assert told(listing())["entries"] == []
    assert "This folder is empty." in html(listing())


@pytest.mark.parametrize("count", [1, 199, 200, 201, 1001])
def test_every_entry_is_told_once_and_in_order(count):
    names = [f"{number:04}" for number in range(count)]
    found = listing(*map(file, names))
    assert [entry["name"] for entry in told(found)["entries"]] == names
    assert [text for href, text in Page(html(found)).links if href in set(names)] == names


def test_a_large_folder_comes_in_small_pieces():
    found = listing(*(file(f"file {number}.bin") for number in range(20_000)))
    for form in (listing_html, listing_json):
        assert max(map(len, form(found))) < 100_000


@given(name=FILE_NAMES)
@example(name='<script>alert("x")</script>')
@example(name="\"'><img src=x onerror=alert(1)>&amp;")
@example(name="a\nb\udcff")
@example(name="javascript:alert(1)")
@example(name="//evil.example")
def test_every_name_is_a_link_to_its_file_and_nothing_else(name):
    plain, strange = Page(html(listing(file("x")))), Page(html(listing(file(name))))
    assert [tag for tag, _ in strange.tags] == [tag for tag, _ in plain.tags]
    href = strange.links[-1][0]
    address = urljoin(BASE, href)
    assert address.startswith(BASE)
    assert unquote_to_bytes(urlsplit(address).path) == b"/files/" + encode_name(name)


def test_what_cannot_be_seen_in_a_name_is_shown():
    links = Page(html(listing(file("line\nfeed\x7f"), file("not-\udcff"), file("gpj.\u202eexe")))).links
    assert [text for _, text in links] == ["line\u240afeed\u2421", "not-\ufffd", "gpj.\ufffdexe"]


def test_the_path_leads_to_every_folder_above():
    page = Page(html(listing(file("f"), names=("a b", 'c"<d', "e"))))
    here = BASE + "a%20b/c%22%3Cd/e/"
    assert [(urljoin(here, href), text) for href, text in page.links[:4]] == [
        (BASE, "example.org/files"),
        (BASE + "a%20b/", "a b"),
        (BASE + "a%20b/c%22%3Cd/", 'c"<d'),
        (BASE + "a%20b/c%22%3Cd/", "Parent folder"),
    ]
    assert page.title == 'a b/c"<d/e'


def test_the_root_has_no_parent():
    assert [href for href, _ in Page(html(listing(file("f")))).links] == ["f"]


def test_the_page_links_to_what_else_is_told_of_the_folder():
    links = Page(html(listing(links={"SHA256SUMS": "SHA256SUMS", "JSON": "?format=json&x=<1>"}))).links
    assert links == [["SHA256SUMS", "SHA256SUMS"], ["?format=json&x=<1>", "JSON"]]


def test_the_page_loads_nothing_from_elsewhere():
    for tag, attributes in Page(html(listing(folder("a"), file("b"), names=("c",)))).tags:
        assert "src" not in attributes
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        if tag == "link":
            assert attributes["href"].startswith("data:")


def test_a_size_is_exact_where_the_pointer_rests():
    assert 'data-bytes="1536" title="1,536 bytes">1.5 KiB</td>' in html(listing(file("a", 1536)))


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10_188, "9.9 KiB"),
        (10_189, "10 KiB"),
        (1_048_063, "1023 KiB"),
        (1_048_575, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
        (2**63 - 1, "8.0 EiB"),
        (2**80, "1048576 EiB"),
    ],
)
def test_sizes_are_shown_with_two_digits_or_more(size_bytes, shown):
    assert human_size(size_bytes) == shown


@pytest.mark.parametrize(
    ("mtime_ns", "shown"),
    [(0, "1970-01-01 00:00"), (-1, "1969-12-31 23:59"), (10**30, "9999-12-31 23:59"), (-(10**30), "0001-01-01 00:00")],
)
def test_every_time_of_a_file_system_can_be_shown(mtime_ns, shown):
    assert f">{shown}</time>" in html(listing(Entry("a", False, 1, mtime_ns)))


PROBE = """
<script>
const said = [];
navigator.clipboard.writeText = async (text) => said.push(text);
const click = (selector) => document.querySelector(selector).click();
const order = () => said.push(Array.from(rows.rows, (row) => row.cells[0].textContent).join());
click("[data-copy]");
click(".file [data-run^=curl]");
click(".file [data-run^=gateway]");
click(".folder [data-run]");
for (const key of ["name", "name", "size", "time", "time"]) { click(`[data-sort=${key}]`); order(); }
document.title = JSON.stringify(said);
</script>
"""


async def dumped(url, folder):
    """The page at ``url`` as Chromium has it in the end."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
    ended = await run(require_program("chromium"), *flags, f"--user-data-dir={folder}", "--dump-dom", url, cwd=folder)
    return ended.out


async def test_the_policy_lets_the_script_of_the_page_run_and_no_other(tmp_path):
    page = html(listing(file("a"))) + "<script>document.title = 'stolen';</script>"
    resource = Resource(
        page.encode(), media_type=HTML_TYPE, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY}
    )
    async with Upstream() as up:
        seen = await dumped(up.add("/", resource), tmp_path)
    assert '<html lang="en" class="scripted">' in seen
    assert "<title>stolen</title>" not in seen


async def test_a_browser_sorts_columns_and_copies_commands(tmp_path):
    entries = [
        Entry("d2", True, 0, 3_000_000_000),
        Entry("d10", True, 0, 2_000_000_000),
        Entry("f2 's", False, 10, 1_000_000_000),
        Entry("f10", False, 9, 5_000_000_000),
    ]
    async with Upstream() as up:
        page = html(listing(*entries, names=("a b",))) + PROBE
        seen = await dumped(up.add("/", Resource(page.encode(), media_type=HTML_TYPE)), tmp_path)
    said = re.search("<title>(.*)</title>", seen)
    assert said is not None, seen
    assert json.loads(said[1].replace("&amp;", "&")) == [
        "gateway get --recursive https://example.org/files/a%20b/",
        "curl -OC - 'https://example.org/files/a%20b/f2%20%27s'",
        "gateway get 'https://example.org/files/a%20b/f2%20%27s'",
        "gateway get --recursive 'https://example.org/files/a%20b/d2/'",
        "d10,d2,f10,f2 's",
        "d2,d10,f2 's,f10",
        "d2,d10,f10,f2 's",
        "d10,d2,f2 's,f10",
        "d2,d10,f10,f2 's",
    ]
