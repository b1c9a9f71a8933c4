"""A handler that says which node it is."""

from __future__ import annotations

import os
from typing import Any


class Handlers:
    def get_who(self, ctx: Any, post_data: Any) -> dict[str, str]:
        return {"who": os.environ["WHO"]}
