"""A transformation that takes its time, and whose whole output can be told from a part of it."""

import hashlib
import os
import time

PARTS = 20


def stamp(working_dir, logger, options):
    with open(os.path.join(working_dir, "number.txt"), encoding="ascii") as file:
        number = file.read()
    for part in range(PARTS):
        time.sleep(float(options["seconds"]) / PARTS)
        with open(os.path.join(working_dir, f"part-{part}.bin"), "wb") as file:
            file.write(hashlib.sha256(f"{number}:{part}".encode()).digest() * 100)
        logger.info("part %d of job %s", part, number)
