"""Who may use the job routes, and how Circe's clients and others prove it."""

from __future__ import annotations

import uuid

import pytest

from tests.transform.conftest import MakeJobStand
from tests.transform.job_stand import NO_JOB, Caller, JobStand, signed

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = b"an archive"


async def test_circe_signature_over_the_body_is_taken(caller: Caller):
    assert (await caller.post(BODY, Authorization=caller.circe(BODY))).status == 200


async def test_circe_signature_over_an_empty_body_is_taken(caller: Caller):
    assert (await caller.post(b"", Authorization=caller.circe(b""))).status == 200


async def test_circe_signature_may_have_dashes_in_the_clients_id(caller: Caller):
    dashed = f"{uuid.UUID(caller.client.id)} {signed(caller.secret, BODY)}"
    assert (await caller.post(BODY, Authorization=dashed)).status == 200


async def test_circe_signature_over_the_id_is_taken_for_all_that_is_told_of_a_job(caller: Caller):
    job_id = await caller.submit()
    for path in (f"/job/{job_id}", f"/job/{job_id}/status"):
        assert (await caller.get(path, Authorization=caller.circe(job_id))).status < 300


async def test_circe_signature_is_over_the_id_as_the_url_has_it(caller: Caller):
    job_id = await caller.submit()
    dashed = str(uuid.UUID(job_id))
    assert (await caller.get(f"/job/{dashed}", Authorization=caller.circe(dashed))).status == 202
    assert (await caller.get(f"/job/{dashed}", Authorization=caller.circe(job_id))).status == 403


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_wrong_signature_over_the_id_is_403(caller: Caller, method: str):
    job_id = await caller.submit()
    wrong = caller.circe(NO_JOB)
    answer = await caller.call(method, f"/job/{job_id}", headers={"Authorization": wrong})
    assert (answer.status, answer.headers["Content-Type"]) == (403, "text/plain; charset=utf-8")


async def test_wrong_signature_over_the_body_is_403_and_leaves_nothing(job_stand: JobStand, caller: Caller):
    before = await job_stand.objects()
    answer = await caller.post(BODY + b"!", Authorization=caller.circe(BODY))
    assert (answer.status, answer.headers["Content-Type"]) == (403, "text/plain; charset=utf-8")
    assert (await job_stand.rows(caller.client), await job_stand.objects()) == ([], before)


async def test_wrong_signature_over_a_body_is_403_with_block_and_strict_too(caller: Caller):
    for query in ("?block=1", "?strict=1"):
        assert (await caller.post(BODY, query, Authorization=caller.circe(b"another"))).status == 403


@pytest.mark.parametrize(
    "form",
    [
        "",
        "{id}",
        "{id} ",
        "{id}  {digest}",
        " {id} {digest} x",
        "{id}\t{digest}",
        "{id} {digest}0",
        "x{id} {digest}",
        "00000000000000000000000000000000 {digest}",
        "{id} 0000000000000000000000000000000000000000000000000000000000000000",
        "Bearer {digest}",
        "Basic {digest}",
    ],
)
async def test_whatever_is_wrong_with_the_credential_is_403(caller: Caller, form: str):
    credential = form.format(id=caller.client.id, digest=signed(caller.secret, BODY))
    assert (await caller.post(BODY, Authorization=credential)).status == 403


async def test_no_credential_is_403_on_every_route_of_a_job(job_stand: JobStand):
    for method, path in [
        ("POST", "/job/"),
        ("GET", f"/job/{NO_JOB}"),
        ("DELETE", f"/job/{NO_JOB}"),
        ("GET", f"/job/{NO_JOB}/status"),
        ("GET", f"/job/{NO_JOB}/events"),
    ]:
        async with job_stand.http.request(method, path) as answer:
            assert (answer.status, answer.content_type) == (403, "text/plain"), (method, path)


async def test_client_without_the_scope_is_403(job_stand: JobStand):
    caller = await job_stand.caller("core:metrics")
    for credential in (caller.circe(BODY), caller.secret, f"Bearer {caller.secret}"):
        assert (await caller.post(BODY, Authorization=credential)).status == 403


async def test_plain_secret_is_taken_too(caller: Caller):
    assert (await caller.post(BODY, Authorization=caller.secret)).status == 200


async def test_job_of_somebody_else_is_404(job_stand: JobStand, caller: Caller):
    job_id, other = await caller.submit(), await job_stand.caller()
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/status"), ("GET", "/events")]:
        answer = await other.call(method, f"/job/{job_id}{path}")
        assert (answer.status, answer.text) == (404, "Not Found"), (method, path)


async def test_revoked_client_is_403(job_stand: JobStand):
    caller = await job_stand.caller()
    await job_stand.gateway.core.clients.revoke(caller.client.name)
    assert (await caller.post(BODY, Authorization=caller.circe(BODY))).status == 403


async def test_catalogue_and_version_need_no_credential_even_a_wrong_one(job_stand: JobStand):
    for path in ("/transformations/", "/version/"):
        for headers in ({}, {"Authorization": f"{NO_JOB} {'0' * 64}"}):
            async with job_stand.http.get(path, headers=headers) as answer:
                assert answer.status == 200


@pytest.mark.parametrize("path", ["/job", "/transformations", "/version", f"/job/{NO_JOB}/"])
async def test_slashes_at_the_end_are_strict(caller: Caller, path: str):
    assert (await caller.get(path)).status == 404


async def test_signature_opens_the_routes_of_jobs_only(make_job_stand: MakeJobStand):
    async with make_job_stand(plugins="archive,transform") as stand:
        caller = await stand.caller()
        assert (await caller.get("/ticket/", Authorization=caller.circe("/ticket/"))).status == 401
        assert (await caller.get("/ticket/")).status == 200


async def test_signatures_work_under_a_prefix(make_job_stand: MakeJobStand):
    async with make_job_stand({"prefix": "/circe"}) as stand:
        caller = await stand.caller()
        answer = await caller.post(BODY, Authorization=caller.circe(BODY))
        assert answer.headers["Location"].endswith(f"/circe/job/{answer.text}")
        assert (await caller.get(f"/job/{answer.text}", Authorization=caller.circe(answer.text))).status == 202


async def test_without_auth_jobs_are_everybodys(make_job_stand: MakeJobStand):
    async with make_job_stand({"use_auth": False}) as stand:
        caller = await stand.caller()
        for headers in ({}, {"Authorization": f"{NO_JOB} {'0' * 64}"}, {"Authorization": caller.secret}):
            async with stand.http.post("/job/", data=BODY, headers=headers) as answer:
                assert answer.status == 200
                job_id = await answer.text()
            async with stand.http.get(f"/job/{job_id}") as answer:
                assert answer.status == 202
