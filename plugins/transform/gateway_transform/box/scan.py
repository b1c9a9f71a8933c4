"""An upload looked through without running it: whether it would be taken, and what is wrong with its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway_transform.box import codes, jobfile
from gateway_transform.box.codes import Refused
from gateway_transform.box.context import Entry
from gateway_transform.box.jobfile import JOB_FILE, JobFile
from gateway_transform.box.options import check_options
from gateway_transform.box.steps import JobLimits
from gateway_transform.box.untar import members
from gateway_transform.box.upload import Upload, upload_caps

Fields = dict[str, list[str]]


def scanned(upload_fd: int, limits: JobLimits, entries: Mapping[str, Entry]) -> dict[str, Any]:
    """The message ``scanned``: ``error`` as in status.json or None, ``fields`` messages by dotted field of job.json.

    The whole archive is read, nothing is written.
    """
    try:
        job = _job(upload_fd, limits)
    except Refused as refused:
        return _answer(codes.error(codes.BAD_INPUT, str(refused)), _field_of(refused))
    names = {
        f"transformations.{at}.name": [f"No such transformation: {step.name}"]
        for at, step in enumerate(job.steps)
        if step.name not in entries
    }
    options = {
        f"transformations.{at}.options.{name}": messages
        for at, step in enumerate(job.steps)
        if step.name in entries
        for name, messages in check_options(entries[step.name].description, step.options).items()
    }
    code = codes.UNKNOWN_TRANSFORMATION if names else codes.BAD_OPTIONS
    fields = names | options
    if not fields:
        return _answer(None, {})
    field, messages = next(iter(fields.items()))
    return _answer(codes.error(code, f"{field}: {messages[0]}"), fields)


def _answer(error: dict[str, Any] | None, fields: Fields) -> dict[str, Any]:
    return {"type": "scanned", "error": error, "fields": fields}


def _job(upload_fd: int, limits: JobLimits) -> JobFile:
    data: bytes | None = None
    for member in members(Upload(upload_fd), upload_caps(limits)):
        if member.path == JOB_FILE and not member.is_dir and member.size <= jobfile.MAX_BYTES:
            data = b"".join(member.chunks)
        elif member.path == JOB_FILE:
            raise Refused("bad_job_json", f"job.json has more than {jobfile.MAX_BYTES} bytes, or is a folder")
    if data is None:
        raise Refused("no_job_json", "the archive has no job.json")
    return jobfile.parse(data)


def _field_of(refused: Refused) -> Fields:
    """The field that a message about job.json begins with."""
    field, colon, text = refused.message.partition(": ")
    if refused.reason != "bad_job_json" or not colon or field.split(".")[0] not in {"transformations", "notify_hook"}:
        return {}
    return {field: [text]}
