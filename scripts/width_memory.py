"""Time and memory of the proven width on K x K mixed images of MNIST, for a network of eq.yaml.

    python scripts/width_memory.py [--images 4096] [--run runs/eq_one_epoch/0] [options of fit]

Trains eq.yaml for one epoch, in a process of its own, unless the run has a result. Then bounds the width on the first K
test images, for the network in exact arithmetic as a certificate does. Prints K, the seconds, the peak resident memory
of the process, and the width within each error. OMP_NUM_THREADS sets the threads.
"""

import argparse
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from ttlightning.errors import UserError
from ttlightning.rank.certificates.width import PERMILLE, proven_curve
from ttlightning.runs.machine import cpu_name
from ttlightning.runs.run import Run, checkpoint_file
from ttlightning.runs.trained_networks import read_network
from ttlightning.system.output import run_script
from ttlightning.training.datamodule import PatchDataModule


def peak() -> float:
    """GiB of memory that the process has held at most."""
    unit = 1 if sys.platform == "darwin" else 2**10  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--images", type=int, default=4096, help="K")
    parser.add_argument("--run", type=Path, default=Path("runs/eq_one_epoch/0"))
    options, words = parser.parse_known_args()
    if options.images < 2:
        raise UserError(f"--images is {options.images}, it must be at least 2")
    if not Run(options.run).result:
        fit = ["fit", "--config", "eq.yaml", "--trainer.max_epochs=1", "--run", str(options.run), *words]
        subprocess.run([sys.executable, "-m", "ttlightning", *fit], check=True)
    checkpoint = checkpoint_file(options.run)
    network, data = read_network(checkpoint), PatchDataModule.load_from_checkpoint(checkpoint)
    data.prepare_data()
    data.setup("test")
    patches = torch.cat([batch.patches for batch in data.test_dataloader()])[: options.images].float()
    if len(patches) < options.images:
        raise UserError(f"--images is {options.images}, the test set has {len(patches)}")
    before, started = peak(), time.perf_counter()
    curve = proven_curve(network, patches)
    seconds = time.perf_counter() - started
    if curve is None:
        raise UserError("a score is infinite or not a number")
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {platform.python_version()}")
    print(f"{network.format.name}: {sum(p.numel() for p in network.parameters()):,} parameters")
    print(f"K {options.images:,}  {seconds:.0f} s  peak {peak():.2f} GiB, {before:.2f} GiB before")
    print("width  " + "  ".join(f"{each / 10:g} %: {curve.width(each / 1000)}" for each in PERMILLE))


if __name__ == "__main__":
    run_script(main)
