from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from logging.handlers import BufferingHandler
from pathlib import Path

import pytest

from gateway_transform.box.joblog import STEP_BYTES, JobLog


@pytest.fixture
def log(tmp_path) -> Iterator[JobLog]:
    fd = os.open(tmp_path / "out.log", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    yield JobLog(fd, tmp_path.name)
    os.close(fd)


def lines(log: JobLog) -> list[dict]:
    return [json.loads(line) for line in log.content().splitlines()]


def test_text_is_a_line_with_circes_keys(log, tmp_path):
    log.logger.info("hello %s", "you")
    (line,) = lines(log)
    assert list(line) == ["timestamp", "level", "name", "message"]
    assert (line["level"], line["name"], line["message"]) == ("INFO", f"job_logger_{tmp_path.name}", "hello you")
    said = datetime.strptime(line["timestamp"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - said).total_seconds()) < 60


def test_dict_gives_message_and_more_keys_in_order(log):
    log.logger.warning({"file": "a", "message": "converted", "pages": 3})
    (line,) = lines(log)
    assert list(line) == ["timestamp", "level", "name", "message", "file", "pages"]
    assert (line["message"], line["file"], line["pages"]) == ("converted", "a", 3)


def test_dict_without_message_and_empty_dict_have_an_empty_one(log):
    log.logger.info({"pages": 3})
    log.logger.info({})
    assert [line["message"] for line in lines(log)] == ["", ""]


def test_extra_and_exception_are_keys(log):
    try:
        raise ValueError("wrong")
    except ValueError:
        log.logger.exception("failed", extra={"file": "a"})
    (line,) = lines(log)
    assert line["file"] == "a"
    assert line["exc_info"].endswith("ValueError: wrong")


def test_what_json_cannot_say_is_said_as_text(log):
    log.logger.info({"message": "m", "path": Path("/a"), ("x", 1): float("nan")})
    (line,) = lines(log)
    assert (line["message"], line["path"], line["('x', 1)"]) == ("m", "/a", "nan")


def test_nested_values_that_json_cannot_say_do_not_lose_the_line(log):
    loop: list[object] = []
    loop.append(loop)
    log.logger.info({"message": "m", "loop": loop})
    assert lines(log)[0]["message"] == "m"


def test_numbers_and_lists_are_messages_too(log):
    log.logger.info(5)
    log.logger.info(["a"])
    assert [line["message"] for line in lines(log)] == ["5", "['a']"]


def test_value_that_cannot_be_shown_is_told_on_standard_error(log, capsys):
    class Rude:
        def __str__(self) -> str:
            raise KeyError("no")

    log.logger.info({"message": "m", "value": Rude()})
    assert lines(log) == []
    assert "KeyError" in capsys.readouterr().err


def test_newlines_stay_inside_a_line(log):
    log.logger.info("a\nb\u2028c")
    assert lines(log)[0]["message"] == "a\nb\u2028c"


def test_level_debug_is_kept_and_nothing_goes_to_other_loggers(log):
    elsewhere = BufferingHandler(1000)
    logging.getLogger().addHandler(elsewhere)
    log.logger.debug("small")
    logging.getLogger().removeHandler(elsewhere)
    assert lines(log)[0]["level"] == "DEBUG"
    assert elsewhere.buffer == []


def test_loggers_below_it_write_there_too(log):
    logging.getLogger(log.logger.name + ".part").info("from below")
    assert lines(log)[0]["message"] == "from below"


def in_child(log: JobLog, *messages: str) -> None:
    """Log as a step does."""
    pid = os.fork()
    if pid == 0:
        try:
            log.hold()
            for message in messages:
                log.logger.info(message)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_steps_lines_end_with_one_warning_when_the_log_is_full(log):
    in_child(log, *["x" * 100_000] * 12)
    in_child(log, "small", "smaller")
    found = lines(log)
    assert len(log.content()) <= STEP_BYTES + 300
    assert [line["level"] for line in found] == ["INFO"] * 10 + ["WARNING"]


def test_the_boxs_own_lines_still_find_place(log):
    in_child(log, *["x" * 100_000] * 12)
    log.logger.error("this must be told")
    assert lines(log)[-1]["message"] == "this must be told"


def test_one_line_longer_than_the_log_is_replaced_by_the_warning(log):
    in_child(log, "x" * (2 * STEP_BYTES))
    assert [line["level"] for line in lines(log)] == ["WARNING"]


def test_tail_has_whole_lines_only(log):
    for at in range(100):
        log.logger.info("line %d", at)
    tail = log.tail(1000)
    assert [json.loads(line)["message"] for line in tail.splitlines()] == [f"line {at}" for at in range(93, 100)]
    assert log.tail(1 << 20).count("\n") == 100
