"""Every metric and every event is in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gateway_archive.downloads  # noqa: F401 - its metrics are registered by the import
import gateway_blocks.sums.reports  # noqa: F401 - likewise
import gateway_pipe.durable.metrics
import gateway_pipe.hub.metrics
import gateway_pipe.identity.listener  # noqa: F401 - likewise
import gateway_transform.hooks.delivery
import gateway_transform.work.metrics  # noqa: F401 - likewise
from gateway_core.observe import events, metrics

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("plugins/*/README.md")]
DOCS = "\n".join(page.read_text() for page in PAGES)


def metric_names() -> list[str]:
    return sorted(set(re.findall(r"^# TYPE (gateway_\w+)", metrics.render().decode(), re.MULTILINE)))


def event_names() -> list[str]:
    return sorted(value for name, value in vars(events).items() if name.isupper())


def test_there_are_metrics_and_events():
    assert {
        "gateway_requests_total",
        "gateway_archive_downloads_total",
        "gateway_blocks_reports_total",
        "gateway_pipe_calls_total",
        "gateway_pipe_durable_calls_total",
        "gateway_pipe_handshakes_failed_total",
        "gateway_transform_jobs_total",
        "gateway_transform_webhooks_total",
    } <= set(metric_names())
    assert {"core.server.ready", "archive.item.failed", "pipe.node.connected", "transform.job.ended"} <= set(
        event_names()
    )


@pytest.mark.parametrize("name", metric_names())
def test_a_metric_is_documented(name):
    assert f"`{name}`" in DOCS


@pytest.mark.parametrize("name", event_names())
def test_an_event_is_documented(name):
    assert f"`{name}`" in DOCS
