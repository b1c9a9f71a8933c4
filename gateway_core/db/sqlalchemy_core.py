"""SQLAlchemy's asyncio engine without its ORM.

``sqlalchemy.ext.asyncio`` imports the ORM for its sessions, which nothing here uses: 6 MB and 0.1 s for each process.
Its two session modules are left out while the package is imported; a plugin that names one of theirs gets the real
ones then.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_PACKAGE = "sqlalchemy.ext.asyncio"
_LEFT_OUT = {
    f"{_PACKAGE}.scoping": ("async_scoped_session",),
    f"{_PACKAGE}.session": (
        "AsyncAttrs",
        "AsyncSession",
        "AsyncSessionTransaction",
        "async_object_session",
        "async_session",
        "async_sessionmaker",
        "close_all_sessions",
    ),
}


def _import_without_orm() -> None:
    for name, members in _LEFT_OUT.items():
        stand_in = ModuleType(name)
        stand_in.__dict__.update(dict.fromkeys(members))
        sys.modules[name] = stand_in
    try:
        package = import_module(_PACKAGE)
    finally:
        for name in _LEFT_OUT:
            del sys.modules[name]
    for name, members in _LEFT_OUT.items():
        for member in (*members, name.rpartition(".")[2]):
            package.__dict__.pop(member, None)

    def load(name: str) -> Any:
        for module, members in _LEFT_OUT.items():
            if name in members:
                return getattr(import_module(module), name)
        raise AttributeError(f"module {_PACKAGE!r} has no attribute {name!r}")

    package.__dict__["__getattr__"] = load


if _PACKAGE not in sys.modules:
    _import_without_orm()

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine  # noqa: E402 - the reason is above

__all__ = ["AsyncConnection", "AsyncEngine", "create_async_engine"]
