"""Make and verify the certificates of this repository: generic ones, and of trained networks of eq.yaml and tt.yaml.

    python scripts/make_certificates.py [--runs runs/eq/0 runs/tt/0] [--width_run runs/eq_one_epoch/0] [--images 32]
        [--output results/certificates]

Copies only the weights from each run's last checkpoint, as a checkpoint and as safetensors, and certifies the rank and
the independence of the features; of the run that ``width_memory.py`` makes, the width within an error, on K images of
its test set. Verifies every certificate in the folder, and prints the seconds. Existing files are kept and verified.
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
    parser.add_argument("--width_run", type=Path, default=Path("runs/eq_one_epoch/0"))
    parser.add_argument("--images", type=int, default=32, help="K, for the width")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for n, r, d in GENERIC:
        file = options.output / f"generic-n{n}-r{r}-d{d}.json"
        if not file.exists():
            write_certificate(file, generic_certificate(n, r, d))
    for run in options.runs:
        file = options.output / f"{run.parent.name}.json"
        certify(run, file, file.with_suffix(".ckpt"), features=True)
    stem = options.width_run.parent.name
    certify(
        options.width_run,
        options.output / f"{stem}-width-{options.images}.json",
        options.output / f"{stem}.ckpt",
        width=options.images,
    )
    worst = 0
    for file in sorted(options.output.glob("*.json")):
        code, line = judge(file)
        worst = max(worst, code)
        print(f"{line[:100]}... {file.stat().st_size:,} bytes" if code == 0 else line)
    sys.exit(worst)


def certify(run: Path, file: Path, weights: Path, **options: object) -> None:
    """The weights of a run, the certificate and the weights beside it; what exists is left as it is."""
    if not weights.exists():
        content = read_checkpoint(checkpoint_file(run))
        kept = {key: content[key] for key in ("state_dict", NETWORK_KEY, CONFIG_KEY, DATA_KEY)}
        SafeCheckpointIO().save_checkpoint(kept, weights)
    if not file.exists():
        started = time.perf_counter()
        ttlightning.certify(weights, file, **options)
        print(f"{file.name}: certified in {time.perf_counter() - started:.1f} s")
    if not file.with_suffix(".safetensors").exists():
        write_weights(weights, file.with_suffix(".safetensors"), features="features" in options)


if __name__ == "__main__":
    run_script(main)
