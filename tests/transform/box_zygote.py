"""A zygote whose boxes do what a test says: its one argument is that of the real one.

``WITHOUT`` in the environment names functions (``module.function`` of the box package) that fail as if the kernel had
no such call, or gave it to nobody.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys

import box_hostile

from gateway_transform.box import wire, zygote


def refuse(*arguments, **more) -> None:
    raise OSError(errno.ENOSYS, "refused for a test")


if __name__ == "__main__":
    for name in os.environ.get("WITHOUT", "").split():
        module, _, function = name.partition(".")
        setattr(importlib.import_module(f"gateway_transform.box.{module}"), function, refuse)
    options = zygote.ZygoteOptions(**json.loads(sys.argv[1]))
    sys.exit(zygote.run(options, lambda sock, context: box_hostile.serve(sock, context, wire)))
