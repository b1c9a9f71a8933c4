"""Transformations as they are written for Circe: this module knows nothing of the gateway."""

import logging
import os
import time
from glob import glob


def uppercase(working_dir: str, logger: logging.Logger, options: dict):
    for path in glob(os.path.join(working_dir, "*.txt")):
        with open(path, encoding="utf-8") as file:
            text = file.read()
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.upper())
        logger.info({"message": "file converted", "file": os.path.basename(path), "letters": len(text)})


uppercase.description = {
    "label": "Upper case",
    "help": "Makes all letters of all text files capital",
    "options": [
        {
            "id": "alphabet",
            "label": "Alphabet",
            "default": "all",
            "free_input": False,
            "values": {"all": "All letters", "latin": "Latin letters only"},
        }
    ],
}


def copy_here(working_dir: str, logger: logging.Logger, options: dict):
    target = os.path.join(working_dir, options.get("folder", "copies"))
    os.makedirs(target)
    for name in sorted(os.listdir(working_dir)):
        path = os.path.join(working_dir, name)
        if os.path.isfile(path) and name not in ("job.json", "out.log"):
            with open(path, "rb") as source, open(os.path.join(target, name), "wb") as copy:
                copy.write(source.read())


def explode(working_dir: str, logger: logging.Logger, options: dict):
    logger.warning("this will not go well")
    raise ValueError("it did not go well")


def nap(working_dir: str, logger: logging.Logger, options: dict):
    logger.info("good night")
    time.sleep(float(options.get("seconds", 60)))
    logger.info("good morning")


nap.description = {"label": "Nap", "help": "Sleeps", "options": []}


class Count:
    """A class is called like a function."""

    def __init__(self, working_dir: str, logger: logging.Logger, options: dict):
        self.files = sorted(os.listdir(working_dir))
        with open(os.path.join(working_dir, "count.txt"), "w", encoding="utf-8") as file:
            file.write(str(len(self.files)))
        logger.info("counted")


Count.description = {"label": "Count", "help": "Counts the files", "options": []}
