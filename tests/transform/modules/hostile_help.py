"""What hostile transformations have in common."""

import contextlib
import errno
import json
import os
import signal
import time


def mark(options):
    """Bear the marker: forks inherit the name, programs the variable."""
    with open("/proc/self/comm", "w") as file:
        file.write(options["marker"])
    os.environ["MARKER"] = options["marker"]


def save(working_dir, found):
    with open(os.path.join(working_dir, "found.json"), "w") as file:
        json.dump(found, file)


def outcome(action, *arguments):
    """``done`` or the name of the error."""
    try:
        action(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)
    return "done"


def sleep_for_ever():
    while True:
        time.sleep(3600)


def ignore_signals():
    for number in range(1, signal.NSIG):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)


def down(folder, name):
    os.mkdir(name, dir_fd=folder)
    below = os.open(name, os.O_RDONLY, dir_fd=folder)
    os.close(folder)
    return below
