"""A lock ends with its process, keeps two processes apart, and leaves nothing behind."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ttlightning import UserError
from ttlightning.commands.studies import _alone
from ttlightning.runs.run import Run
from ttlightning.system import lock as module


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
        assert [run.lock.acquire(wait=False), run.lock.acquire(wait=True)] == [True, True]
    assert len(said) == 1
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


def test_the_lock_of_a_killed_process_is_gone(run):
    code = (
        "import sys, time, pathlib; from ttlightning.runs.run import Run\n"
        "run = Run(pathlib.Path(sys.argv[1])); run.claim(); print(flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code, str(run.path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    process.stdout.readline()
    assert run.is_being_written()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert run.state == "begun"
    assert not run.is_being_written()
    assert [file.name for file in run.path.iterdir()] == ["config.yaml"]


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


@pytest.mark.filterwarnings("ignore:the file system of the runs has no locks")
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


def test_processes_exclude_each_other(tmp_path):
    """Each adds one to a number in a file, many times; none is lost."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    count = (
        "import sys, pathlib; from ttlightning.system.lock import Lock; folder = pathlib.Path(sys.argv[1])\n"
        "for _ in range(40):\n"
        "    lock = Lock(folder / 'lock'); lock.acquire(wait=True); file = folder / 'counter'\n"
        "    file.write_text(str(int(file.read_text()) + 1)); lock.release()"
    )
    processes = [subprocess.Popen([sys.executable, "-c", count, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0] * 3
    assert counter.read_text() == "120"
    assert not (tmp_path / "lock").exists()
