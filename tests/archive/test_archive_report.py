"""The report about what is missing, cut to the room it has."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_archive.report import Failure, render_report

FAILURE = Failure("docs/größe.txt", "https://user:secret@files.test/größe.txt?signature=x", "gone", "gone: status 404")


@given(count=st.integers(0, 12), packed=st.integers(0, 120), limit=st.integers(0, 1500))
@settings(max_examples=60)
def test_a_report_is_cut_at_whole_failures(count, packed, limit):
    failures = [FAILURE] * count
    whole, cut = render_report(failures, packed=packed), render_report(failures, packed=packed, limit_bytes=limit)
    assert len(cut) <= limit
    if len(whole) <= limit:
        assert cut == whole
        return
    shown = cut.count(b"gone: status 404")
    more = f"\r\n... and {count - shown} more\r\n".encode()
    if cut.endswith(more):
        assert whole.startswith(cut.removesuffix(more))
        assert len(render_report([FAILURE], packed=0)) - 71 + len(cut) > limit
    else:
        assert b"Some files are missing.\r\n".startswith(cut)
        assert limit < 100


def test_a_report_names_no_secret_and_ends_its_lines_for_every_editor():
    text = render_report([FAILURE, FAILURE], packed=3, limit_bytes=200).decode()
    assert text.splitlines(keepends=True) == [
        "2 of 5 files could not be downloaded and are missing in this archive.\r\n",
        "\r\n",
        "docs/größe.txt\r\n",
        "    from https://files.test/größe.txt\r\n",
        "    gone: status 404\r\n",
        "\r\n",
        "... and 1 more\r\n",
    ]
