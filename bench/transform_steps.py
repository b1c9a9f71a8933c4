"""The transformation of both sides, as one writes it for Circe. It runs in their processes: nothing else is here."""

from __future__ import annotations

import logging
from typing import Any


def noop(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:  # noqa: ARG001 - Circe's names
    logger.info("nothing was to be done")
