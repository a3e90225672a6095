"""Make and verify the certificates of this repository: generic ones, and the trained networks of eq.yaml and tt.yaml.

    python scripts/make_certificates.py [--runs runs/eq/0 runs/tt/0] [--output results/certificates] [--width 64]

Copies only the weights from each run's last checkpoint, as a checkpoint and as safetensors, and certifies the rank and
the independence of the features; of the first run also the width within an error, on K images of its test set. Verifies
every certificate in the folder, and prints the seconds. Existing files are kept and verified.
"""

import argparse
import sys
import time
from pathlib import Path

import ttlightning
from ttlightning.commands.certify import write_weights
from ttlightning.commands.verify import judge
from ttlightning.rank.certificates.files import write_certificate
from ttlightning.rank.certificates.staircase import generic_certificate
from ttlightning.runs.checkpoints import CONFIG_KEY, NETWORK_KEY, read_checkpoint
from ttlightning.runs.run import checkpoint_file
from ttlightning.runs.trained_networks import DATA_KEY
from ttlightning.system.output import run_script
from ttlightning.training.checkpoint_io import SafeCheckpointIO

GENERIC = [(5, 3, 8), (17, 16, 16), (64, 8, 16), (3, 5, 9)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="*", default=[Path("runs/eq/0"), Path("runs/tt/0")])
    parser.add_argument("--output", type=Path, default=Path("results/certificates"))
    parser.add_argument("--width", type=int, default=64, help="K images; 0: no certificate of width")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for n, r, d in GENERIC:
        file = options.output / f"generic-n{n}-r{r}-d{d}.json"
        if not file.exists():
            write_certificate(file, generic_certificate(n, r, d))
    for index, run in enumerate(options.runs):
        weights = options.output / f"{run.parent.name}.ckpt"
        if not weights.exists():
            content = read_checkpoint(checkpoint_file(run))
            kept = {key: content[key] for key in ("state_dict", NETWORK_KEY, CONFIG_KEY, DATA_KEY)}
            SafeCheckpointIO().save_checkpoint(kept, weights)
        certify(weights, weights.with_suffix(".json"), features=True)
        if options.width and index == 0:
            file = weights.with_name(f"{weights.stem}-width-{options.width}.json")
            certify(weights, file, width=options.width)
        if not weights.with_suffix(".safetensors").exists():
            write_weights(weights, weights.with_suffix(".safetensors"), features=True)
    worst = 0
    for file in sorted(options.output.glob("*.json")):
        code, line = judge(file)
        worst = max(worst, code)
        print(f"{line[:100]}... {file.stat().st_size:,} bytes" if code == 0 else line)
    sys.exit(worst)


def certify(weights: Path, file: Path, **options: object) -> None:
    """A new certificate; one that exists is left as it is."""
    if not file.exists():
        started = time.perf_counter()
        ttlightning.certify(weights, file, **options)
        print(f"{file.name}: certified in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    run_script(main)
