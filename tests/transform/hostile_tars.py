"""Archives that must be refused, by name: what they try, and the word for the refusal."""

from __future__ import annotations

from collections.abc import Iterator

from tests.transform.tar_bytes import BLOCK, END, GNU, deflated, file, folder, gz, header, link, long_name, octal, pax

MIB = 1 << 20
_GOOD = gz(file(b"good.txt", b"good" * 1000), END)
_NEGATIVE = b"\xff" * 12


def _big(head: bytes, size: int, fill: bytes) -> bytes:
    """A header and that much data, which never is in memory at once."""
    return b"".join(deflated([head, *[fill * MIB] * (size // MIB), END]))


def _many_files(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield header(b"%06d" % number)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "parent": (gz(file(b"../outside"), END), "path_escapes"),
    "parent below": (gz(file(b"a/../../outside"), END), "path_escapes"),
    "absolute": (gz(file(b"/tmp/outside"), END), "absolute_path"),
    "two slashes": (gz(file(b"//tmp/outside"), END), "absolute_path"),
    "drive and backslash": (gz(file(b"C:\\outside"), END), "backslash"),
    "drive": (gz(file(b"C:outside"), END), "drive_letter"),
    "backslash parent": (gz(file(b"..\\outside"), END), "backslash"),
    "nul in a name": (gz(file(b"good\0/../../outside"), END), "nul_in_name"),
    "nul in a pax path": (gz(pax((b"path", b"good\0/../outside")), file(b"good"), END), "nul_in_name"),
    "newline": (gz(file(b"a\nb"), END), "control_character"),
    "long name": (gz(pax((b"path", b"n" * 256)), file(b"n"), END), "name_too_long"),
    "longer than PATH_MAX": (gz(pax((b"path", b"d/" * 2100 + b"f")), file(b"f"), END), "path_too_long"),
    "deep": (gz(pax((b"path", b"d/" * 32 + b"f")), file(b"f"), END), "too_deep"),
    "symbolic link to an absolute path": (gz(link(b"l", b"/etc"), END), "symbolic_link"),
    "symbolic link upwards": (gz(link(b"l", b".."), END), "symbolic_link"),
    "file through a link": (gz(link(b"l", b"/tmp"), file(b"l/outside"), END), "symbolic_link"),
    "chain of links beyond PATH_MAX": (
        gz(*[link(b"d" * 90 + b"%d" % at, b"d" * 90 + b"/.." * 3) for at in range(60)], END),
        "symbolic_link",
    ),
    "hard link to an absolute path": (gz(link(b"l", b"/etc/passwd", b"1"), END), "hard_link"),
    "hard link upwards": (gz(link(b"l", b"../outside", b"1"), END), "hard_link"),
    "hard link to a link before it": (gz(file(b"a"), link(b"b", b"a", b"1"), link(b"l", b"b"), END), "hard_link"),
    "links without names": (gz(link(b"", b".."), link(b"", b"../.."), END), "symbolic_link"),
    "folder replaced by a link": (gz(folder(b"d/"), link(b"d", b"/tmp"), file(b"d/outside"), END), "symbolic_link"),
    "character device": (gz(header(b"null", kind=b"3"), END), "device"),
    "block device": (gz(header(b"disk", kind=b"4"), END), "device"),
    "fifo": (gz(header(b"fifo", kind=b"6"), END), "fifo"),
    "sparse of 1 TB": (gz(header(b"s", octal(1 << 32, 12), b"S", magic=GNU), END), "sparse"),
    "sparse of 1 TB by pax": (
        gz(pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"1099511627776")), file(b"s"), END),
        "sparse",
    ),
    "negative size": (gz(header(b"n", _NEGATIVE), END), "bad_size"),
    "size of 1 TB": (gz(header(b"n", b"\x80" + (1 << 40).to_bytes(11)), END), "too_big"),
    "pax path outside": (gz(pax((b"path", b"../outside")), file(b"good"), END), "path_escapes"),
    "pax size of 1 TB": (gz(pax((b"size", b"1099511627776")), header(b"n"), END), "too_big"),
    "pax size against the header": (gz(pax((b"size", b"0")), file(b"n", b"y" * BLOCK), END), "bad_size"),
    "pax link": (gz(pax((b"linkpath", b"/etc")), file(b"n"), END), "symbolic_link"),
    "pax path for all": (gz(pax((b"path", b"same"), kind=b"g"), file(b"n"), END), "bad_header"),
    "long name of 150 MB": (
        _big(header(b"././@LongLink", 150 * MIB, b"L", magic=GNU), 150 * MIB, b"n"),
        "header_too_big",
    ),
    "pax header of 150 MB": (_big(header(b"PaxHeader", 150 * MIB, b"x"), 150 * MIB, b"1"), "header_too_big"),
    "long target of a link": (gz(file(b"././@LongLink", b"t" * 200, kind=b"K", magic=GNU), END), "symbolic_link"),
    "end in the middle of a file": (gz(header(b"f", 1 << 20), b"f" * BLOCK), "truncated"),
    "bomb of 1 to 1000": (_big(header(b"zeros", 200 * MIB), 200 * MIB, b"\0"), "ratio"),
    "bomb after the end": (_big(END, 200 * MIB, b"\0"), "ratio"),
    "too many files": (b"".join(deflated(_many_files(30_000))), "too_many_files"),
    "too many folders in few names": (
        gz(*[pax((b"path", b"%d/" % at + b"d/" * 30 + b"f")) + file(b"f") for at in range(500)], END),
        "too_many_files",
    ),
    "same name twice": (gz(file(b"a"), file(b"a"), END), "duplicate"),
    "same name by another way": (gz(file(b"d/a"), file(b"./d//a"), END), "duplicate"),
    "same name but for case": (gz(file(b"Stra\xc3\x9fe"), file(b"STRASSE"), END), "duplicate"),
    "same name but for composition": (gz(file(b"\xc3\xa9"), file(b"e\xcc\x81"), END), "duplicate"),
    "folder below a file": (gz(file(b"a"), file(b"a/b"), END), "file_and_folder"),
    "file in place of a folder": (gz(file(b"a/b"), file(b"a"), END), "file_and_folder"),
    "setuid": (gz(file(b"su", mode=0o4755), END), "setuid"),
    "setgid": (gz(file(b"sg", mode=0o2755), END), "setuid"),
    "name that is no UTF-8": (gz(file(b"caf\xe9"), END), "name_encoding"),
    "file without a name": (gz(file(b"."), END), "bad_header"),
    "file named like a folder": (gz(file(b"d/"), END), "bad_header"),
    "folder with content": (gz(header(b"d/", 512, b"5"), bytes(512), END), "bad_size"),
    "two long names": (gz(long_name(b"a"), long_name(b"b"), file(b"c"), END), "bad_header"),
    "unknown pax key": (gz(pax((b"VENDOR.redirect", b"/etc")), file(b"n"), END), "header_key"),
    "pax record longer than its header": (gz(file(b"P", b"99 path=a\n", kind=b"x"), file(b"n"), END), "bad_header"),
    "unknown type": (gz(header(b"v", kind=b"V"), END), "unsupported_type"),
    "wrong checksum": (gz(header(b"a").replace(b"644", b"645"), END), "bad_header"),
    "no tar": (gz(b"hello, this is text" * 100), "bad_header"),
    "less than a block": (gz(b"hello"), "truncated"),
    "no gzip": (b"PK\x03\x04" + bytes(100), "not_gzip"),
    "nothing": (b"", "not_gzip"),
    "cut gzip": (_GOOD[:-10], "truncated"),
    "gzip without its trailer": (_GOOD[:-8], "truncated"),
    "wrong CRC": (_GOOD[:-8] + bytes([_GOOD[-8] ^ 1]) + _GOOD[-7:], "corrupt"),
    "wrong length": (_GOOD[:-1] + bytes([_GOOD[-1] ^ 1]), "corrupt"),
    "junk at the end": (_GOOD + b"junk", "trailing_data"),
    "junk after zeros at the end": (_GOOD + bytes(5000) + b"junk", "trailing_data"),
    "zeros without end": (_GOOD + bytes(2 * MIB), "trailing_data"),
    "second gzip member": (_GOOD + gz(file(b"second"), END), "trailing_data"),
    "junk after the tar's end": (gz(file(b"a"), END, file(b"hidden")), "trailing_data"),
    "cut tar": (gz(file(b"a"), file(b"b")), "truncated"),
    "one block of zeros": (gz(file(b"a"), bytes(BLOCK), file(b"b"), END), "bad_header"),
}
