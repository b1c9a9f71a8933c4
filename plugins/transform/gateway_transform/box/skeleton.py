"""What a box may read: the system's programs, the interpreter, the code of transformations, and nothing of the house.

One list serves both walls: as read-only binds below a new root (namespaces) or as rules (Landlock).
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gateway_transform.box.mounts import bind, bind_read_only, mask, seal, tmpfs

_SHM = ("dev", "shm")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_TOP = ("/usr", "/bin", "/sbin", "/lib*", "/opt", "/nix/store", "/gnu/store")
_VAR = ("cache/fontconfig", "lib/ghostscript", "lib/libreoffice", "lib/texmf", "spool/libreoffice")
#: Settings of programs and libraries. Never all of /etc: keys and passwords of other services live there.
_ETC = (
    "ImageMagick*",
    "alternatives",
    "ca-certificates*",
    "crypto-policies",
    "default/locale",
    "fonts",
    "ghostscript",
    "java*",
    "ld.so.cache",
    "ld.so.conf*",
    "ld.so.preload",
    "libpaper.d",
    "libreoffice",
    "locale.alias",
    "localtime",
    "magic",
    "magic.mime",
    "mime.types",
    "os-release",
    "papersize",
    "paperspecs",
    "pki/ca-trust",
    "pki/tls/certs",
    "protocols",
    "python3*",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "texmf",
    "timezone",
    "xml",
)
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}
_OWN = ("/", "/dev", "/proc")
#: Of the network's names: empty unless a box has the network.
NAME_FILES = ("/etc/resolv.conf", "/etc/hosts")


class Places(NamedTuple):
    """Where a box finds its two folders; beside the usual names when those hold something that it must read."""

    work: str
    tmp: str


@dataclass(slots=True)
class Plan:
    """Paths of the new root: ``links`` as they are, ``binds`` target -> source, ``masks`` to be covered, all real."""

    links: dict[str, str] = field(default_factory=dict)
    binds: dict[str, str] = field(default_factory=dict)
    masks: set[str] = field(default_factory=set)

    def places(self) -> Places:
        """Folders that nothing else needs."""
        taken = [*self.binds, *self.links]
        free = {name: not any(is_below(path, f"/{name}") for path in taken) for name in ("work", "tmp")}
        return Places(*(f"/{name}" if free[name] else f"/box/{name}" for name in ("work", "tmp")))


def is_below(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies in it; both absolute and normal."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def readable_paths(extra: Iterable[str]) -> list[str]:
    """Everything that is there and a box may read, unresolved; ``extra`` are the settings' own."""
    patterns = [*_TOP, *(f"/etc/{name}" for name in _ETC), *(f"/var/{name}" for name in _VAR)]
    found = [str(path) for pattern in patterns for path in sorted(Path("/").glob(pattern[1:]))]
    found += [path for path in (sys.prefix, sys.base_prefix, sys.exec_prefix) if path != "/"]
    found += [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    return [path for path in [*found, *_code(), *extra] if Path(path).exists()]


def _code() -> Iterator[str]:
    """Folders of loaded packages and files of loaded modules, but never a folder that imports start from.

    Such a folder may be the current one, with all that lies there.
    """
    starts = {os.path.realpath(path) for path in sys.path}
    for module in list(sys.modules.values()):
        paths: object = getattr(module, "__path__", None)
        folders = [path for path in paths if isinstance(path, str)] if isinstance(paths, Iterable) else []
        file = getattr(module, "__file__", None)
        for path in folders or ([file] if isinstance(file, str) else []):
            existing = _existing(Path(path).absolute())
            if existing and os.path.realpath(existing) not in starts:
                yield str(existing)


def _existing(path: Path) -> Path | None:
    """The path itself, or the archive that it is in."""
    if path.exists():
        return path
    return next((parent for parent in path.parents if parent.is_file()), None)


def plan(readable: Collection[str], hide: Iterable[str]) -> Plan:
    """Decide what is bound where; ``hide`` are files and folders that stay out though they lie in a bind.

    Raises OSError for what no box can have.
    """
    for path in readable:
        if os.path.realpath(path) in _OWN:
            raise OSError(errno.EINVAL, f"boxes have a {path} of their own, which cannot be that of the system")
    made = Plan()
    for path in readable:
        real = os.path.realpath(path)
        if path.count("/") == 1 and Path(path).is_symlink() and not Path(path).readlink().is_absolute():
            made.links[path] = str(Path(path).readlink())
        else:
            made.binds[os.path.normpath(path)] = real
        made.binds[real] = real
    hidden = {os.path.realpath(path) for path in hide if Path(path).exists()}
    made.binds = {path: real for path, real in made.binds.items() if real not in hidden and not _shows(path, made)}
    made.masks = {
        path + each[len(real) :] for path, real in made.binds.items() for each in hidden if is_below(each, real)
    }
    return made


def _shows(path: str, made: Plan) -> bool:
    """Whether it is another name of something, and links that are in the box anyway lead there."""
    others = [other for other in (*made.links, *made.binds) if other != path]
    return made.binds[path] != path and any(is_below(path, other) for other in others)


def unmasked(readable: Iterable[str], hide: Iterable[str]) -> list[str]:
    """The same as paths that hold nothing of ``hide``: where rules only allow, its neighbours are named instead."""
    hidden = [os.path.realpath(path) for path in hide]
    found: set[str] = set()
    for path in {os.path.realpath(path) for path in readable}:
        found.update(_around(path, [each for each in hidden if each == path or not is_below(path, each)]))
    outermost: list[str] = []
    for path in sorted(found, key=lambda path: f"{path}/"):
        if not outermost or not is_below(path, outermost[-1]):
            outermost.append(path)
    return outermost


def _around(path: str, hidden: list[str]) -> Iterator[str]:
    if any(is_below(path, each) for each in hidden):
        return
    if not any(is_below(each, path) for each in hidden):
        yield path
        return
    with os.scandir(path) as entries:
        for entry in entries:
            if not entry.is_symlink():
                yield from _around(entry.path, hidden)


def build(root: str, host: str, plan: Plan, *, uid: int) -> None:
    """Fill the tmpfs at ``root``, which is left read-only; ``host`` is where the system's files are seen.

    Raises OSError. Nothing is copied but a few lines that programs want to find in /etc.
    """
    for path, target in plan.links.items():
        Path(root + path).symlink_to(target)
    order = sorted({*plan.binds, *plan.masks}, key=lambda path: path.count("/"))
    done: dict[str, bool] = {}
    masked = []
    for path in order:
        covered = _covering(path, done)
        if path in plan.masks:
            if covered:
                mask(root + path)
                masked.append(root + path)
                done[path] = False
        elif not covered:
            bind_read_only(host + plan.binds[path], root + path)
            done[path] = True
    _devices(root, host)
    _texts(root, uid)
    for place in ("/proc", plan.places().work, plan.places().tmp):
        Path(root + place).mkdir(parents=True, exist_ok=True)
    for path in [*masked, root]:
        seal(path)


def _covering(path: str, done: Mapping[str, bool]) -> bool:
    """Whether ``path`` shows already: its nearest ancestor is a bind and no mask."""
    above = path
    while above != "/":
        if above in done:
            return done[above]
        above = str(Path(above).parent)
    return False


def _devices(root: str, host: str) -> None:
    Path(root, *_SHM).mkdir(parents=True)
    for path in DEVICES:
        bind(host + path, root + path)
    for name, target in _LINKS.items():
        Path(root, "dev", name).symlink_to(target)


def _texts(root: str, uid: int) -> None:
    """Users, groups and names of the box's own world, unless the settings show it the system's."""
    texts = {
        "/etc/passwd": f"root:x:0:0:root:/:/bin/sh\nbox:x:{uid}:{uid}:box:/tmp:/bin/sh\n",
        "/etc/group": f"root:x:0:\nbox:x:{uid}:\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
        "/etc/resolv.conf": "",
    }
    Path(root, "etc").mkdir(exist_ok=True)
    for path, text in texts.items():
        if not Path(root + path).exists():
            Path(root + path).write_text(text, encoding="utf-8")


def box_tmpfs(root: str) -> None:
    """A box's own small /dev/shm."""
    tmpfs(str(Path(root, *_SHM)), "mode=1777,size=64m,nr_inodes=1024")
