"""What SIGINT (Ctrl-C), SIGTERM and SIGUSR1 do to a command, from its first import to its last line.

A signal raises ``Stopped`` at the current instruction. In training and while a file is written it is held: the process
remembers it until the current step or file is complete. A second signal, a second or more after the first, ends the
process at once. SIGUSR1, which clusters send before a job's time is over, has the effect of SIGTERM.

The module imports the standard library only, so signals are handled before slow imports begin.
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
"""Seconds within which signals count as one: a launcher passes on a signal that its process group got as well."""

NOT_REACHED: Final = 5.0
"""Seconds that a signal waits for a library call to return to Python, if no file is being written."""

PARENT: Final = "TTLIGHTNING_PARENT"
"""Environment variable that tells a child process the id of its parent: the child stops when the parent dies."""


class _Listener:
    """The signals that this process has received, and its handler."""

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
        _restore(self._handlers)
        signal.set_wakeup_fd(self._wakeup)
        self._writer.close()

    def take(self, number: int, frame: Any) -> None:
        """The handler, which Python calls in the main thread between two instructions."""
        self._seen = True
        if self.asked is not None:
            return  # a repetition, or a second signal, which the watching thread handles
        self.asked = signal.Signals(number)
        if self.importing:  # a library may catch an exception during its import; there is nothing to undo
            end_at_once(f"stopped by {self.asked.name} before anything began", self.asked)
        if not self.held:
            raise Stopped(self.asked)
        say(f"{self.asked.name}: stopping {self.held[-1]}; once more stops at once")

    def _watch(self, reader: socket.socket) -> None:
        """Watch for signals in a thread, because no handler runs while the main thread is inside a library call."""
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
                    continue  # another handler was installed and handles it
                wish, now = signal.Signals(number), time.monotonic()
                if first is None:
                    first = wish, now
                elif now - first[1] >= SAME_WISH:
                    way_on = self.last_words()
                    end_at_once(f"stopped at once by another {wish.name}" + (way_on and f"; {way_on}"), wish)


_listener: _Listener | None = None


if hasattr(os, "register_at_fork"):  # the child must not write its signals to the parent's pipe
    os.register_at_fork(after_in_child=lambda: _listener and signal.set_wakeup_fd(-1))


def listen(importing: bool = False) -> bool:
    """Handle signals from now on; False if this is done already, or in another thread than the main thread."""
    global _listener, _parent
    if _listener is not None or threading.current_thread() is not threading.main_thread():
        return False
    _listener = _Listener(importing)
    _parent = _parent or _Parent()
    if importing:
        for number in SIGNALS:  # Python removes its handlers at exit, and a signal would change the exit code
            atexit.register(signal.signal, number, signal.SIG_IGN)
    return True


def close() -> None:
    """Restore the handlers from before ``listen``."""
    global _listener
    if _listener is not None:
        _listener.close()
        _listener = None


def begin_in_child() -> None:
    """In a forked process: forget what was heard and who the parent was; this process stops with the one it is from."""
    global _parent
    close()
    _parent = None
    os.environ[PARENT] = str(os.getppid())


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Inside, signals are handled, and processes that Lightning starts stop when this process dies."""
    mine = listen()
    before = {PARENT: os.environ[PARENT]} if PARENT in os.environ else {}
    os.environ |= followed()
    try:
        yield
    finally:
        del os.environ[PARENT]
        os.environ |= before
        if mine:
            close()
        else:  # the process ends, and its libraries may finish their work
            hold("when it has ended")


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Inside, a signal ends the process at once: a library may catch what is raised while it is imported."""
    if _listener is not None:
        _listener.importing = True
    try:
        yield
    finally:
        if _listener is not None:
            _listener.importing = False


def hold(until: str) -> None:
    """Remember signals from now on; ``until`` tells the user when the process will stop."""
    if _listener is not None:
        _listener.held.append(until)


def release() -> None:
    """End the innermost ``hold``."""
    if _listener is not None:
        _listener.held.pop()


@contextlib.contextmanager
def held(until: str) -> Iterator[None]:
    """Inside, a signal is remembered; at the end ``Stopped`` is raised."""
    hold(until)
    try:
        yield
    finally:
        release()
    check()


def asked() -> signal.Signals | None:
    """The signal that this process has received, or None."""
    return None if _listener is None else _listener.asked


def check() -> None:
    """Raise ``Stopped`` if a signal is remembered."""
    if (number := asked()) is not None:
        raise Stopped(number)


def raise_if_stopped(fault: Exception) -> None:
    """Raise ``Stopped`` from ``fault`` if this process has received a signal, or its rank 0 has died, before."""
    number = asked() or (signal.SIGTERM if rank_zero_is_gone() else None)
    if number is not None:
        stop = Stopped(number, f"({type(fault).__name__}: {fault})")
        stop.__notes__ = getattr(fault, "__notes__", [])
        raise stop from fault


def say_at_last(way_on: Callable[[], str]) -> None:
    """Set the function whose text is printed when a second signal ends the process."""
    if _listener is not None:
        _listener.last_words = way_on


@contextlib.contextmanager
def given_to(action: Callable[[int], None]) -> Iterator[None]:
    """Inside, signals call ``action``, which passes them on to other processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, lambda number, _: action(number)) for number in SIGNALS}
    try:
        yield
    finally:
        _restore(handlers)


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


def followed() -> dict[str, str]:
    """Environment variables of a child process that stops when this process dies."""
    return {PARENT: str(os.getpid())}


def say(line: str) -> None:
    """Write a line to stderr, in the first process only; it does not use Python's stream, which may be locked."""
    if is_first_process():
        with contextlib.suppress(OSError):
            os.write(2, f"ttlightning: {line}\n".encode())


def end_at_once(line: str, number: signal.Signals) -> None:
    """End the process without clean-up. Files on the disk are complete, as they are after SIGKILL."""
    say(line)
    os._exit(exit_code(number))


class _Parent:
    """The parent process, if this process must stop when the parent dies.

    Such a parent is torchrun's agent, a rerun, a study, or rank 0 of a run whose other ranks Lightning starts.
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
        time.sleep(NOT_REACHED)  # rank 0 may have ended normally, and then this process ends as well
        os._exit(exit_code(signal.SIGTERM))  # no checkpoint can be written without rank 0


_parent: _Parent | None = None


def is_launched_rank() -> bool:
    """Whether this is a rank other than 0 that Lightning has started from rank 0."""
    return _parent is not None and _parent.is_rank_zero


def rank_zero_is_gone() -> bool:
    """Whether rank 0, which has started this process, has died; waits up to a second, since connections break first."""
    if not is_launched_rank():
        return False
    deadline = time.monotonic() + 1
    while not _parent.is_gone() and time.monotonic() < deadline:
        time.sleep(0.05)
    return _parent.is_gone()
