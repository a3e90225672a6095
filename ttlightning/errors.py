"""How a command ends that does not succeed: by a mistake, by a fault, or because it was asked to stop."""

import signal


class UserError(ValueError):
    """A mistake in what the user asked for: a value out of range, a file that is not what it claims to be.

    Its message is one line that names the value, the limit and the way out. The command line prints that line and
    ends with exit code 2; library users catch it as a ``ValueError``.
    """


class MissingExtra(UserError, ModuleNotFoundError):
    """What the user asked for needs a package that is not installed. The message names the extra that installs it."""


class Fault(RuntimeError):
    """Something went wrong in the middle of a run: a loss that is not finite, a full disk.

    One line on the command line, exit code 1. What had been written is still there.
    """


class Stopped(BaseException):
    """A signal asked the command to stop, and it has; in training after a whole step, with a checkpoint.

    No fault, so that nothing which catches faults takes it for one.
    """

    def __init__(self, asked: signal.Signals, where: str = "") -> None:
        super().__init__(f"stopped by {asked.name} {where}".rstrip())
        self.exit_code = exit_code(asked)


def exit_code(asked: signal.Signals) -> int:
    """130 after SIGINT, 143 after SIGTERM and after SIGUSR1, which is the same wish: one code says "queue me again"."""
    return 128 + (signal.SIGINT if asked == signal.SIGINT else signal.SIGTERM)
