"""Speed and memory of the tensor formats beside TensorKrowch and JAX, on the same network and the same batches.

    python scripts/benchmark.py [--repeats 30] [--cases 17,16,64,16 ...] [--threads 1 2] [--output results/benchmark]

For every case (mode size n, rank r, batch, sites d) and both kinds of cores, in one process and interleaved:

  step       forward, cross-entropy, backward and Adam of the network: feature map, chain, loss
  floor      the same step with one matrix on the sum of the features instead of a chain: cost of the feature map, the
             loss, Adam and autograd
  inference  forward without gradients
  memory     peak of torch's allocator during a step, minus its value before the step

TensorKrowch runs in each of its four modes (auto_stack, auto_unbind): `step ratio` is against the fastest of them in
this run, `step ratio default` against its default mode. On one thread, `jax ratio` is against the faster of two jitted
programs of scripts/benchmark_jax.py. Ratios are medians of pairwise ratios. `of product` compares the arithmetic of our
step with one large matrix product on this machine, `of copy` its least memory traffic (parameters, gradients, moments
and batch, once) with a large copy. `--output` writes .json and .png.

A second table has the other formats, in `--other-cases`: canonical polyadic, hierarchical Tucker, and hierarchical
Tucker with one node for all positions of a level. TensorKrowch's Tree is the second and starts with the same numbers;
it runs in eight modes, the four with contraction inline or stacked. TensorKrowch has no counterpart of the other two.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from benchmark_jax import WAYS, make_jax_steps
from benchmark_peer import CLASSES, DEFAULT_MODE, MODES_OF_PEER, Case, peer_chain, peer_tree
from matplotlib.ticker import FixedLocator, NullLocator
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from ttlightning import (
    CanonicalPolyadic,
    EqualCoreTensorTrain,
    HierarchicalTucker,
    PatchFeatureMap,
    SharedHierarchicalTucker,
    TensorTrain,
)
from ttlightning.formats.kernels.native import kernel_name
from ttlightning.runs.machine import cpu_name
from ttlightning.system.output import run_script

CASES = ["17,16,64,16", "33,32,64,16", "33,64,256,16", "33,32,64,49", "3,10,100,784"]
OTHER_CASES = ["17,16,64,16", "33,32,64,16", "33,64,256,16", "33,32,64,64"]
KINDS = {"different": TensorTrain, "equal": EqualCoreTensorTrain}
OTHERS = {
    "canonical": CanonicalPolyadic,
    "hierarchical": HierarchicalTucker,
    "shared hierarchical": SharedHierarchicalTucker,
}
PATCH_DIM = 49
TIMES = ("step_ms", "step_peer_ms", "step_ratio", "inference_ms", "inference_peer_ms", "inference_ratio")
CELLS = dict.fromkeys(TIMES, ".2f") | {"memory_mb": ".1f", "memory_peer_mb": ".1f"}
JAX_CELLS = dict.fromkeys(("step_jax_ms", "step_jax_ratio", "inference_jax_ms", "inference_jax_ratio"), ".2f")
CHAIN_CELLS = (
    CELLS | JAX_CELLS | {"step_floor_ms": ".2f", "step_ratio_default": ".2f", "of_product": ".0%", "of_copy": ".0%"}
)
"""Numbers in the tables and their formats."""
Step = Callable[[], object]


class Network(nn.Module):
    """The feature map, then a weight tensor, ours or the peer's."""

    def __init__(self, mode_size: int, chain: nn.Module) -> None:
        super().__init__()
        self.features, self.chain = PatchFeatureMap(PATCH_DIM, mode_size), chain

    def forward(self, patches: Tensor) -> Tensor:
        return self.chain(self.features(patches))


class NoChain(nn.Module):
    """Scores from the sum of the features, for the floor."""

    def __init__(self, mode_size: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(mode_size, CLASSES))

    def forward(self, features: Tensor) -> Tensor:
        return features.sum(1) @ self.matrix


def ours(case: Case, name: str) -> nn.Module:
    """Our weight tensor of this kind of cores, or this other format."""
    mode_size, rank, _, sites = case
    return (KINDS | OTHERS)[name](sites, mode_size, CLASSES, rank)


def batch_of(case: Case) -> tuple[Tensor, Tensor]:
    """Random patches and labels."""
    _, _, batch, sites = case
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(batch, sites, PATCH_DIM, generator=generator)
    return patches, torch.randint(CLASSES, (batch,), generator=generator)


