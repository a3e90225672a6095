"""A process that freezes is named by the others; one that is slow, done, or frozen together with all is not."""

import os
import signal
import subprocess
import threading
import time

import pytest
from conftest import assert_one_line

from ttlightning import UserError
from ttlightning.training.callbacks import heartbeats
from ttlightning.training.callbacks.heartbeats import Heartbeats, Watch

WORLD = 3
NAMES = [f"process {rank} of {WORLD} ({70 + rank} on here)" for rank in range(WORLD)]
PATIENCE = 0.6


class Store(dict):
    """As much of ``TCPStore`` as is needed; ``gone`` is process 0 that has died, ``hangs`` one that has frozen."""

    gone = False
    hangs = False

    def set(self, key: str, value: str) -> None:
        if self.gone:
            raise RuntimeError("no answer")
        self[key] = value.encode()

    def get(self, key: str) -> bytes:
        if not self.check([key]):
            raise RuntimeError("no answer in time")
        return self[key]

    def check(self, keys: list[str]) -> bool:
        if self.hangs:
            time.sleep(3 * PATIENCE)
        if self.gone:
            raise RuntimeError("no answer")
        return all(key in self for key in keys)

    def set_timeout(self, time) -> None:
        assert time.total_seconds() == pytest.approx(PATIENCE / heartbeats.BEATS)


class Silent(Watch):
    """A process that has frozen: it raises its number no more."""

    is_frozen = threading.Event()

    def _look(self):
        if not self.is_frozen.is_set():
            super()._look()

    def _judge(self):
        pass


@pytest.fixture
def said():
    Silent.is_frozen.clear()
    return []


def watch(store, said, rank, kind=Watch):
    return kind(store, rank, NAMES, PATIENCE, lambda line, speaks: said.append((rank, line, speaks)))


@pytest.mark.parametrize("frozen", [1, 2])
def test_a_frozen_process_is_named_by_one_of_the_others(said, frozen):
    store = Store()
    watches = [watch(store, said, rank, Silent if rank == frozen else Watch) for rank in range(WORLD)]
    time.sleep(2 * PATIENCE)
    assert said == []
    Silent.is_frozen.set()
    time.sleep(2.5 * PATIENCE)
    others = [rank for rank in range(WORLD) if rank != frozen]
    found = said
    assert sorted(rank for rank, *_ in found) == others
    assert [rank for rank, _, speaks in found if speaks] == [0]
    assert f"no sign of life from {NAMES[frozen]} for " in found[0][1]
    for each in watches:
        each.close(waits=False)


def test_a_process_that_froze_before_its_first_sign_is_named(said):
    watches = [watch(Store(), said, 0)]
    time.sleep(2.5 * PATIENCE)
    assert [line.partition(" for ")[0] for _, line, _ in said] == [f"no sign of life from {NAMES[1]}, {NAMES[2]}"]
    for each in watches:
        each.close(waits=False)


@pytest.mark.parametrize("how", ["gone", "hangs"])
def test_without_process_zero_the_next_one_speaks(said, how):
    store = Store()
    watches = [watch(store, said, rank) for rank in (1, 2)]
    store["0"] = b"1"
    time.sleep(PATIENCE / 2)
    setattr(store, how, True)
    time.sleep(2.5 * PATIENCE)
    lines = {rank: (line, speaks) for rank, line, speaks in said}
    assert NAMES[0] in lines[1][0]
    assert set(lines) == {1, 2}
    for each in watches:
        each.close(waits=False)


def test_who_is_done_is_missed_by_nobody(said):
    store = Store()
    watches = [watch(store, said, rank) for rank in range(WORLD)]
    time.sleep(PATIENCE / 2)
    watches.pop().close()
    time.sleep(2 * PATIENCE)
    assert said == []
    begun = time.monotonic()
    for each in reversed(watches):
        each.close()
    assert said == []
    assert time.monotonic() - begun < PATIENCE


def test_a_process_that_was_frozen_itself_blames_nobody(said, monkeypatch):
    """As when a whole job is suspended for an hour and goes on: the clock jumps for all."""
    store = Store()
    watches = [watch(store, said, rank) for rank in range(WORLD)]
    time.sleep(PATIENCE / 2)
    clock = time.monotonic

    class Later:
        sleep = time.sleep
        monotonic = staticmethod(lambda: clock() + 3600)

    monkeypatch.setattr(heartbeats, "time", Later)
    time.sleep(2 * PATIENCE)
    assert said == []
    for each in watches:
        each.close(waits=False)


def test_a_patience_too_short():
    for patience in (0.5, 0, -1, float("nan")):
        with pytest.raises(UserError, match=r"rank_timeout is .*, it must be at least 1 second, or null"):
            Heartbeats(patience)
    assert Heartbeats(None).patience is None


def test_the_option(command):
    refused = command("fit", "--config=debug.yaml", "--rank_timeout=0.1", code=2)
    assert_one_line(refused.stderr, "rank_timeout is 0.1, it must be at least 1 second, or null")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_rank_that_freezes_ends_the_run(command, rank):
    """Two real processes; the run goes on from its last checkpoint afterwards."""
    words = ("--config=debug.yaml", "--data.dataset=mnist", "--trainer.max_epochs=100000", "--trainer.accelerator=cpu",
             "--trainer.devices=2", "--trainer.strategy=ddp", "--rank_timeout=6")  # fmt: skip
    process = command.start("fit", *words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    checkpoint = command.folder / "runs/debug/0/checkpoints/last.ckpt"
    while not checkpoint.exists():
        assert process.poll() is None
        time.sleep(0.1)
    children = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "ttlightning"], capture_output=True, text=True)
    [child] = map(int, children.stdout.split())
    frozen, other = (process.pid, child) if rank == 0 else (child, process.pid)
    os.kill(frozen, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        while other_lives(other, process):
            assert time.monotonic() - begun < 60
            time.sleep(0.1)
    finally:
        os.kill(frozen, signal.SIGCONT)
        if other_lives(other, process):
            os.kill(other, signal.SIGKILL)
    errors = process.communicate(timeout=60)[1]
    assert f"no sign of life from process {rank} of 2 ({frozen} on " in errors
    assert "runs/debug/0 has its last checkpoint; it goes on with: " in errors
    assert "Traceback" not in errors
    if rank == 1:
        assert process.returncode == 143


def other_lives(number: int, process: subprocess.Popen) -> bool:
    if number == process.pid:
        return process.poll() is None
    try:
        with open(f"/proc/{number}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
