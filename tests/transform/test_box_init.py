from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import pytest

from gateway_transform.box import wire
from gateway_transform.jobs.model import ErrorCode
from tests.transform.box_stand import JOB_ID, Box, archive, box, entry, run
from tests.transform.hostile_tars import HOSTILE


def noop(working_dir, logger, options):
    pass


def upper(working_dir, logger, options):
    for path in Path(working_dir).glob("*.txt"):
        path.with_suffix(".up").write_text(path.read_text().upper())
    logger.info({"message": "done", "files": 1})


def number(working_dir, logger, options):
    path = Path(working_dir, "count")
    path.write_text(str(int(path.read_text() if path.exists() else "0") + options.get("by", 1)))


def boom(working_dir, logger, options):
    Path(working_dir, "partial").write_text("half")
    print("this was printed")
    raise ValueError("no good")


def test_files_go_through_all_steps_into_the_result(tmp_path):
    done, stand = run(tmp_path, upper, number, files={"a.txt": b"abc", "d/b": b"b"})
    files = stand.files()
    assert list(files) == ["job.json", "a.txt", "a.up", "count", "d/b", "out.log", "status.json"]
    assert (files["a.up"], files["count"], files["d/b"]) == (b"ABC", b"1", b"b")
    assert (done["state"], done["error"]) == ("succeeded", None)
    assert [(step["name"], step["state"]) for step in done["steps"]] == [
        ("upper", "succeeded"),
        ("number", "succeeded"),
    ]