def make_steps(case: Case, chain: nn.Module) -> tuple[Step, Step]:
    """A training step and an inference as functions without arguments."""
    patches, labels = batch_of(case)
    network = Network(case[0], chain)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5, fused=True)

    def train() -> None:
        loss = F.cross_entropy(network(patches), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def infer() -> Tensor:
        return network(patches)

    return train, infer


def interleaved(steps: dict[str, Step], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every step, interleaved in rounds, after two rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: values[2:] for name, values in times.items()}


def peak_memory(step: Step) -> float:
    """Peak of torch's allocator during a step minus its value before, in MB."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    events = [(e.start_ns(), e.nbytes()) for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(change for _, change in sorted(events))) / 1e6


def compare(case: Case, name: str, repeats: int) -> dict[str, Any]:
    """Medians and ratios of one case beside the peer, if it has the same network."""
    mode_size, rank, batch, sites = case
    own = ours(case, name)
    steps = {"ours": make_steps(case, own)}
    if name == "hierarchical":
        for mode, inline in itertools.product(MODES_OF_PEER, (False, True)):
            key = f"{mode}{' inline' if inline else ''}"
            steps[key] = make_steps(case, peer_tree(case, own, *mode, inline))
    if name in OTHERS:
        return race(steps, max(5, repeats // (1 + rank // 64)))
    steps["floor"] = make_steps(case, NoChain(mode_size))
    steps |= {str(mode): make_steps(case, peer_chain(case, name, *mode)) for mode in MODES_OF_PEER}
    if torch.get_num_threads() == 1:
        network = Network(mode_size, own)
        steps |= {f"jax {way}": make_jax_steps(network, *batch_of(case), way) for way in WAYS}
    result = race(steps, max(5, repeats // (1 + sites // 100)))
    chain = 6 * batch * (sites - 2) * mode_size * rank**2 + 6 * batch * mode_size * rank * (1 + CLASSES)
    cores = (1 if name == "equal" else sites - 2) * mode_size * rank**2 + mode_size * rank * (1 + CLASSES)
    result["step_gflop"] = 1e-9 * (chain + 4 * batch * sites * PATCH_DIM * (mode_size - 1))
    result["step_gb"] = 4e-9 * (7 * (cores + PATCH_DIM * (mode_size - 1)) + batch * sites * PATCH_DIM)
    return result


def race(steps: dict[str, tuple[Step, Step]], repeats: int) -> dict[str, Any]:
    """Milliseconds and MB of "ours", milliseconds of the "floor" and JAX, and both of the peer's fastest mode."""
    result: dict[str, Any] = {}
    jax = {key for key in steps if key.startswith("jax ")}
    peers = steps.keys() - {"ours", "floor"} - jax
    for index, name in enumerate(("step", "inference")):
        times = interleaved({key: pair[index] for key, pair in steps.items()}, repeats)
        medians = {key: statistics.median(values) for key, values in times.items()}
        result[f"{name}_ms"] = medians["ours"]
        if "floor" in steps:
            result[f"{name}_floor_ms"] = medians["floor"]
        if jax:
            result |= beside(times, jax, f"{name}_jax", f"{name}_jax_ratio")
        if peers:
            result |= beside(times, peers, f"{name}_peer", f"{name}_ratio")
            default = [theirs / ours for theirs, ours in zip(times[str(DEFAULT_MODE)], times["ours"], strict=True)]
            result[f"{name}_ratio_default"] = statistics.median(default)
    result["memory_mb"] = peak_memory(steps["ours"][0])
    return result | ({"memory_peer_mb": min(peak_memory(steps[key][0]) for key in peers)} if peers else {})


def beside(times: dict[str, list[float]], rivals: Iterable[str], title: str, ratio: str) -> dict[str, Any]:
    """The fastest rival: its milliseconds, its name, and the median and quartiles of its times over ours."""
    fastest = min(rivals, key=lambda key: statistics.median(times[key]))
    ratios = sorted(theirs / ours for theirs, ours in zip(times[fastest], times["ours"], strict=True))
    return {
        f"{title}_ms": statistics.median(times[fastest]),
        f"{title}_mode": fastest,
        ratio: statistics.median(ratios),
        f"{ratio}_quartiles": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
    }


def measure(column: str, cases: list[Case], names: Iterable[str], threads: int, repeats: int) -> list[dict[str, Any]]:
    """Rows of the report: every name, which is in ``column``, in every case."""
    rows = []
    for case, name in itertools.product(cases, names):
        rows.append({"case": case, column: name, "threads": threads, **compare(case, name, repeats)})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def table_of(column: str, rows: list[dict[str, Any]], cells: dict[str, str]) -> Table:
    """The rows as a table; ``cells`` has the format of each number by its key. Keys are the titles."""
    titles = [key.removesuffix("_ms").replace("_", " ") for key in cells]
    table = Table("n, r, batch, d", column, "thr.", *titles)
    for row in rows:
        numbers = [format(row[key], form) if key in row else "" for key, form in cells.items()]
        table.add_row(", ".join(map(str, row["case"])), row[column], str(row["threads"]), *numbers)
    return table


def machine_rates() -> dict[str, float]:
    """GFLOP/s of a large product and GB/s of a large copy on this machine, the best of several tries."""
    matrix, line = torch.rand(1024, 1024), torch.rand(1 << 25)
    target = torch.empty_like(line)

    def best(step: Step) -> float:
        return min(interleaved({"": step}, 10)[""])

    return {
        "product_gflops": 2 * 1024**3 / best(lambda: matrix @ matrix) / 1e6,
        "copy_gb_per_s": 2 * line.numel() * 4 / best(lambda: target.copy_(line)) / 1e6,
    }


def growth(repeats: int) -> tuple[dict[str, float], dict[str, list[list[float]]]]:
    """Exponents p of time ~ size^p for our training step around (17, 16, 64, 32), equal cores: log-log slopes.

    Also the points, sizes and milliseconds.
    """
    base = (17, 16, 64, 32)
    slopes, points = {}, {}
    for index, name in enumerate(("mode_size", "rank", "batch", "sites")):
        sizes = [base[index] * 2**i for i in range(4)]
        cases = [(*base[:index], size, *base[index + 1 :]) for size in sizes]
        steps = {str(size): make_steps(case, ours(case, "equal"))[0] for size, case in zip(sizes, cases, strict=True)}
        medians = [statistics.median(values) for values in interleaved(steps, repeats).values()]
        points[name] = [sizes, medians]
        x = torch.tensor(sizes).double().log()
        y = torch.tensor(medians).double().log()
        slopes[name] = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return slopes, points


def draw(report: dict[str, Any], path: Path) -> None:
    """Left: ratios of the times of TensorKrowch and ours. Right: time of our step over each size."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    rows = report["results"]
    labels = [f"{tuple(row['case'])} {row['kind']}, {row['threads']} thr." for row in rows]
    for shift, key, title in ((-0.2, "step_ratio", "training step"), (0.2, "inference_ratio", "inference")):
        left.barh([i + shift for i in range(len(rows))], [row[key] for row in rows], height=0.38, label=title)
    beside_jax = [(i, row["step_jax_ratio"]) for i, row in enumerate(rows) if "step_jax_ratio" in row]
    if beside_jax:
        places, ratios = zip(*beside_jax, strict=True)
        left.plot(ratios, places, "kD", markersize=4, label="training step, JAX over ours")
    left.axvline(1, color="black", linewidth=0.8)
    left.set(xscale="log", xlabel="time of TensorKrowch, its fastest mode, over ours", yticks=range(len(rows)))
    left.set_yticklabels(labels, fontsize=7)
    left.invert_yaxis()
    left.set_xticks([1, 2, 4, 8, 16], labels=["1", "2", "4", "8", "16"])
    left.set_title("(mode size, rank, batch, sites), cores", fontsize=9)
    left.legend(fontsize=8)
    for name, (sizes, medians) in report["growth"].items():
        right.plot(sizes, medians, "o-", label=f"{name}: {report['slopes'][name]:.2f}")
    right.set(xscale="log", yscale="log", xlabel="size", ylabel="ms per training step")
    for axis, ticks in ((right.xaxis, [8, 16, 32, 64, 128, 256, 512]), (right.yaxis, [2, 4, 8, 16, 32, 64])):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    right.set_title("equal cores, around (17, 16, 64, 32), one thread: slopes", fontsize=9)
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument(
        "--other-cases", nargs="*", default=OTHER_CASES, help="cases of the other formats; empty for none"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--output", type=Path, help="path of the .json and .png, without the ending")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # TensorKrowch's indexing
    cases, other_cases = (
        [tuple(map(int, case.split(","))) for case in given] for given in (options.cases, options.other_cases)
    )
    results, others, rates = [], [], {}
    for threads in options.threads:
        torch.set_num_threads(threads)
        rate = rates[threads] = machine_rates()
        for row in measure("kind", cases, options.kinds, threads, options.repeats):
            row["of_product"] = 1e3 * row["step_gflop"] / row["step_ms"] / rate["product_gflops"]
            row["of_copy"] = 1e3 * row["step_gb"] / row["step_ms"] / rate["copy_gb_per_s"]
            results.append(row)
        others += measure("format", other_cases, OTHERS, threads, options.repeats)
    torch.set_num_threads(1)
    slopes, points = growth(options.repeats)
    report = {
        "machine": cpu_name(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "jax": version("jax"),
        "tensorkrowch": version("tensorkrowch"),
        "kernel": kernel_name(),
        "rates": rates,
        "slopes": slopes,
        "growth": points,
        "results": results,
        "other_formats": others,
    }
    Console(width=210).print(table_of("kind", results, CHAIN_CELLS))
    if others:
        Console(width=170).print(table_of("format", others, CELLS))
    print(f"{report['machine']}, {report['cores']} cores, kernel {report['kernel']}")
    for threads, rate in rates.items():
        print(f"{threads} threads: a large product reaches {rate['product_gflops']:.0f} GFLOP/s, ", end="")
        print(f"a large copy {rate['copy_gb_per_s']:.1f} GB/s")
    print("time grows as", ", ".join(f"{name}^{p:.2f}" for name, p in slopes.items()))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        draw(report, options.output.with_suffix(".png"))


if __name__ == "__main__":
    run_script(main)
