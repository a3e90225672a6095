"""Standard output whose reader may go away: ``fit | head -1`` trains on and says no more, other commands just end."""

import os
import sys
from typing import Final

from rich.console import Console

BROKEN_PIPE: Final = 141
"""Exit code of what was still printing: 128 + SIGPIPE, as a shell's own tools have it."""


class Terminal(Console):
    """A console for a run, which does not end because nobody reads on."""

    def on_broken_pipe(self) -> None:
        give_up_output()


def give_up_output() -> None:
    """What is printed from now on goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def flush() -> None:
    """Print what is left while there is somebody to say that nobody reads it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        give_up_output()
