"""A worker to be killed: starts a zygote and a box on the socket that it was given, says the zygote's number, waits."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from gateway_transform.box import wire
from tests.transform import boxes

if __name__ == "__main__":
    box, folder, options = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    process, control = boxes.start(cwd=Path(folder), **options)
    print(process.pid, flush=True)
    wire.send(control, {"type": "spawn", "box": "only", "folder": folder, "network": False}, [box])
    os.close(box)
    signal.pause()
