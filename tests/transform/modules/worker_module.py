"""Transformations for what a worker does around a job."""

import os
import socket
import time


def hold(working_dir, logger, options):
    """Says that it runs, then waits."""
    logger.info("holding")
    with open(os.path.join(working_dir, "half.txt"), "w", encoding="ascii") as file:
        file.write("half")
    time.sleep(float(options.get("seconds", 60)))


def random_bytes(working_dir, logger, options):
    with open(os.path.join(working_dir, "random.bin"), "wb") as file:
        file.write(os.urandom(32))


random_bytes.deterministic = True  # a lie, so that a test can tell whether it was run again


def connect(working_dir, logger, options):
    with socket.create_connection(("127.0.0.1", int(options["port"])), timeout=5) as link:
        link.sendall(b"hello")


connect.needs = {"network": True}


def try_to_connect(working_dir, logger, options):
    try:
        connect(working_dir, logger, options)
    except OSError as error:
        logger.info("no way out", extra={"errno": error.errno})


def in_a_minute(working_dir, logger, options):
    time.sleep(60)


in_a_minute.needs = {"seconds": 0.5, "memory_mb": 64}
