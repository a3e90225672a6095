"""Make and verify the certificates of this repository: generic ones, and the trained networks of eq.yaml and tt.yaml.

    python scripts/make_certificates.py [--runs runs/eq/0 runs/tt/0] [--output results/certificates]

Copies only the weights from each run's last checkpoint, as a checkpoint and as safetensors, certifies them, verifies
every certificate in the folder, and prints the seconds. Existing files are kept and verified.
"""

import argparse
import time
from pathlib import Path

from ttlightning.commands.certify import write_weights
from ttlightning.rank.certificates.files import write_certificate
from ttlightning.rank.certificates.staircase import checkpoint_certificate, generic_certificate
from ttlightning.rank.verifier.verification import read_certificate, verify
from ttlightning.runs.checkpoints import CONFIG_KEY, NETWORK_KEY, read_checkpoint
from ttlightning.runs.run import checkpoint_file
from ttlightning.runs.trained_formats import read_format
from ttlightning.system.output import run_script
from ttlightning.training.checkpoint_io import SafeCheckpointIO

GENERIC = [(5, 3, 8), (17, 16, 16), (64, 8, 16), (3, 5, 9)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="*", default=[Path("runs/eq/0"), Path("runs/tt/0")])
    parser.add_argument("--output", type=Path, default=Path("results/certificates"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for n, r, d in GENERIC:
        file = options.output / f"generic-n{n}-r{r}-d{d}.json"
        if not file.exists():
            write_certificate(file, generic_certificate(n, r, d))
    for run in options.runs:
        weights = options.output / f"{run.parent.name}.ckpt"
        if not weights.exists():
            content = read_checkpoint(checkpoint_file(run))
            kept = {key: content[key] for key in ("state_dict", NETWORK_KEY, CONFIG_KEY)}
            SafeCheckpointIO().save_checkpoint(kept, weights)
        file = weights.with_suffix(".json")
        if not file.exists():
            started = time.perf_counter()
            certificate = checkpoint_certificate(*read_format(weights)) | {"checkpoint": weights.name}
            print(f"{file.name}: certified in {time.perf_counter() - started:.1f} s")
            write_certificate(file, certificate)
        if not weights.with_suffix(".safetensors").exists():
            write_weights(weights, weights.with_suffix(".safetensors"))
    for file in sorted(options.output.glob("*.json")):
        started = time.perf_counter()
        content = read_certificate(file)
        if "checkpoint" in content:
            format, sha256 = read_format(options.output / content["checkpoint"])
            verify(content, dict(format.named_parameters()), sha256, format.sites)
        else:
            verify(content)
        seconds, size = time.perf_counter() - started, file.stat().st_size
        print(f"{file.name}: verified in {seconds:.1f} s, {size:,} bytes, {min(content['cp_rank_at_least']):,}")


if __name__ == "__main__":
    run_script(main)
