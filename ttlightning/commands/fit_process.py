"""A run of a study as a process of its own: how it is started, how it ended, and the same as a task of submitit's.

A SLURM task imports this module only, so that its memory and its start are those of ``fit``.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ttlightning.runs.run import Run
from ttlightning.system import signals

IDLE_STOPS: Final = 3
"""Times in a row that a task may be stopped without an optimizer step more; after that it is not queued again."""


def start_fit(words: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    """``python -m ttlightning fit`` in a session of its own, where the terminal's Ctrl-C does not reach it twice."""
    return subprocess.Popen(
        [sys.executable, "-m", "ttlightning", "fit", *words], text=True,
        env=os.environ | environment | signals.followed(),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def fault_of(code: int, errors: str) -> str:
    """The last line that a process wrote, with its exit code if it wrote none; nothing where it succeeded."""
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), "")
    return (last or f"exit code {code}") if code else ""


class Task:
    """The function of a SLURM task: makes a run or goes on with it, and returns its fault.

    Args:
        path: directory of the run.
        words: options of ``fit`` that make it.
        idle: times in a row that it was stopped without a step.
    """

    def __init__(self, path: Path, words: Sequence[str], idle: int = 0) -> None:
        self.path, self.words, self.idle = path, tuple(words), idle
        self._process: subprocess.Popen[str] | None = None
        self._steps = -1

    def __call__(self) -> str:
        if Run(self.path).state == "finished":
            return ""
        self._steps = _steps_of(self.path)
        self._process = start_fit(self.words, {})
        errors = self._process.communicate()[1]
        return fault_of(self._process.returncode, errors)

    def checkpoint(self) -> Any:
        """Called by submitit when the time is nearly over: stop ``fit`` with a checkpoint, and be queued again.

        None where the run has made no step ``IDLE_STOPS`` times: the time is too short for it.
        """
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it has just ended
                os.kill(self._process.pid, signal.SIGUSR1)
                # The call that this handler interrupts waits for the same process, which must be left to it.
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        is_idle = Run(self.path).state != "finished" and _steps_of(self.path) <= self._steps
        idle = self.idle + 1 if is_idle else 0
        return None if idle >= IDLE_STOPS else DelayedSubmission(Task(self.path, self.words, idle))


def _steps_of(path: Path) -> int:
    from ttlightning.runs.beginning import steps_of  # takes a second: imports torch

    return steps_of(path)
