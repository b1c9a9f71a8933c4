"""Where the objects of jobs are in the storage: ``transform/<job>/input`` and ``transform/<job>/result-<token>``."""

from __future__ import annotations

PREFIX = "transform/"
"""All of them."""


def input_key(job_id: str) -> str:
    """What was uploaded."""
    return f"{PREFIX}{job_id}/input"


def result_key(job_id: str, token: str) -> str:
    """What the attempt of that token made: no two attempts write to the same object."""
    return f"{PREFIX}{job_id}/result-{token}"


def job_of(key: str) -> str:
    """Id of the job whose object it is."""
    return key.removeprefix(PREFIX).partition("/")[0]
