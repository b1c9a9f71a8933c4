"""Wake-up topics. They carry nothing: whoever is woken looks at the rows."""

from __future__ import annotations

QUEUE = "transform:queue"
"""A job waits."""

CANCEL = "transform:cancel"
"""Somebody asked for a running job to end."""


def job_topic(job_id: str) -> str:
    """Something about this job has changed."""
    return f"transform:job:{job_id}"
