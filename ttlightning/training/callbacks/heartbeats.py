"""Processes of one run that watch each other: one that freezes ends the run, and is named.

A process that dies closes its connections, and the others notice. One that freezes (SIGSTOP, a machine that has lost
its network) keeps them open, and the others would wait for its gradients for half an hour. So a thread of each process
raises a number of its own in a store of process 0, and reads the numbers of the others. Whoever does not raise its
number for ``patience`` seconds is frozen; a process that only computes or reads for long is not, since its thread goes
on. A call of a library that holds Python's interpreter for longer counts as frozen.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ttlightning.errors import UserError, exit_code
from ttlightning.training.callbacks.run_directory import RunDirectory

BEATS: Final = 6
"""Beats of a process within the patience of the others."""

DONE: Final = "done"


class Heartbeats(Callback):
    """End this process when another one of the run has frozen; nothing happens in a run of one process.

    Args:
        patience: seconds without a sign of life; None: nobody watches.

    Raises:
        UserError: a patience below one second.
    """

    looks_at_steps = False

    def __init__(self, patience: float | None = 60.0) -> None:
        if patience is not None and not patience >= 1:
            raise UserError(f"rank_timeout is {patience}, it must be at least 1 second, or null")
        self.patience = patience
        self._watch: Watch | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if self.patience is None or self._watch is not None or not distributed or trainer.world_size == 1:
            return
        address = trainer.strategy.cluster_environment.main_address
        store, port = None, 0
        if trainer.is_global_zero:
            store = torch.distributed.TCPStore(address, 0, is_master=True, wait_for_workers=False)
            port = store.port
        port = trainer.strategy.broadcast(port)
        store = store or torch.distributed.TCPStore(address, port, is_master=False)
        rank, world = trainer.global_rank, trainer.world_size
        names = [""] * world  # now: a process may freeze before the others have heard of it
        torch.distributed.all_gather_object(
            names, f"process {rank} of {world} ({os.getpid()} on {socket.gethostname()})"
        )
        self._trainer = trainer
        self._watch = Watch(store, rank, names, self.patience, self._stop)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end(waits=False)

    def _end(self, waits: bool = True) -> None:
        if self._watch is not None:
            self._watch.close(waits)
            self._watch = None

    def _stop(self, line: str, speaks: bool) -> None:
        """End without clean-up, since the main thread waits for the frozen process; files on the disk are complete."""
        if speaks:
            made = next((c for c in self._trainer.callbacks if isinstance(c, RunDirectory) and c.run is not None), None)
            way_on = f"; {made.how_it_goes_on()}" if made else ""
            with contextlib.suppress(OSError):
                os.write(2, f"ttlightning: {line}{way_on}\n".encode())
        os._exit(exit_code(signal.SIGTERM))


class Watch:
    """A thread that shows the others that this process lives, and finds out which of them do not.

    Args:
        store: with ``set``, ``get``, ``check`` and ``set_timeout``, shared by all processes.
        rank: number of this process.
        names: of all processes, for the line.
        patience: seconds without a sign of life.
        frozen: called in the thread with a line about those that froze, and whether this process is to say it.
    """

    def __init__(
        self, store: Any, rank: int, names: list[str], patience: float, frozen: Callable[[str, bool], None]
    ) -> None:
        self.store, self.rank, self.names, self.patience, self.frozen = store, rank, names, patience, frozen
        self._every = patience / BEATS
        self._over = threading.Event()
        self._waits = True
        self._number = 0
        now = time.monotonic()
        self._seen: dict[int, tuple[str, float]] = {other: ("", now) for other in range(len(names)) if other != rank}
        """number and time of the last sign of life of each process that is not done"""
        self._answered = now
        """time of the last answer of the store"""
        store.set_timeout(timedelta(seconds=self._every))
        # Two threads: an operation on the store of a frozen process 0 does not return.
        self._threads = [
            threading.Thread(target=run, name="heartbeats", daemon=True) for run in (self._beat, self._judge)
        ]
        for thread in self._threads:
            thread.start()

    def close(self, waits: bool = True) -> None:
        """Tell the others that this process has done its part; process 0, which has the store, waits for theirs."""
        self._waits = waits
        self._over.set()
        for thread in self._threads:
            thread.join(3 * self._every)

    def _judge(self) -> None:
        """Look at the times of the last signs of life."""
        now = time.monotonic()
        while not self._over.wait(self._every):
            before, now = now, time.monotonic()
            if now - before > 2 * self.patience / 3:  # this process was frozen itself, perhaps with all others
                self._answered = now
                self._seen = {other: (number, now) for other, (number, _) in self._seen.items()}
            if now - self._answered > self.patience and self.rank != 0:
                late = [0]
            else:
                silence = now - self._answered  # of the store: nobody can show anything meanwhile
                late = [o for o, (_, last) in self._seen.items() if now - last - silence > self.patience]
            if late and not self._over.is_set():
                self.frozen(self._line(late), self.rank == min(set(range(len(self.names))) - set(late)))
                return

    def _beat(self) -> None:
        self._look()
        while not self._over.wait(self._every):
            self._look()
        deadline = time.monotonic() + (min(2.0, self.patience) if self.rank == 0 and self._waits else 0)
        with contextlib.suppress(RuntimeError):  # process 0 may be gone
            self.store.set(f"{self.rank}", DONE)
            while self._seen and time.monotonic() < deadline:
                self._look()
                time.sleep(0.01)

    def _look(self) -> None:
        """Raise the own number and read those of the others; without process 0 none can be read.

        A process that has shown no number yet may have frozen before its first one: the store answers nevertheless.
        """
        self._number += 1
        try:
            if not self._over.is_set():
                self.store.set(f"{self.rank}", f"{self._number}")
            for other in list(self._seen):
                is_there = self.store.check([f"{other}"])
                self._answered = time.monotonic()
                if not is_there:
                    continue
                number = self.store.get(f"{other}").decode()
                if number == DONE:
                    self._seen = {o: sign for o, sign in self._seen.items() if o != other}
                elif number != self._seen[other][0]:
                    self._seen = self._seen | {other: (number, time.monotonic())}
        except RuntimeError:  # of torch.distributed: no connection, or no answer in time
            return

    def _line(self, late: list[int]) -> str:
        names = ", ".join(self.names[other] for other in late)
        return f"no sign of life from {names} for {self.patience:g} s: it is frozen, or cannot be reached"
