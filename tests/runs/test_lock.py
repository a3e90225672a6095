"""A lock ends with its process, keeps two processes apart, and leaves nothing behind."""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ttlightning import UserError
from ttlightning.commands.studies import _alone
from ttlightning.runs.run import Run
from ttlightning.system import lock as module
from ttlightning.system.claim import Claim, identity


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path)
    run.config_file.write_text("{}")
    return run


@pytest.fixture
def without_locks(monkeypatch):
    """Yields a function that says which error number `flock` gives."""
    module._warn_without_locks.cache_clear()

    def give(number):
        def flock(*_):
            raise OSError(number, errno.errorcode[number])

        monkeypatch.setattr(fcntl, "flock", flock)

    yield give
    module._warn_without_locks.cache_clear()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_once(run, without_locks, number):
    without_locks(number)
    with pytest.warns(UserWarning, match="has no locks") as said:
        assert [run.lock.acquire(wait=False), run.lock.acquire(wait=True), Run(run.path).is_being_written()] == [
            True
        ] * 3
    assert len(said) == 1
    run.lock.release()
    assert not Run(run.path).is_being_written()
    assert [file.name for file in run.path.iterdir()] == ["config.yaml"]


def test_other_errors_of_a_lock_are_raised(run, without_locks):
    without_locks(errno.EIO)
    with pytest.raises(OSError, match="EIO"):
        run.claim()


def test_a_run_is_locked(run):
    """Also one whose config.yaml is read-only; and a lock leaves no file."""
    run.config_file.chmod(0o444)
    other = Run(run.path)
    run.claim()
    assert other.is_being_written()
    with pytest.raises(UserError, match="is being written by another process"):
        other.claim()
    run.lock.release()
    assert not other.is_being_written()
    assert [file.name for file in run.path.iterdir()] == ["config.yaml"]
    other.claim()
    assert run.is_being_written()
    other.lock.release()
    run.lock.release()  # nothing happens


WITHOUT_LOCKS = """
import errno, fcntl, warnings
def flock(*_):
    raise OSError(errno.ENOLCK, "no locks available")
fcntl.flock = flock
warnings.simplefilter("ignore")
"""
"""What a process begins with on a file system that answers ENOLCK."""


