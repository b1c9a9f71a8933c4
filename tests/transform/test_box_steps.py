from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gateway_transform.api import BadInput, BadOptions
from tests.transform.box_stand import archive, box, entry, run


def bad_input(working_dir, logger, options):
    raise BadInput("no: not a document")


def bad_options(working_dir, logger, options):
    raise BadOptions("width must be a number")


def error_of(tmp_path: Path, call, **limits) -> dict[str, str]:
    """The error of a job with this one step, which must leave a sound result."""
    done, stand = run(tmp_path, call, **limits)
    assert done["state"] == "failed"
    assert stand.status()["error"] == done["error"]
    assert stand.files()["a.txt"] == b"abc"
    assert done["error"]["step"] == call.__name__
    return done["error"]


def test_bad_input_and_bad_options_have_codes_of_their_own(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    assert error_of(tmp_path / "1", bad_input)["code"] == "bad_input"
    assert error_of(tmp_path / "2", bad_options) == {
        "code": "bad_options", "message": "width must be a number", "step": "bad_options",
    }  # fmt: skip


def test_segfault_is_a_crash(tmp_path):
    def segfault(working_dir, logger, options):
        ctypes.string_at(0)

    error = error_of(tmp_path, segfault)
    assert (error["code"], error["message"]) == ("crashed", "killed by SIGSEGV")


def test_process_that_ends_itself_has_not_succeeded(tmp_path):
    def leave(working_dir, logger, options):
        os._exit(0)

    assert error_of(tmp_path, leave)["code"] == "crashed"


def test_exit_with_a_status_is_a_failure_and_without_one_is_not(tmp_path):
    def fine(working_dir, logger, options):
        sys.exit()

    def wrong(working_dir, logger, options):
        sys.exit(3)

    done, _ = run(tmp_path, fine, wrong)
    assert [step["state"] for step in done["steps"]] == ["succeeded", "failed"]


def test_step_beyond_the_time_of_the_job_is_a_timeout(tmp_path):
    def sleep(working_dir, logger, options):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)

    error = error_of(tmp_path, sleep, seconds=0.3)
    assert (error["code"], error["message"]) == ("timeout", "the job ran longer than 0.3 s")


def test_step_beyond_its_own_time_is_a_timeout(tmp_path):
    def sleep(working_dir, logger, options):
        time.sleep(60)

    with box(tmp_path, entry(sleep, seconds=0.2)) as stand:
        error = stand.finish(archive({}, ["sleep"]))["error"]
        assert (error["code"], error["message"]) == ("timeout", "it ran longer than 0.2 s")


def test_memory_that_one_process_cannot_have_is_out_of_memory(tmp_path):
    def hoard(working_dir, logger, options):
        bytearray(2 << 30)

    assert error_of(tmp_path, hoard, memory_mb=256)["code"] == "out_of_memory"


def test_disk_of_all_files_together_is_limited(tmp_path):
    def fill(working_dir, logger, options):
        for at in range(1000):
            Path(working_dir, f"f{at}").write_bytes(bytes(1 << 20))
        time.sleep(60)

    error = error_of(tmp_path, fill, disk_mb=16)
    assert (error["code"], error["message"]) == ("failed", "disk limit: more than 16 MiB of files")


def test_one_file_beyond_the_limit_is_refused_by_the_kernel(tmp_path):
    def fill(working_dir, logger, options):
        Path(working_dir, "f").write_bytes(bytes(20 << 20))

    error = error_of(tmp_path, fill, disk_mb=8)
    assert "File too large" in error["message"] or "disk limit" in error["message"]


def test_number_of_files_is_limited(tmp_path):
    def litter(working_dir, logger, options):
        for at in range(2000):
            Path(working_dir, f"z{at}").touch()
        time.sleep(60)

    assert "disk limit" in error_of(tmp_path, litter, max_files=10)["message"]


def test_endless_output_is_read_and_thrown_away(tmp_path):
    def shout(working_dir, logger, options):
        for _ in range(200):
            print("x" * 100_000)
        raise ValueError("enough")

    done, stand = run(tmp_path, shout)
    assert done["error"]["message"] == "ValueError: enough"
    assert len(stand.lines()[-1]["output"]) == 64 << 10


def test_nothing_that_a_step_starts_outlives_it(tmp_path):
    def leave_behind(working_dir, logger, options):
        code = "import os, time; os.setsid(); open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
        subprocess.Popen([sys.executable, "-c", code], cwd=working_dir)
        while not Path(working_dir, "pid").exists() or not Path(working_dir, "pid").read_text():
            time.sleep(0.005)

    done, stand = run(tmp_path, leave_behind)
    assert done["state"] == "succeeded"
    assert not Path("/proc", stand.files()["pid"].decode()).exists()


def test_step_sees_its_folders_and_no_descriptor_of_the_box(tmp_path):
    def look(working_dir, logger, options):
        told = {"cwd": os.getcwd(), "home": os.environ["HOME"], "tmp": os.environ["TMPDIR"]}
        links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd") if int(fd) > 2]
        told["fds"] = [os.readlink(link) for link in links if os.path.lexists(link)]
        logger.info(told)

    _, stand = run(tmp_path, look)
    told = stand.lines()[-1]
    assert (told["cwd"], told["home"], told["tmp"]) == (str(stand.work), str(stand.tmp), str(stand.tmp))
    assert {fd.partition(":")[0] for fd in told["fds"]} == {str(stand.log), "pipe", "/dev/null"}
    assert sum(fd.startswith("pipe") for fd in told["fds"]) == 1


def test_forged_note_of_a_step_is_not_believed(tmp_path):
    def forge(working_dir, logger, options):
        for fd in range(3, 20):
            try:
                os.write(fd, b'{"code": "worker_lost", "message": 5}')
            except OSError:
                continue
        os._exit(0)

    done, _ = run(tmp_path, forge)
    assert done["error"]["code"] == "crashed"


def test_raw_writing_into_the_log_is_limited(tmp_path):
    def spam(working_dir, logger, options):
        with open(logger.handlers[0].fd, "wb", closefd=False) as log:
            log.write(bytes(3 << 20))
        time.sleep(60)

    done, stand = run(tmp_path, spam)
    assert "out.log" in done["error"]["message"]
    assert len(stand.files()["out.log"]) <= 2 << 20


def test_step_that_forks_and_returns_twice_ends_once(tmp_path):
    def fork(working_dir, logger, options):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)

    done, _ = run(tmp_path, fork)
    assert done["state"] == "succeeded"
