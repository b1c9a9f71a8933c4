"""Downloads that are cut at random bytes, by clients that people use, from servers that are killed in between."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.archive.resume_campaign import FORMATS, LAYOUTS, MIB, Client, Run, Stage, staged
from tests.archive.resume_clients import aria2c, chromium, curl, ranges, wget
from tests.archive.resume_proxy import How

ONE_BY_ONE = (curl, wget, chromium)
"""Clients that have one request at a time, whose cost can be told from the next one's."""
SIDE_BY_SIDE = (aria2c, ranges)
CLIENTS = (*ONE_BY_ONE, *SIDE_BY_SIDE)
CUTS = 200
CUTS_AT_ONCE = (3, 12, 25)
SIZE_BYTES = 12 * MIB


@contextmanager
def seeded(seed: int) -> Iterator[random.Random]:
    """Chance that a failure tells how to have it again."""
    try:
        yield random.Random(seed)
    except Exception as error:
        error.add_note(f"seed {seed}")
        raise


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Two nodes, the second with a data folder of its own."""
    folder = tmp_path_factory.mktemp("stage")
    async with staged(folder, random.Random(6), own_folder=[True], frugal=True) as found:
        yield found


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("client", "layout", "format_name"),
    [(curl, "mixed", "zip"), (wget, "sized", "tar"), (aria2c, "probed", "zip"), (ranges, "large", "zip")],
)
async def test_a_download_that_is_cut_ends_with_the_same_bytes(
    stage: Stage, client: Client, layout: str, format_name: str
):
    order = await stage.order(layout, 4 * MIB)
    cuts = [How.FIN, How.RST] * 3
    ran = await stage.download(client, order, format_name, cuts=cuts, one_by_one=client in ONE_BY_ONE)
    assert ran.cuts
    ran.check_costs()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("another", [True, False], ids=["another", "restarted"])
async def test_after_a_kill_a_server_goes_on(stage: Stage, another: bool):
    order = await stage.order("sized", SIZE_BYTES)
    ran = await stage.download(curl, order, "zip", cuts=[How.KILL], one_by_one=True, switching=another)
    assert ran.cuts == 1
    assert len({passed.node.port for passed in ran.passed}) == 1 + another
    ran.check_costs()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("client", "frugal"), [(client, False) for client in CLIENTS] + [(client, True) for client in SIDE_BY_SIDE]
)
async def test_two_hundred_cuts_cost_nothing_but_what_was_cut_off(tmp_path: Path, client: Client, frugal: bool):
    with seeded(random.SystemRandom().getrandbits(32)) as rng:
        async with staged(tmp_path, rng, own_folder=[False, True], frugal=frugal) as stage:
            made = 0
            for layout, format_name in itertools.cycle(itertools.product(LAYOUTS, FORMATS)):
                if made >= CUTS:
                    break
                ran = await cut_again_and_again(stage, client, layout, format_name)
                made += ran.cuts
                if frugal or client in ONE_BY_ONE:
                    ran.check_costs()
            assert sum(node.kills for node in stage.nodes) > 1


async def cut_again_and_again(stage: Stage, client: Client, layout: str, format_name: str) -> Run:
    """One download, of a ticket of its own."""
    order = await stage.order(layout, SIZE_BYTES * (2 if layout == "large" else 1))
    cuts = stage.rng.choices(list(How), [5, 5, 1], k=stage.rng.choice(CUTS_AT_ONCE))
    switching, alone = stage.rng.choice([0, 0.4]), client in ONE_BY_ONE
    return await stage.download(client, order, format_name, cuts=cuts, one_by_one=alone, switching=switching)
