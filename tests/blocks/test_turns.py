"""Who comes next, and who hashes: turns, claims, the shelf."""

from __future__ import annotations

import subprocess
import sys

from gateway_blocks.files.identity import Identity
from gateway_blocks.sums import shelf
from gateway_blocks.sums.claims import Claims
from gateway_blocks.sums.record import Record
from gateway_blocks.sums.shelf import Shelf
from gateway_blocks.sums.store import Place
from gateway_blocks.sums.turns import Turns


def record(number: int, *, size: int = 1) -> Record:
    identity = Identity(1, number, size, number, number)
    return Record(Place("host", "/root", 4096).of((f"{number}",), identity), (f"{number}",), 4096)


def test_clients_take_turns_and_each_ones_files_keep_their_order():
    turns = Turns(total=10, per_client=5)
    for client, name in (("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")):
        assert turns.add(client, name)
    assert [turns.next() for _ in range(7)] == ["a1", "b1", "c1", "a2", "b2", "a3", None]


def test_the_queue_is_bounded_for_all_and_for_each():
    turns = Turns(total=3, per_client=2)
    assert [turns.add("a", "1"), turns.add("a", "2"), turns.add("a", "3")] == [True, True, False]
    assert [turns.add("b", "4"), turns.add("c", "5")] == [True, False]
    assert turns.next() == "1"
    assert turns.add("c", "5")


def test_an_id_stands_in_the_queue_once():
    turns = Turns(total=3, per_client=2)
    assert turns.add("a", "1")
    assert turns.add("b", "1")
    assert len(turns) == 1
    assert [turns.next(), turns.next()] == ["1", None]


def test_a_claim_holds_off_other_processes_and_ends_with_its_process(tmp_path):
    lock = tmp_path / "lock"
    code = (
        "import sys; from pathlib import Path; from gateway_blocks.sums.claims import Claims;"
        f"claims = Claims(Path({str(lock)!r}));"
        "print(claims.claim('a'), claims.claim('b'), flush=True); sys.stdin.read()"
    )
    mine = Claims(lock)
    assert mine.claim("b")
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "True False\n"
        assert not mine.claim("a")
        other.kill()
    assert mine.claim("a")
    mine.release("a")
    mine.close()


def test_the_shelf_lets_the_longest_unused_go_first(monkeypatch):
    monkeypatch.setattr(shelf, "_MAX_RECORDS", 3)
    kept = Shelf(lambda record: record.key.path == "0")
    records = [record(number) for number in range(5)]
    for found in records[:3]:
        kept.put(found)
    assert kept.get(records[1].key.id) is records[1]
    kept.put(records[3])
    assert [found.key.path for found in kept] == ["0", "1", "3"]
    kept.put(records[4])
    assert [found.key.path for found in kept] == ["0", "3", "4"]
    assert kept.peek(records[1].key.identity) is None
    assert kept.peek(records[4].key.identity) is records[4]


def test_the_shelf_goes_by_the_weight_of_its_records(monkeypatch):
    monkeypatch.setattr(shelf, "_MAX_WEIGHT", 1000)
    kept = Shelf(lambda _: False)
    for number in range(10):
        kept.put(record(number, size=400 * 4096))
    assert [found.key.path for found in kept] == ["8", "9"]


def test_two_records_of_one_id_do_not_remove_each_other():
    kept = Shelf(lambda _: False)
    first, second = record(1), record(1)
    kept.put(first)
    kept.put(second)
    kept.remove(first)
    assert kept.get(second.key.id) is second
