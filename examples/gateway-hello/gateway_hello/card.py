"""A transformation for jobs: a card that greets. It is loaded where sandboxes are made, so it imports little."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from gateway_transform.api import BadOptions, Option, transformation


@transformation(
    label="Greeting card",
    help="Writes hello.txt, which greets somebody by name",
    options=[Option("name", "Name", default="world", free_input=True)],
    deterministic=True,
    version="1",
)
def hello_card(working_dir: str, logger: logging.Logger, options: dict[str, Any]) -> None:
    """Write ``hello.txt`` into the job's folder; raises BadOptions for a name of more than one line."""
    name = options.get("name", "world")
    if not isinstance(name, str) or not name.isprintable():
        raise BadOptions("name: a text of one line")
    Path(working_dir, "hello.txt").write_text(f"Hello, {name}!\n", encoding="utf-8")
    logger.info({"message": "Card written", "name_length": len(name)})
