"""The package can be imported where Unix is not: on a platform that lacks what only Unix has."""

import subprocess
import sys

LACKING = """
import importlib, os, pkgutil, signal, sys
import filelock, jsonargparse, lightning.pytorch, matplotlib.figure, rich.console, sklearn.datasets, scipy.stats, torch
import torchmetrics, torchvision, wandb, flint, mlxtend.data, wandb.plot, torch.multiprocessing, torch.distributed

for name in ("getuid", "geteuid", "sched_getaffinity", "register_at_fork", "fork", "set_blocking", "killpg", "setsid"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGUSR1", "SIGUSR2", "SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGSTOP", "SIGXFSZ"):
    delattr(signal, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None

import ttlightning

modules = [module.name for module in pkgutil.walk_packages(ttlightning.__path__, "ttlightning.")]
for name in modules:
    if name not in ("ttlightning.__main__", "ttlightning.formats.kernels.triton_chain"):
        importlib.import_module(name)

from ttlightning.commands.studies import _cores
from ttlightning.system import signals

assert len(modules) > 60 and _cores() >= 1 and [s.name for s in signals.SIGNALS] == ["SIGINT", "SIGTERM"]
with signals.listening():
    signals.hold("at the end")
    signal.raise_signal(signal.SIGTERM)
    assert signals.asked() == signal.SIGTERM
print("imported")
"""


def test_the_package_imports_without_unix():
    """Signals, forks, locks and users of Unix are taken away after the libraries are imported."""
    done = subprocess.run([sys.executable, "-c", LACKING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr
