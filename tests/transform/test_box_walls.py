"""What hostile code in a box reaches: nothing but its own folders, at every level and for every user."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway_transform.box import landlock, seccomp
from tests.transform import boxes
from tests.transform.boxes import Box, Zygote

SECRET = "s3cr3t-of-the-gateway"
everywhere = boxes.held_by("namespaces", "landlock", "rlimits")
walled = boxes.held_by("namespaces", "landlock")
in_namespaces = boxes.held_by("namespaces")


@pytest.fixture(scope="module")
def held(request: pytest.FixtureRequest) -> Iterator[Zygote]:
    """A zygote of one user and level."""
    who, level = request.param
    with boxes.zygote(who, best=level) as zygote:
        assert zygote.first["level"] == level, zygote.first
        yield zygote


@pytest.fixture
def box(held: Zygote) -> Iterator[Box]:
    made = held.spawn()
    yield made
    held.kill(made)
    assert made.all_gone()


@pytest.fixture
def victim(held: Zygote) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the very user that boxes have; with a secret in its environment."""
    with subprocess.Popen(["/bin/sleep", "600"], env={"TOKEN": SECRET}, **boxes.identity("other")) as process:
        yield process
        process.kill()


@pytest.fixture
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Files that anyone may read, by their modes."""
    with boxes.open_folder() as folder:
        (folder / "gateway.env").write_text(SECRET)
        (folder / "data").mkdir()
        (folder / "data" / "jobs.db").write_text(SECRET)
        for path in folder.rglob("*"):
            path.chmod(0o755)
        yield [str(path) for path in (folder, *sorted(folder.rglob("*")))]


@everywhere
def test_box_has_no_privileges_and_no_descriptors(held: Zygote, box: Box) -> None:
    facts = box.call("facts")
    assert facts["uids"] == [boxes.NOBODY if os.geteuid() == 0 else os.geteuid()]
    assert facts["no_new_privileges"] == "1"
    assert facts["seccomp"] == ("2" if seccomp.is_known() else "0")
    assert facts["session"]
    assert facts["umask"] == 0o077
    assert facts["core"] == [0, 0]
    assert facts["files"] == [1024, 1024]
    error_output = os.readlink("/proc/self/fd/2").partition(":")[0]
    assert set(facts["open"]) <= {"/dev/null", "socket", error_output}


@everywhere
def test_box_has_no_capabilities(held: Zygote, box: Box) -> None:
    capabilities = box.call("facts")["capabilities"]
    if held.who == "other" and held.first["level"] != "namespaces":
        capabilities.pop("CapBnd")  # only who may set capabilities can; no exec gives any as no-new-privileges is set
    assert set(capabilities.values()) == {"0" * 16}


@everywhere
def test_box_writes_and_runs_programs_in_its_folders(held: Zygote, box: Box) -> None:
    assert box.call("work_is_writable") == "hello\n"
    assert (box.folder / "work" / "moved").stat().st_size == 5000
    assert (box.folder / "tmp" / "moved").stat().st_size == 5000


@walled
def test_secrets_cannot_be_read(box: Box, secrets: list[str]) -> None:
    folders = ["/etc/shadow", "/etc/ssh", "/home", "/var/log", "/run", "/sys", "/boot", "/etc/ssl/private"]
    house = [str(path) for path in (Path(__file__), boxes.PLUGIN.parents[1] / "pyproject.toml")]
    assert box.call("readable", [*secrets, *folders, *house]) == []


@walled
def test_links_lead_nowhere(box: Box, secrets: list[str]) -> None:
    assert box.call("follow_links", [*secrets, "/etc/shadow", "/proc/1/environ", "/proc/1/root/etc/shadow"]) == []


@walled
def test_links_of_the_worker_folder_lead_nowhere(held: Zygote, box: Box) -> None:
    outside = [str(held.folder), str(held.folder / "box1"), "/proc/1/cwd", "/proc/self/root/../home"]
    assert box.call("follow_links", outside) in ([], ["/proc/1/cwd"])


@walled
def test_no_process_gives_its_environment_away(box: Box, victim: subprocess.Popen) -> None:
    assert SECRET not in box.call("environments")


@walled
def test_nothing_outside_can_be_written(box: Box, secrets: list[str]) -> None:
    places = ["/", "/usr", "/usr/lib", "/etc", "/opt", "/var", "/root", "/dev", "/proc/sys/kernel", secrets[0]]
    tried = box.call("writes", [place for place in places if Path(place).exists()])
    assert set(tried.values()) <= {"EACCES", "EROFS", "EPERM", "ENOENT"}, tried


@walled
def test_no_file_of_the_system_can_be_opened_to_write(box: Box, secrets: list[str]) -> None:
    files = ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/usr/bin/env", "/etc/hosts", secrets[-1]]
    tried = box.call("overwrites", [*files, "/dev/kmsg", "/dev/mem", "/dev/fuse", "/dev/kvm"])
    assert set(tried.values()) <= {"EACCES", "EROFS", "EPERM", "ENOENT"}, tried


@walled
def test_code_of_transformations_cannot_be_changed(box: Box) -> None:
    tried = box.call("writes", [str(boxes.PLUGIN / "gateway_transform"), str(boxes.HERE)])
    assert set(tried.values()) <= {"EACCES", "EROFS", "ENOENT"}, tried


@pytest.fixture
def listeners() -> Iterator[dict[str, object]]:
    """Servers of all kinds beside the gateway."""
    with (
        socket.socket() as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as named,
        boxes.open_folder() as folder,
    ):
        name, path = f"gateway-test-{os.getpid()}", str(folder / "socket")
        for sock, address in ((tcp, ("127.0.0.1", 0)), (udp, ("127.0.0.1", 0)), (abstract, f"\0{name}"), (named, path)):
            sock.bind(address)
            if sock is not udp:
                sock.listen()
        os.chmod(path, 0o777)
        udp.setblocking(False)
        yield {"ports": (tcp.getsockname()[1], udp.getsockname()[1], name, path), "udp": udp}


@everywhere
def test_box_without_network_reaches_no_socket(box: Box, listeners: dict) -> None:
    tried = box.call("sockets", *listeners["ports"])
    assert tried.pop("pair") == "done"
    assert "done" not in tried.values(), tried
    with pytest.raises(BlockingIOError):
        listeners["udp"].recv(100)


@everywhere
def test_box_with_network_reaches_servers_but_no_abstract_socket(held: Zygote, listeners: dict) -> None:
    box = held.spawn(network=True)
    tried = box.call("sockets", *listeners["ports"])
    assert (tried["tcp"], tried["udp"]) == ("done", "done")
    assert listeners["udp"].recv(100) == b"out"
    scoped = held.first["level"] != "rlimits" and landlock.abi() >= 6
    assert tried["abstract"] == ("EPERM" if scoped else "done")
    held.kill(box)


@walled
def test_outsiders_cannot_be_signalled_traced_or_read(held: Zygote, box: Box, victim: subprocess.Popen) -> None:
    tried = box.call("signals", [victim.pid, held.process.pid, os.getpid()])
    assert "done" not in tried
    assert victim.poll() is None


@in_namespaces
def test_signal_to_all_finds_nobody_outside(box: Box, victim: subprocess.Popen) -> None:
    assert box.call("kill_everybody") == "ESRCH"
    assert victim.poll() is None


@everywhere
def test_calls_of_the_kernel_that_no_box_needs_are_refused(box: Box) -> None:
    refused = box.call("refused_calls")
    assert {refused.pop("clone3"), refused.pop("memfd")} == {"ENOSYS"}
    assert refused.pop("nice") in {"EACCES", "EPERM"}
    assert refused.pop("setuid") in {"EINVAL", "EPERM"}
    assert refused.pop("device") in {"EACCES", "EPERM"}
    assert set(refused.values()) == {"EPERM"}, refused


@in_namespaces
def test_root_of_a_box_holds_what_it_must(held: Zygote, box: Box) -> None:
    facts = box.call("facts")
    usual = {"bin", "box", "dev", "etc", "lib", "lib32", "lib64", "libx32", "opt", "proc", "sbin", "tmp", "usr", "var"}
    code = {path.split("/")[1] for path in (str(boxes.PLUGIN), os.sys.prefix, os.sys.base_prefix)}
    assert set(facts["root"]) - usual - {"work", "nix", "gnu"} <= code
    assert len(facts["processes"]) == 2


@everywhere
def test_taking_the_first_process_of_a_box_frees_nobody(held: Zygote) -> None:
    """Where it can be killed, the orphans die too; where it is the first of its namespace, it cannot be."""
    box = held.spawn()
    box.call("daemon")
    box.send("call", name="kill_init", arguments=[], wait=True)
    if held.first["level"] == "namespaces":
        assert box.receive()["value"].split()[1] in {"EACCES", "EPERM"}
        held.kill(box)
    else:
        assert os.WTERMSIG(held.exited(box)) == signal.SIGKILL
    assert box.all_gone()
