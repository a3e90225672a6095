"""A command inside another program: a notebook or a script, which goes on when the command has ended."""

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Final

import numpy as np

from ttlightning.errors import Stopped
from ttlightning.system import signals

VARIABLES: Final = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG", signals.PARENT)
"""Environment variables that a command sets."""


@contextlib.contextmanager
def as_it_was() -> Iterator[None]:
    """Inside, signals are handled as by a command, in the main thread; afterwards the process is as it was."""
    import torch

    mine = signals.listen()
    variables = {name: os.environ.get(name) for name in VARIABLES}
    generators = random.getstate(), np.random.get_state()  # noqa: NPY002, Lightning seeds this generator
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ |= signals.followed()
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    except Stopped as stop:
        raise (KeyboardInterrupt(str(stop)) if stop.exit_code == 130 else SystemExit(stop.exit_code)) from stop
    finally:
        if mine:
            signals.close()
        random.setstate(generators[0])
        np.random.set_state(generators[1])  # noqa: NPY002
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        torch.backends.cudnn.benchmark = benchmark
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