def holding(run, begin: str = "") -> subprocess.Popen:
    """A process that holds the run's lock."""
    code = begin + (
        "import sys, time, pathlib; from ttlightning.runs.run import Run\n"
        "run = Run(pathlib.Path(sys.argv[1])); run.claim(); print(flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


@pytest.mark.filterwarnings("ignore:the file system has no locks")
@pytest.mark.parametrize("locks", [True, False])
def test_the_lock_of_a_killed_process_is_gone(run, without_locks, locks):
    """Without locks, its claim is taken over, after it has been named while the process lived."""
    if not locks:
        without_locks(errno.ENOLCK)
    process = holding(run, "" if locks else WITHOUT_LOCKS)
    assert run.is_being_written()
    who = "another process" if locks else f"process {process.pid} on {socket.gethostname()}"
    left = run.path / (".lock" if locks else ".lock.claim")
    with pytest.raises(
        UserError, match=re.escape(f"written by {who}; wait for it, or stop it first; if it has ended, ")
    ):
        run.claim()
    assert left.exists()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert run.state == "begun"
    assert not run.is_being_written()
    assert [file.name for file in run.path.iterdir()] == ["config.yaml"]


OTHERS = {
    "another machine": ({"host": "elsewhere"}, False),
    "another container": ({"namespace": "pid:[1]"}, False),
    "before the machine started again": ({"boot": "0"}, True),
    "an earlier process of this number": ({"begun": "1"}, True),
    "this very process": ({}, False),
    "a process of an older version": ({"process": "x"}, False),
}


@pytest.mark.parametrize("whose", OTHERS)
def test_whose_claim_is_taken_over(run, whose):
    """Only one whose process is known to have ended; any other is left, and named with the way out."""
    changes, is_dead = OTHERS[whose]
    claim = Claim(run.path / ".lock")
    claim.folder.mkdir()
    (claim.folder / "owner.json").write_text(json.dumps(identity(os.getpid()) | {"token": "t"} | changes))
    assert claim.acquire() == is_dead
    assert claim.is_held == is_dead
    assert claim.owner().endswith(f"on {changes.get('host', socket.gethostname())}")
    claim.release()
    assert claim.folder.exists() != is_dead
    assert [file.name for file in run.path.iterdir() if "claim-" in file.name] == []


def test_a_claim_of_another_machine_is_refused_in_one_line(run, without_locks):
    without_locks(errno.ENOSYS)
    (run.path / ".lock.claim").mkdir()
    (run.path / ".lock.claim/owner.json").write_text(json.dumps({"host": "elsewhere", "process": 12}))
    with (
        pytest.warns(UserWarning, match="has no locks"),
        pytest.raises(UserError, match=r"process 12 on elsewhere; .*, remove .*\.lock\.claim$"),
    ):
        run.claim()
    shutil.rmtree(run.path / ".lock.claim")
    run.claim()
    run.lock.release()


def test_of_many_that_take_over_one_claim_one_gets_it(tmp_path):
    """Eight threads, many times; a claim of a dead process stands at each beginning."""
    dead = json.dumps(identity(os.getpid()) | {"begun": "1", "token": "t"})
    with ThreadPoolExecutor(8) as pool:
        for number in range(30):
            file = tmp_path / str(number)
            claims = [Claim(file) for _ in range(8)]
            claims[0].folder.mkdir()
            (claims[0].folder / "owner.json").write_text(dead)
            assert sum(pool.map(Claim.acquire, claims)) == 1
            for claim in claims:
                claim.release()
    assert list(tmp_path.iterdir()) == []


def test_a_new_run_has_only_what_a_killed_process_left(tmp_path):
    run = Run(tmp_path / "0")
    assert run.state == "new"
    run.path.mkdir()
    run.claim()
    assert run.state == "new"
    run.lock.release()
    (run.path / "config.yaml.partial").touch()
    assert run.state == "new"
    (run.path / "notes").touch()
    with pytest.raises(UserError, match="holds files but no run"):
        assert run.state
    with pytest.raises(UserError, match="is a file: name a folder"):
        assert Run(run.path / "notes").state


@pytest.mark.parametrize("errors", [[errno.ENOTEMPTY], [errno.EEXIST] * 3, [errno.ENOTEMPTY, errno.EEXIST]])
def test_a_claim_that_is_given_back_between_two_looks_is_taken(tmp_path, monkeypatch, errors):
    """The rename fails because of a claim that is gone when one looks again."""
    rename, left = Path.rename, list(errors)

    def gone(path, target):
        if left:
            raise OSError(left.pop(0), "there is one")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", gone)
    claim = Claim(tmp_path / "x")
    assert claim.acquire()
    assert not Claim(tmp_path / "x").acquire()
    claim.release()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_cannot_be_made_is_a_fault(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="no space"):
        Claim(tmp_path / "x").acquire()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:the file system has no locks")
@pytest.mark.parametrize("locks", [True, False])
def test_threads_of_a_study_exclude_each_other(tmp_path, without_locks, locks):
    if not locks:
        without_locks(errno.ENOTSUP)
    inside, most = [], []

    def work():
        with _alone(tmp_path / "x.lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert not (tmp_path / "x.lock").exists()


@pytest.mark.parametrize("begin", ["", WITHOUT_LOCKS], ids=["flock", "claim"])
def test_processes_exclude_each_other(tmp_path, begin):
    """Each adds one to a number in a file, many times; none is lost."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    count = begin + (
        "import sys, pathlib; from ttlightning.system import lock as module; folder = pathlib.Path(sys.argv[1])\n"
        "module.PATIENCE = 0.001\n"
        "for _ in range(20):\n"
        "    lock = module.Lock(folder / 'lock'); lock.acquire(wait=True); file = folder / 'counter'\n"
        "    file.write_text(str(int(file.read_text()) + 1)); lock.release()"
    )
    processes = [subprocess.Popen([sys.executable, "-c", count, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0] * 3
    assert counter.read_text() == "60"
    assert [file.name for file in tmp_path.iterdir()] == ["counter"]
