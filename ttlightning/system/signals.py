"""What SIGINT (Ctrl-C), SIGTERM and SIGUSR1 do to a command, from its first import to its last line.

A signal ends what can be begun again: it raises ``Stopped`` wherever the program is. In training, and where something
is being written, it is held: remembered, until whoever is at work has come to a whole step and asks. A second one, a
second or more after the first, ends the process where it stands. SIGUSR1, which clusters send before a job's time is
over, does what SIGTERM does.

Standard library only: this is there before what takes seconds to import.
"""

import atexit
import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from ttlightning.errors import Stopped, exit_code
from ttlightning.system.processes import is_first_process

SIGNALS: Final = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGUSR1")
    if hasattr(signal, name)  # Windows has no SIGUSR1
)

SAME_WISH: Final = 1.0
"""Seconds within which signals are one wish: a launcher passes on what its whole process group has been sent."""

NOT_REACHED: Final = 5.0
"""Seconds that a signal waits for a library that does not come back to Python, where nothing is being written."""

PARENT: Final = "TTLIGHTNING_PARENT"
"""Environment variable by which a process tells those that it starts to stop when it dies."""


class _Listener:
    """The signals that this process has been sent, and how it takes them."""

    def __init__(self, importing: bool) -> None:
        self.importing = importing
        self.asked: signal.Signals | None = None
        self.held: list[str] = []
        self.last_words: Callable[[], str] = str
        self._seen = False
        reader, self._writer = socket.socketpair()  # select takes no pipes on Windows
        self._writer.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, self.take) for number in SIGNALS}
        threading.Thread(target=self._watch, args=(reader,), name="signals", daemon=True).start()

    def close(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._writer.close()

    def take(self, number: int, frame: Any) -> None:
        """The handler: Python calls it between two of its own instructions, in the main thread."""
        self._seen = True
        if self.asked is not None:  # the same wish, or one that the watching thread deals with
            return
        self.asked = signal.Signals(number)
        if self.importing:  # a library may catch what is raised while it is imported, and there is nothing to undo
            end_at_once(f"stopped by {self.asked.name} before anything began", self.asked)
        if not self.held:
            raise Stopped(self.asked)
        say(f"{self.asked.name}: stopping {self.held[-1]}; once more stops at once")

    def _watch(self, reader: socket.socket) -> None:
        """Sees signals also while the main thread is inside a library's call, where no handler runs."""
        first: tuple[signal.Signals, float] | None = None
        while True:
            patience = NOT_REACHED if first and not self._seen else None
            if not select.select([reader], [], [], patience)[0]:
                if first and not self._seen and not self.held:
                    end_at_once(f"stopped by {first[0].name}", first[0])
                continue
            numbers = reader.recv(64)
            if not numbers:  # closed
                reader.close()
                return
            for number in numbers:
                if number not in SIGNALS or signal.getsignal(number) != self.take:
                    continue  # whoever has put a handler of his own there deals with it
                wish, now = signal.Signals(number), time.monotonic()
                if first is None:
                    first = wish, now
                elif now - first[1] >= SAME_WISH:
                    words = self.last_words()
                    end_at_once(f"stopped at once by another {wish.name}" + (words and f"; {words}"), wish)


_listener: _Listener | None = None


def _forked() -> None:
    if _listener is not None:
        signal.set_wakeup_fd(-1)  # the signals of this process are not the other one's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def listen(importing: bool = False) -> bool:
    """Take signals from now on; False where that is done already, or this is not the main thread."""
    global _listener, _parent
    if _listener is not None or threading.current_thread() is not threading.main_thread():
        return False
    _listener = _Listener(importing)
    _parent = _parent or _Parent()
    if importing:
        atexit.register(_let_it_end)
    return True


def _let_it_end() -> None:
    """The last that this process does: Python takes its handlers away as it ends, and the exit code is settled."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def close() -> None:
    """Leave signals to whoever took them before ``listen``."""
    global _listener
    if _listener is not None:
        _listener.close()
        _listener = None


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Inside, signals are taken, and processes that Lightning starts stop when this one dies."""
    mine = listen()
    if _listener is not None:
        _listener.importing = False
    before = os.environ.get(PARENT)
    os.environ |= followed()
    try:
        yield
    finally:
        os.environ.pop(PARENT, None)
        if before is not None:
            os.environ[PARENT] = before
        if mine:
            close()
        else:  # the process ends: what its libraries do then is not disturbed
            hold("when it has ended")


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Inside, a signal ends the process at once: a library may catch what is raised while it is imported."""
    if _listener is None:
        yield
        return
    before, _listener.importing = _listener.importing, True
    try:
        yield
    finally:
        _listener.importing = before


def hold(until: str) -> None:
    """From now on a signal is remembered; ``until`` says in a word or two when it will have its way."""
    if _listener is not None:
        _listener.held.append(until)


def release() -> None:
    """End the innermost ``hold``."""
    if _listener is not None:
        _listener.held.pop()


@contextlib.contextmanager
def held(until: str) -> Iterator[None]:
    """Inside, a signal is remembered; at the end it has its way."""
    hold(until)
    try:
        yield
    finally:
        release()
    check()


def asked() -> signal.Signals | None:
    """The signal that this process has been sent."""
    return None if _listener is None else _listener.asked


def check() -> None:
    """Raise ``Stopped`` where a signal is remembered."""
    if (number := asked()) is not None:
        raise Stopped(number)


def raise_if_stopped(fault: Exception) -> None:
    """Raise ``Stopped`` where a fault came after a signal that this process, or rank 0 that started it, was sent."""
    number = asked() or (signal.SIGTERM if rank_zero_is_gone() else None)
    if number is not None:
        stop = Stopped(number, f"({type(fault).__name__}: {fault})")
        stop.__notes__ = getattr(fault, "__notes__", [])
        raise stop from fault


def say_at_last(words: Callable[[], str]) -> None:
    """What is to be said where a second signal ends the process."""
    if _listener is not None:
        _listener.last_words = words


@contextlib.contextmanager
def given_to(action: Callable[[int], None]) -> Iterator[None]:
    """Inside, signals go to ``action``, which passes them on to other processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, lambda number, _: action(number)) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def followed() -> dict[str, str]:
    """For the environment of a process that is to stop when this one dies."""
    return {PARENT: str(os.getpid())}


