"""The transform plugin's routes: Circe's, and ours beside them."""

from __future__ import annotations

from typing import Any

from gateway_core import Body, Gateway, Kind, Route
from gateway_transform.settings import TransformSettings
from gateway_transform.web.access import SCOPE
from gateway_transform.web.catalogue import CatalogueHandlers
from gateway_transform.web.errors import circe_errors
from gateway_transform.web.results import TAR, ResultQuery, Results
from gateway_transform.web.status import JobStatus, StatusHandlers, WaitQuery
from gateway_transform.web.upload import SubmitQuery, Uploads
from gateway_transform.work.service import sweep_now_and_then


def transform_routes(gateway: Gateway) -> list[Route]:
    """All routes of the plugin; jobs are public where ``USE_AUTH`` is off."""
    sweep_now_and_then(gateway)
    results, status, catalogue = Results(gateway), StatusHandlers(gateway), CatalogueHandlers(gateway)
    uploads = Uploads(gateway, results)
    use_auth = gateway.section(TransformSettings).use_auth
    of_job: dict[str, Any] = {"errors": circe_errors, **({"scope": SCOPE} if use_auth else {"public": True})}
    return [
        Route(
            method="GET",
            path="/transformations/",
            handler=catalogue.transformations,
            name="transformations",
            public=True,
        ),
        Route(
            method="GET",
            path="/version/",
            handler=catalogue.version,
            name="version",
            media_type="text/plain",
            public=True,
        ),
        Route(
            method="POST",
            path="/job/",
            handler=uploads.submit,
            name="submit",
            kind=Kind.STREAM,
            body=Body.STREAM,
            query=SubmitQuery,
            media_type="text/plain",
            **of_job,
        ),
        Route(
            method="GET",
            path="/job/{id}",
            handler=results.show,
            name="result",
            kind=Kind.STREAM,
            query=ResultQuery,
            media_type=TAR,
            **of_job,
        ),
        Route(method="DELETE", path="/job/{id}", handler=status.delete, name="delete", response=JobStatus, **of_job),
        Route(
            method="GET",
            path="/job/{id}/status",
            handler=status.status,
            name="status",
            query=WaitQuery,
            response=JobStatus,
            **of_job,
        ),
        Route(
            method="GET",
            path="/job/{id}/events",
            handler=status.events,
            name="events",
            kind=Kind.STREAM,
            media_type="text/event-stream",
            **of_job,
        ),
    ]
