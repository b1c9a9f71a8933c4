"""Fixtures of the transform tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.transform.job_stand import Caller, JobStand, standing

MODULES = Path(__file__).parent / "modules"
"""Where modules of transformations lie; ``circe_module`` is one."""

MakeJobStand = Callable[..., AbstractAsyncContextManager[JobStand]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def job_stand(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[JobStand]:
    """A gateway that accepts jobs, for all tests of a module, which must run in the module's event loop."""
    async with standing(tmp_path_factory.mktemp("jobs"), templates=gateway_templates) as stood:
        yield stood


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def narrow_stand(tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path) -> AsyncIterator[JobStand]:
    """A gateway that accepts little: one waiting job of a client, 1 MiB, of the client ``scans`` 3 MiB."""
    transform = {"max_upload_mb": 1, "client_upload_mb": {"scans": 3}, "max_queued_per_client": 1}
    async with standing(tmp_path_factory.mktemp("jobs"), transform, templates=gateway_templates) as stood:
        yield stood


@pytest_asyncio.fixture(loop_scope="module")
async def caller(job_stand: JobStand) -> Caller:
    """A client of ``job_stand`` that no other test has."""
    return await job_stand.caller()


@pytest.fixture
def make_job_stand(tmp_path: Path, gateway_templates: Path) -> MakeJobStand:
    """A test's own, with other settings: ``async with make_job_stand({"max_queued": 1}) as stand:``."""

    def make(transform: dict[str, Any] | None = None, **core: Any) -> AbstractAsyncContextManager[JobStand]:
        return standing(tmp_path / "gateway", transform, templates=gateway_templates, **core)

    return make


@pytest.fixture(scope="session")
def circe_modules() -> Iterator[str]:
    """The setting ``modules`` for transformations written for Circe, which lie where Python finds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(MODULES))
        yield "circe_module"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def working_stand(
    circe_modules: str, tmp_path_factory: pytest.TempPathFactory, gateway_templates: Path
) -> AsyncIterator[JobStand]:
    """A gateway that runs jobs with ``circe_modules``, for all tests of a module."""
    transform = {"workers": 2, "modules": circe_modules}
    async with standing(tmp_path_factory.mktemp("jobs"), transform, templates=gateway_templates) as stood:
        yield stood