def say(line: str) -> None:
    """A line on stderr, of one process for all; also where Python's own stream is in use."""
    if is_first_process():
        with contextlib.suppress(OSError):
            os.write(2, f"ttlightning: {line}\n".encode())


def end_at_once(line: str, number: signal.Signals) -> None:
    """End the process without undoing anything: what it wrote is whole, as after SIGKILL."""
    say(line)
    os._exit(exit_code(number))


class _Parent:
    """The process that has started this one, where this one is to stop when it dies.

    That is torchrun's agent, and a process of ours: a rerun, a study, or rank 0 that has Lightning start the others.
    """

    def __init__(self) -> None:
        self.number = os.getppid()
        self.by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        self.is_ours = os.environ.get(PARENT) == str(self.number) and not self.by_torchrun
        self.is_rank_zero = self.is_ours and os.environ.get("LOCAL_RANK", "0") != "0"
        if self.is_ours or self.by_torchrun:
            threading.Thread(target=self._follow, name="parent", daemon=True).start()

    def is_gone(self) -> bool:
        return os.getppid() != self.number

    def _follow(self) -> None:
        while not self.is_gone():
            time.sleep(0.5)
        if not self.is_rank_zero:
            say(f"the process that started this one ({self.number}) is gone")
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(NOT_REACHED)  # it may have ended as it should, and so will this one
        os._exit(exit_code(signal.SIGTERM))  # without rank 0 there is nobody to write a checkpoint


_parent: _Parent | None = None


def is_launched_rank() -> bool:
    """Whether this is a rank other than 0 that Lightning has started from rank 0."""
    return _parent is not None and _parent.is_rank_zero


def rank_zero_is_gone() -> bool:
    """Whether rank 0, which has started this process, has died: seen a moment after its connections are."""
    if not is_launched_rank():
        return False
    deadline = time.monotonic() + 1
    while not _parent.is_gone() and time.monotonic() < deadline:
        time.sleep(0.05)
    return _parent.is_gone()
