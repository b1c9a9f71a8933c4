"""Commands that are clients of a running gateway: where it is, and with which secret."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class Remote:
    """A running gateway: ``url`` without a trailing slash, ``secret`` None where none is needed."""

    url: str
    secret: str | None = field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What proves who is asking."""
        return {"Authorization": f"Bearer {self.secret}"} if self.secret else {}


def remote_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``command`` the options ``--server``, ``--secret`` and ``--credentials``, and the argument ``remote``.

    ``GATEWAY_URL`` and ``GATEWAY_SECRET`` stand for the first two; the credentials file is what
    ``gateway client add --out`` wrote. No server settings are loaded.
    """

    @click.option(
        "--server",
        envvar="GATEWAY_URL",
        metavar="URL",
        default="http://127.0.0.1:8000",
        show_default=True,
        help="Where the gateway is.",
    )
    @click.option("--secret", envvar="GATEWAY_SECRET", help="Secret of a client; better in the environment or a file.")
    @click.option(
        "--credentials",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="File that `gateway client add --out` wrote.",
    )
    @wraps(command)
    def with_remote(*arguments: Any, server: str, secret: str | None, credentials: Path | None, **rest: Any) -> Any:
        if not server.startswith(("http://", "https://")):
            raise click.BadParameter("a URL begins with http:// or https://", param_hint="--server")
        if secret is None and credentials is not None:
            secret = _secret_in(credentials)
        return command(*arguments, remote=Remote(server.rstrip("/"), secret), **rest)

    return with_remote


def _secret_in(path: Path) -> str:
    try:
        secret = json.loads(path.read_text(encoding="utf-8"))["secret"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise click.BadParameter(f"{path} is no credentials file", param_hint="--credentials") from exc
    if not isinstance(secret, str):
        raise click.BadParameter(f"{path} is no credentials file", param_hint="--credentials")
    return secret
