"""Warm boxes are there again whatever went wrong meanwhile."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway_transform.work.folders import passable_folder
from gateway_transform.work.pool import BoxPool, NoBox
from gateway_transform.work.zygote import Zygote, ZygotePlan
from tests.transform.conftest import MODULES


class Unreadable(Sequence[str]):
    """Modules that cannot be told the second time: a defect."""

    def __init__(self) -> None:
        self._asked = 0

    def __len__(self) -> int:
        return 0

    def __getitem__(self, at: Any) -> Any:
        raise IndexError(at)

    def __iter__(self) -> Iterator[str]:
        self._asked += 1
        if self._asked == 2:
            raise KeyError("a defect")
        return iter(())


@pytest.fixture
def folder() -> Iterator[Path]:
    with passable_folder(Path(tempfile.gettempdir())) as made:
        yield made


@pytest.fixture
async def pool(folder: Path) -> AsyncIterator[BoxPool]:  # which ends before its folder
    made = BoxPool(ZygotePlan(Unreadable(), {}, "off", (), ()), size=1)
    await made.start()
    yield made
    await made.stop()


async def test_a_defect_does_not_end_the_making_of_boxes(pool: BoxPool, folder: Path):
    pool.fill(folder)
    first = await pool.take()
    zygote = pool._zygote
    assert zygote is not None
    await zygote.stop()
    async with asyncio.timeout(20):
        second = await pool.take()
        while second.exited.done():
            pool.discard(second)
            second = await pool.take()
    for box in (first, second):
        pool.discard(box)


async def test_no_box_is_made_where_there_is_no_place_for_its_folder(pool: BoxPool, folder: Path):
    pool.fill(folder / "missing")
    with pytest.raises(NoBox):
        await pool.take(network=True)
    (folder / "missing").mkdir()
    (folder / "missing").chmod(0o711)
    pool.discard(await pool.take(network=True))


async def test_modules_may_print_much_while_they_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "loud_module.py").write_text(
        "import sys\nfor _ in range(4000):\n    print('x' * 99, file=sys.stderr)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{MODULES}:{tmp_path}")
    async with asyncio.timeout(30):
        zygote = await Zygote.start(ZygotePlan(("loud_module", "worker_module"), {}, "off", (), ()))
    await zygote.stop()