def test_done_tells_size_and_digest_of_the_result(tmp_path):
    done, stand = run(tmp_path, noop)
    data = stand.result.read_bytes()
    assert (done["result_bytes"], done["result_sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_job_file_comes_back_byte_for_byte(tmp_path):
    def spoil(working_dir, logger, options):
        Path(working_dir, "job.json").write_text("spoiled")

    raw = b'{ "transformations": [ {"name":"spoil"} ],\n  "notify_hook": null }'
    with box(tmp_path, entry(spoil)) as stand:
        assert stand.finish(archive({"job.json": raw}))["state"] == "succeeded"
        assert stand.files()["job.json"] == raw


def test_own_names_of_the_upload_do_not_replace_the_boxs(tmp_path):
    _, stand = run(tmp_path, noop, files={"out.log": b"mine", "status.json": b"mine", "d/out.log": b"deep"})
    assert stand.lines()[0]["message"] == "Executing transformation noop"
    assert stand.status()["state"] == "succeeded"
    assert stand.files()["d/out.log"] == b"deep"


def test_log_has_circes_lines_and_those_of_the_step(tmp_path):
    _, stand = run(tmp_path, upper)
    begin, said = stand.lines()
    assert list(begin) == ["timestamp", "level", "name", "message", "time"]
    assert list(said.items())[1:] == [
        ("level", "INFO"), ("name", f"job_logger_{JOB_ID}"), ("message", "done"), ("files", 1),
    ]  # fmt: skip


def test_status_tells_inputs_outputs_and_times(tmp_path):
    done, stand = run(tmp_path, upper)
    status = stand.status()
    assert status["inputs"] == {"a.txt": {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}}
    assert status["outputs"]["a.up"] == {"bytes": 3, "sha256": hashlib.sha256(b"ABC").hexdigest()}
    assert (status["id"], status["attempt"], status["queued_ms"]) == (JOB_ID, 1, 7)
    assert (status["run_ms"], status["steps"]) == (done["run_ms"], done["steps"])
    assert status["sandbox"] == "rlimits"
    assert status["versions"]["python"] == sys.version.split()[0]


def test_unknown_transformation_is_a_warning_and_the_job_goes_on(tmp_path):
    done, stand = run(tmp_path, number, steps=["nothing", "number"])
    assert done["state"] == "succeeded"
    assert [step["state"] for step in done["steps"]] == ["unknown", "succeeded"]
    warning = stand.lines()[0]
    assert (warning["level"], warning["message"]) == ("WARNING", "No such transformation: nothing")


def test_job_without_steps_succeeds(tmp_path):
    with box(tmp_path) as stand:
        done = stand.finish(archive({"a": b"a"}, []))
        assert (done["state"], done["steps"]) == ("succeeded", [])


def test_failing_step_leaves_partial_files_and_says_why(tmp_path):
    done, stand = run(tmp_path, boom, noop)
    assert done["error"] == {"code": "failed", "message": "ValueError: no good", "step": "boom"}
    assert [step["state"] for step in done["steps"]] == ["failed", "skipped"]
    assert stand.files()["partial"] == b"half"
    line = stand.lines()[-1]
    assert (line["level"], line["code"], line["output"]) == ("ERROR", "failed", "this was printed\n")
    assert 'raise ValueError("no good")' in line["traceback"]
    assert "gateway_transform" not in line["traceback"]


def test_links_and_specials_are_left_out_with_a_warning(tmp_path):
    def link(working_dir, logger, options):
        Path(working_dir, "link").symlink_to("/etc/passwd")
        os.mkfifo(Path(working_dir, "fifo"))

    done, stand = run(tmp_path, link)
    assert done["state"] == "succeeded"
    assert set(stand.files()) == {"job.json", "a.txt", "out.log", "status.json"}
    line = stand.lines()[-1]
    assert (line["level"], line["files"]) == ("WARNING", ["fifo: a FIFO", "link: a symbolic link"])


@pytest.mark.parametrize("name", ["parent", "fifo", "cut gzip", "nothing", "no gzip", "too many files"])
def test_hostile_upload_is_bad_input_with_an_archive(name, tmp_path):
    data, reason = HOSTILE[name]
    with box(tmp_path, entry(noop)) as stand:
        stand.order(data)
        done = stand.receive()
        assert done["type"] == "done"
        assert done["error"]["code"] == "bad_input"
        assert done["error"]["message"].startswith(reason + ": ")
        assert list(stand.files()) == ["out.log", "status.json"]
        assert stand.exit_status() == 0


@pytest.mark.parametrize(
    ("job", "reason"), [(b"{", "bad_job_json"), (b"{}", "bad_job_json"), (None, "no_job_json")]
)  # fmt: skip
def test_bad_or_missing_job_file_is_bad_input(job, reason, tmp_path):
    with box(tmp_path) as stand:
        stand.order(archive({"a": b"a"} | ({} if job is None else {"job.json": job})))
        done = stand.receive()
        assert (done["error"]["code"], done["error"]["message"].split(":")[0]) == ("bad_input", reason)
        assert stand.files().get("job.json") == job


def test_unpacked_tells_what_the_worker_decides_by(tmp_path):
    one = entry(noop, deterministic=True, version="3", preload=("wave",))
    two = entry(upper, network=True, preload=("csv", "wave"))
    with box(tmp_path, one, two) as stand:
        upload = archive({"a.txt": b"abc"}, ["noop", "x", "upper"], notify_hook="http://h/", notify_format="standard")
        stand.order(upload)
        told = stand.receive()
    assert told.pop("bytes") > 3
    assert told == {
        "type": "unpacked",
        "names": ["noop", "x", "upper"],
        "hook": "http://h/",
        "hook_form": "standard",
        "network": True,
        "deterministic": False,
        "cache_key": "",
        "files": 2,
        "preload": ["csv", "wave"],
    }


def key_of(tmp_path: Path, name: str, files: dict[str, bytes], steps: list, **said) -> str:
    (tmp_path / name).mkdir()
    with box(tmp_path / name, entry(noop, deterministic=True, **said)) as stand:
        stand.order(archive(files, steps, other=name))
        return stand.receive()["cache_key"]


def test_cache_key_is_of_files_and_steps(tmp_path):
    base = key_of(tmp_path, "base", {"a": b"1", "b": b"2"}, ["noop"])
    assert len(base) == 64
    assert key_of(tmp_path, "order", {"b": b"2", "a": b"1"}, [{"name": "noop", "options": None}]) == base
    others = [
        key_of(tmp_path, "file", {"a": b"1", "b": b"3"}, ["noop"]),
        key_of(tmp_path, "name", {"a": b"1", "c": b"2"}, ["noop"]),
        key_of(tmp_path, "options", {"a": b"1", "b": b"2"}, [{"name": "noop", "options": {"x": 1}}]),
        key_of(tmp_path, "version", {"a": b"1", "b": b"2"}, ["noop"], version="2"),
        key_of(tmp_path, "twice", {"a": b"1", "b": b"2"}, ["noop", "noop"]),
    ]
    assert len({base, *others}) == 6


def test_warnings_of_the_worker_stand_in_the_log(tmp_path):
    with box(tmp_path, entry(noop)) as stand:
        stand.order(archive({}, ["noop"]))
        stand.receive()
        stand.send({"type": "go", "warnings": ["100 % of it"], "restore": False})
        while stand.receive()["type"] != "done":
            pass
        assert (stand.lines()[0]["level"], stand.lines()[0]["message"]) == ("WARNING", "100 % of it")


def test_stop_ends_the_box_without_a_word(tmp_path):
    with box(tmp_path, entry(noop)) as stand:
        stand.order(archive({}, ["noop"]))
        stand.receive()
        stand.send({"type": "stop"})
        assert wire.receive(stand.sock) is None
        assert stand.exit_status() == 0


def restored(stand: Box, cached: bytes) -> dict:
    stand.order(archive({"a.txt": b"abc", "gone.txt": b""}, ["number"]))
    stand.receive()
    path = stand.upload.with_name("cached")
    path.write_bytes(cached)
    stand.send({"type": "go", "warnings": [], "restore": True}, [os.open(path, os.O_RDONLY)])
    while (message := stand.receive())["type"] != "done":
        pass
    return message


def test_stored_result_takes_the_place_of_the_steps(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    done, first = run(tmp_path / "first", number, files={"a.txt": b"abc", "gone.txt": b""})
    with box(tmp_path / "second", entry(number)) as stand:
        again = restored(stand, first.result.read_bytes())
        assert again["state"] == "succeeded"
        assert again["steps"] == [{**done["steps"][0], "cached": True}]
        own = {"job.json", "out.log", "status.json"}
        assert {k: v for k, v in stand.files().items() if k not in own} == {
            k: v for k, v in first.files().items() if k not in own
        }
        assert [line["message"] for line in stand.lines()] == ["Taken from an equal job's result"]


def test_damaged_stored_result_means_that_the_steps_are_run(tmp_path):
    with box(tmp_path, entry(number)) as stand:
        done = restored(stand, HOSTILE["cut gzip"][0])
        assert (done["state"], "cached" in done["steps"][0]) == ("succeeded", False)
        assert set(stand.files()) == {"job.json", "a.txt", "gone.txt", "count", "out.log", "status.json"}


def test_cancel_during_a_step_ends_it_and_packs(tmp_path):
    def sleep(working_dir, logger, options):
        Path(working_dir, "partial").write_text("half")
        time.sleep(60)

    with box(tmp_path, entry(sleep), entry(noop)) as stand:
        stand.order(archive({}, ["sleep", "noop"]))
        stand.receive()
        stand.send({"type": "go"})
        assert stand.receive() == {"type": "step", "index": 0, "name": "sleep"}
        while not (stand.work / "partial").exists():
            time.sleep(0.005)
        stand.send({"type": "cancel"})
        done = stand.receive()
        assert (done["state"], done["error"]["code"]) == ("cancelled", "cancelled")
        assert [step["state"] for step in done["steps"]] == ["cancelled", "skipped"]
        assert "partial" in stand.files()


def test_cancel_before_the_steps_runs_none(tmp_path):
    with box(tmp_path, entry(number)) as stand:
        stand.order(archive({"a": b"a"}, ["number"]))
        stand.receive()
        stand.send({"type": "cancel"})
        done = stand.receive()
        assert (done["state"], done["steps"][0]["state"]) == ("cancelled", "skipped")
        assert "count" not in stand.files()


def test_box_ends_with_its_worker(tmp_path):
    def sleep(working_dir, logger, options):
        Path(working_dir, "pid").write_text(str(os.getpid()))
        time.sleep(60)

    with box(tmp_path, entry(sleep)) as stand:
        stand.order(archive({}, ["sleep"]))
        stand.receive()
        stand.send({"type": "go"})
        while not (stand.work / "pid").exists() or not (stand.work / "pid").read_text():
            time.sleep(0.005)
        stand.sock.close()
        assert stand.exit_status() == 1
        assert not Path("/proc", (stand.work / "pid").read_text()).exists()


def test_box_that_gets_no_job_ends_with_its_worker(tmp_path):
    with box(tmp_path) as stand:
        stand.sock.close()
        assert stand.exit_status() == 0


def test_result_that_cannot_be_written_gives_a_small_one(tmp_path):
    def fill(working_dir, logger, options):
        for at in range(8):
            Path(working_dir, f"f{at}").write_bytes(os.urandom(200_000))

    with box(tmp_path, entry(fill), file_bytes=1 << 20) as stand:
        done = stand.finish(archive({}, ["fill"]))
        assert done["error"] == {
            "code": "failed", "message": "the result cannot be written: File too large", "step": None,
        }  # fmt: skip
        assert set(stand.files()) == {"job.json", "out.log", "status.json"}
        assert done["result_bytes"] == stand.result.stat().st_size
        assert stand.status()["error"] == done["error"]


def test_upload_is_read_from_its_start_whatever_its_offset(tmp_path):
    with box(tmp_path, entry(noop)) as stand:
        stand.order(archive({"a": b"a"}, ["noop"]), offset=5)
        assert stand.receive()["type"] == "unpacked"


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_of_the_box_does_not_grow_with_the_upload(tmp_path):
    def make(working_dir, logger, options):
        Path(working_dir, "made").write_bytes(os.urandom(8 << 20))

    with box(tmp_path, entry(make)) as stand:
        before = resident_bytes(stand.pid)
        stand.order(archive({"big": os.urandom(1 << 20) * 16}, ["make"]))
        stand.receive()
        stand.send({"type": "go"})
        stand.receive()
        after = resident_bytes(stand.pid)
        assert stand.receive()["state"] == "succeeded"
        assert after - before < 8 << 20


def test_scan_finds_nothing_wrong_with_a_good_upload(tmp_path):
    with box(tmp_path, entry(noop)) as stand:
        stand.order(archive({"a": b"a"}, ["noop"]), kind="scan")
        assert stand.receive() == {"type": "scanned", "error": None, "fields": {}}
        assert list(stand.work.iterdir()) == []
        assert stand.exit_status() == 0


def scan(tmp_path: Path, upload: bytes, *entries) -> dict:
    with box(tmp_path, *entries) as stand:
        stand.order(upload, kind="scan")
        return stand.receive()


def test_scan_names_hostile_uploads(tmp_path):
    assert scan(tmp_path, HOSTILE["fifo"][0])["error"]["message"].startswith("fifo: ")


def test_scan_names_the_field_of_a_bad_job_file(tmp_path):
    told = scan(tmp_path, archive({}, [{"name": "noop", "options": 5}]), entry(noop))
    assert told["error"]["code"] == "bad_input"
    assert told["fields"] == {"transformations.0.options": ["must be an object or null"]}


def test_scan_names_unknown_transformations_and_wrong_options(tmp_path):
    description = {"options": [{"id": "size", "values": {"a4": "A4"}, "free_input": False}]}
    told = scan(
        tmp_path,
        archive({}, ["nothing", {"name": "noop", "options": {"size": "a5", "x": 1}}]),
        entry(noop, description=description),
    )
    assert told["error"]["code"] == "unknown_transformation"
    assert told["fields"] == {
        "transformations.0.name": ["No such transformation: nothing"],
        "transformations.1.options.size": ["Must be one of: a4"],
        "transformations.1.options.x": ["No such option; there are: size"],
    }


def test_scan_without_job_file_is_bad_input(tmp_path):
    assert scan(tmp_path, archive({"a": b""}))["error"]["message"].startswith("no_job_json: ")


def test_error_codes_are_those_of_the_model():
    from gateway_transform.box import codes
    from gateway_transform.jobs.model import JobState

    assert {str(code) for code in ErrorCode} == codes.ERROR_CODES
    assert {codes.SUCCEEDED, codes.FAILED, codes.CANCELLED} <= {str(state) for state in JobState}


def test_lines_of_the_log_are_json_for_odd_names(tmp_path):
    done, stand = run(tmp_path, noop, steps=["caf\u00e9 \U0001f600"])
    assert json.loads(stand.files()["out.log"].splitlines()[0])["message"].endswith("caf\u00e9 \U0001f600")
    assert done["steps"][0]["name"] == "caf\u00e9 \U0001f600"
