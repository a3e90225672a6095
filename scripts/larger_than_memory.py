"""Peak memory of `fit` against the size of its data, in memory and from the cache; and the second start of a folder.

    python scripts/larger_than_memory.py [--gib 0.1 0.5 2] [--limit_gib 1.2] [--steps 200] [--pictures 60000]

Writes data sets in MNIST's format, of random strokes, into a temporary folder. Each is trained on in memory, with an
empty cache and with the cache made before, for the same steps, in a memory cgroup with this limit, if the system lets
this process make one (page cache counts, and is given back under pressure). Prints the largest anonymous memory
(RssAnon, every 50 ms), the processor's seconds, with imports, and the first digits of the weights' hash. Then a folder
of pictures: the processor's seconds of a fit that reads them, and of one that does not.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ttlightning.system.output import run_script

ROWS = 1 << 16
TEST = 2000


class Run(NamedTuple):
    """A finished or killed `fit`."""

    outcome: str
    anonymous: float
    """largest RssAnon in GiB"""
    seconds: float
    """of the processor"""
    weights: str


class Limit:
    """A memory cgroup of this size for the runs; none where the system does not let us make one."""

    def __init__(self, size: int) -> None:
        two = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        parent = Path("/sys/fs/cgroup") if two else Path("/sys/fs/cgroup/memory")
        self.folder: Path | None = parent / f"larger-than-memory-{os.getpid()}"
        try:
            self.folder.mkdir()
            (self.folder / ("memory.max" if two else "memory.limit_in_bytes")).write_text(str(size))
        except OSError as fault:
            print(f"no limit: a memory cgroup cannot be made here ({fault.strerror})", flush=True)
            self.folder = None

    def inside(self, words: list[str]) -> list[str]:
        """The command that runs these words inside."""
        if self.folder is None:
            return words
        return ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs; exec "$@"', "sh", *words]

    def remove(self) -> None:
        if self.folder is not None:
            self.folder.rmdir()


def write_idx(root: Path, train: int) -> None:
    """Images with a bright bar whose row is the label, on noise."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, samples in (("train", train), ("t10k", TEST)):
        labels = generator.integers(0, 10, samples, dtype=np.uint8)
        with (folder / f"{part}-images-idx3-ubyte").open("wb") as file:
            file.write(bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (samples, 28, 28)))
            for start in range(0, samples, ROWS):
                rows = labels[start : start + ROWS]
                images = np.frombuffer(generator.bytes(len(rows) * 784), np.uint8).reshape(-1, 28, 28) // 4
                images[np.arange(len(rows))[:, None], 2 * rows[:, None] + [[4, 5]]] += 150
                file.write(images.tobytes())
        content = bytes([0, 0, 8, 1]) + samples.to_bytes(4, "big") + labels.tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(content)


def write_pictures(root: Path, samples: int) -> None:
    """Grey pictures of 28 x 28 pixels in ten classes, five in six of them for training."""
    generator = np.random.default_rng(0)
    for index in range(samples):
        folder = root / ("test" if index % 6 == 5 else "train") / str(index // 6 % 10)
        folder.mkdir(parents=True, exist_ok=True)
        image = generator.integers(0, 256, (28, 28), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{index}.png", compress_level=1)


def fit(words: list[str], environment: Mapping[str, str], limit: Limit | None, folder: Path) -> Run:
    """Run `fit` and watch its anonymous memory."""
    run = folder / f"run-{time.monotonic_ns()}"
    call = [sys.executable, "-m", "ttlightning", "fit", *words, "--run", str(run), "--figures=false"]
    call.append("--trainer.enable_progress_bar=false")
    before, largest = processor_seconds(), 0
    surroundings = os.environ | {"WANDB_MODE": "disabled", "TTLIGHTNING_CACHE": ""} | environment
    inside = call if limit is None else limit.inside(call)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(inside, env=surroundings, stdout=log, stderr=log)
        while process.poll() is None:
            largest = max(largest, anonymous(process.pid))
            time.sleep(0.05)
    seconds = processor_seconds() - before
    if process.returncode == -9:
        return Run("killed", largest / 2**20, seconds, "")
    if process.returncode:
        return Run((folder / "log").read_text().strip().splitlines()[-1][:160], largest / 2**20, seconds, "")
    weights = json.loads((run / "result.json").read_text())["weights_sha256"]
    return Run("finished", largest / 2**20, seconds, weights[:12])


def processor_seconds() -> float:
    """Of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def anonymous(process: int) -> int:
    """RssAnon in KiB; 0 when the process is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, nargs="*", default=[0.1, 0.5, 2.0])
    parser.add_argument("--limit_gib", type=float, default=1.2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pictures", type=int, default=60000)
    options = parser.parse_args()
    words = ["--config", "debug.yaml", "--data.dataset", "mnist", f"--trainer.max_steps={options.steps}"]
    words += ["--data.validation=0.001", "--rank_check.every_n_epochs=0", "--trainer.accelerator=cpu"]
    print(f"{platform.processor() or platform.machine()}, limit {options.limit_gib} GiB, {options.steps} steps of 64")
    print(f"{'data':>9}  {'way':<14}  {'outcome':<9} {'RssAnon':>9}  {'seconds':>7}  weights", flush=True)
    limit = Limit(int(options.limit_gib * 2**30))
    try:
        for size in options.gib:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_idx(folder / "data", int(size * 2**30) // 784)
                own = {"TTLIGHTNING_DATA": str(folder / "data")}
                stored = own | {"TTLIGHTNING_CACHE": str(folder / "cache")}
                for way, environment in (("in memory", own), ("cache, made", stored), ("cache, found", stored)):
                    run = fit(words, environment, limit, folder)
                    print(
                        f"{size:5.2f} GiB  {way:<14}  {run.outcome:<9} {run.anonymous:5.2f} GiB  {run.seconds:7.1f}  "
                        f"{run.weights}", flush=True,
                    )  # fmt: skip
    finally:
        limit.remove()
    if options.pictures:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_pictures(folder / "data", options.pictures)
            words[3] = "image_folder"
            environment = {"TTLIGHTNING_DATA": str(folder / "data"), "TTLIGHTNING_CACHE": str(folder / "cache")}
            runs = [fit(words, environment, None, folder) for _ in range(2)]
            both = " and ".join(f"{run.seconds:.1f} s ({run.outcome})" for run in runs)
            print(f"{options.pictures:,} pictures: {both}; the same weights: {runs[0].weights == runs[1].weights}")


if __name__ == "__main__":
    run_script(main)
