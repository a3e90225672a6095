"""Everything that needs a GPU, in one command and one JSON file.

    python scripts/gpu.py --output gpu.json [--minutes 7.5] [--sections tests exactness ...]      (make gpu)
    python scripts/gpu.py --output gpu.json --dry_run     # every section on a CPU, at small sizes

  tests       the tests that are marked ``gpu``, on the device
  exactness   the three paths of the chain beside float64, and each beside itself: scripts/gpu_chain.py
  rerun       ``fit`` and ``rerun`` on the device: bitwise identical?
  speed       a training step by each path, by TensorKrowch, and by JAX where it has the device
  seeds       best/eq.yaml with two seeds, side by side

Each section is a process of its own. One that fails is recorded with the end of its output, and the others run. The
file is written after each section. Without ``$TTLIGHTNING_DATA`` the data are mnist5k. Exit code 1 if a section failed
or is not right.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ttlightning.errors import UserError
from ttlightning.system.output import run_script

ROOT = Path(__file__).resolve().parents[1]
CASES = [(17, 16, 64, 16), (33, 32, 64, 16), (33, 64, 256, 16), (33, 32, 64, 49), (3, 10, 100, 784)]
SMALL = [(3, 2, 4, 6)]
Found = dict[str, Any]


def device_of(options: argparse.Namespace) -> Any:
    import torch

    return torch.device("cpu" if options.dry_run else "cuda")


def exactness(options: argparse.Namespace) -> Found:
    from gpu_chain import exactness

    return exactness(SMALL if options.dry_run else CASES, device_of(options))


def speed(options: argparse.Namespace) -> Found:
    from gpu_chain import speed

    return speed(SMALL if options.dry_run else CASES, device_of(options), 3 if options.dry_run else 30)


def tests(options: argparse.Namespace) -> Found:
    """The counts of pytest's last line; wrong if a test failed or none ran."""
    chosen = ["-k", "equal or oracle"] if options.dry_run else []
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0" if options.dry_run else "4", "-m", "gpu", "-p",
               "no:cacheprovider", *chosen, str(ROOT / "tests" / "gpu")]  # fmt: skip
    environment = os.environ | {"TTLIGHTNING_TEST_DEVICE": "cpu" if options.dry_run else "cuda"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"summary": lines[-1] if lines else "", "failed": failed, "right": done.returncode == 0}


def words_of_fit(options: argparse.Namespace) -> list[str]:
    """Options of every ``fit`` of this script."""
    data = [] if os.environ.get("TTLIGHTNING_DATA") else ["--data.dataset=mnist5k"]
    return [*data, f"--trainer.accelerator={'cpu' if options.dry_run else 'gpu'}", "--wandb.mode=disabled"]


def ttlightning(*words: str) -> str:
    """The output of a command of this package; ``RuntimeError`` with its last lines if it fails."""
    done = subprocess.run([sys.executable, "-m", "ttlightning", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {done.returncode}: {(done.stdout + done.stderr)[-600:]}")
    return done.stdout


def rerun(options: argparse.Namespace) -> Found:
    """Both kernels of a GPU, each run again."""
    found: Found = {}
    for kernel in ("torch", "triton"):
        os.environ["TTLIGHTNING_KERNEL"] = kernel
        words = [*words_of_fit(options), "--trainer.max_epochs=2", "--figures=false", f"--experiment={kernel}"]
        if options.dry_run:
            words += [f"--trainer.limit_{name}_batches=2" for name in ("train", "val", "test")]
        ttlightning("fit", "--config=debug.yaml" if options.dry_run else "--config=eq.yaml", *words)
        said = ttlightning("rerun", f"runs/{kernel}/0")
        found[kernel] = next(line for line in said.splitlines() if line.startswith("verdict"))
    return found | {"right": all("bitwise identical" in verdict for verdict in found.values())}


def seeds(options: argparse.Namespace) -> Found:
    """Two runs side by side on the device, each in its own directory."""
    config = "--config=debug.yaml" if options.dry_run else "--config=best/eq.yaml"
    command = [sys.executable, "-m", "ttlightning", "fit", config, *words_of_fit(options), "--figures=false"]
    started, processes = time.perf_counter(), []
    for seed in (0, 1):
        words = [f"--seed_everything={seed}", f"--run=runs/seeds/{seed}"]
        processes.append(
            subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("; ".join(output[-600:] for output in outputs))
    results = [json.loads(Path(f"runs/seeds/{seed}/result.json").read_text()) for seed in (0, 1)]
    keys = ("dataset", "seed", "metrics", "weights_sha256", "seconds")
    found = [{key: result[key] for key in keys} for result in results]
    different = len({run["weights_sha256"] for run in found}) == 2
    return {"runs": found, "seconds": time.perf_counter() - started, "right": different}


SECTIONS: dict[str, Callable[[argparse.Namespace], Found]] = {
    section.__name__: section for section in (tests, exactness, rerun, speed, seeds)
}


def machine(options: argparse.Namespace) -> Found:
    """Names and versions; ``UserError`` without a GPU, unless the run is dry."""
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        raise UserError("torch sees no GPU here; --dry_run runs every section on the CPU, at small sizes")
    gpu = None if options.dry_run else torch.cuda.get_device_name()
    return {"gpu": gpu, "torch": torch.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0]}


def in_a_process(name: str, options: argparse.Namespace, folder: Path, seconds: float) -> Found:
    """What a section finds; its fault, if it fails or its time is over."""
    output = folder / f"{name}.json"
    dry = ["--dry_run"] if options.dry_run else []
    command = [sys.executable, str(Path(__file__).resolve()), "--section", name, "--output", str(output), *dry]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "WANDB_MODE": "disabled", "TTLIGHTNING_RUNS": str(folder / "runs")}
    environment |= {"TRITON_INTERPRET": "1"} if options.dry_run else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    started = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds)
        fault = f"exit code {done.returncode}: {(done.stdout + done.stderr)[-1500:]}"
    except subprocess.TimeoutExpired:
        fault = f"stopped after {seconds:.0f} s, when the time of the whole command was over"
    found = json.loads(output.read_text()) if output.is_file() else {"fault": fault, "right": False}
    return found | {"wall_seconds": round(time.perf_counter() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dry_run", action="store_true")
    parser.add_argument("--minutes", type=float, default=7.5, help="time of all sections together")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--section", choices=SECTIONS, help="only this one, in this process")
    options = parser.parse_args()
    output = options.output.resolve()
    if options.section is not None:
        output.write_text(json.dumps(SECTIONS[options.section](options)))
        return
    end = time.monotonic() + 60 * options.minutes
    report: Found = {"machine": machine(options), "dry_run": options.dry_run, "sections": {}}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sections:
            found = in_a_process(name, options, Path(folder), max(1.0, end - time.monotonic()))
            report["sections"][name] = found
            output.write_text(json.dumps(report, indent=1) + "\n")
            print(f"{name:<10} {'right' if found['right'] else 'WRONG'}  {found['wall_seconds']} s", flush=True)
            if not found["right"]:
                print(f"           {found.get('fault') or found.get('failed') or ''}", flush=True)
    if not all(found["right"] for found in report["sections"].values()):
        sys.exit(1)


if __name__ == "__main__":
    run_script(main)
