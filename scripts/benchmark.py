"""Speed and memory of the chains beside TensorKrowch, on the same network and the same batches.

    python scripts/benchmark.py [--repeats 30] [--cases 17,16,64,16 ...] [--threads 1 2] [--output results/benchmark]

For every case (mode size n, rank r, batch, sites d) and both kinds of cores, in one process and interleaved:

  step       forward, cross-entropy, backward and Adam of the whole network: feature map, chain, loss
  floor      the same step without a chain: the features' sum over the sites through one matrix; what of the step is
             the feature map, the loss, Adam and autograd
  inference  forward alone, without gradients
  memory     the most that torch's allocator holds at once during a step, beyond what it held before

TensorKrowch runs in each of its four modes (auto_stack, auto_unbind): `ratio` is against the fastest of them in this
run, `default` against the mode that it has when nobody chooses. Ratios are medians of pairwise ratios. The roofline
line compares the arithmetic of our step with what this machine reaches in one large matrix product, and what it must
move at least (parameters, gradients, moments and batch, once) with a large copy. `--output` writes .json and .png.

A second table has the other formats, in `--other-cases`: canonical polyadic, hierarchical Tucker with its own node at
every place and with one for all places of a level. TensorKrowch's Tree, with a matrix for each leaf, is the second of
them and starts with the same numbers; its eight modes are the four, contracting inline or stacked. Its UTree has one
node for all levels, and it has no shallow network: the others stand alone.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
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
KINDS = ("different", "equal")
OTHERS = {
    "canonical": CanonicalPolyadic,
    "hierarchical": HierarchicalTucker,
    "shared hierarchical": SharedHierarchicalTucker,
}
PATCH_DIM = 49
Step = Callable[[], object]


class Network(nn.Module):
    """The same feature map before either one's weight tensor."""

    def __init__(self, mode_size: int, chain: nn.Module) -> None:
        super().__init__()
        self.features, self.chain = PatchFeatureMap(PATCH_DIM, mode_size), chain

    def forward(self, patches: Tensor) -> Tensor:
        return self.chain(self.features(patches))


class NoChain(nn.Module):
    """Scores without a chain, for the floor."""

    def __init__(self, mode_size: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(mode_size, CLASSES))

    def forward(self, features: Tensor) -> Tensor:
        return features.sum(1) @ self.matrix


def our_chain(case: Case, kind: str) -> nn.Module:
    mode_size, rank, _, sites = case
    return (EqualCoreTensorTrain if kind == "equal" else TensorTrain)(sites, mode_size, CLASSES, rank)


def make_steps(case: Case, chain: nn.Module) -> tuple[Step, Step]:
    """A training step and an inference, each without arguments."""
    mode_size, _, batch, sites = case
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(batch, sites, PATCH_DIM, generator=generator)
    labels = torch.randint(CLASSES, (batch,), generator=generator)
    network = Network(mode_size, chain)
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
    """Milliseconds of every step, one after the other in each round; two rounds to warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: values[2:] for name, values in times.items()}


def peak_memory(step: Step) -> float:
    """MB that torch's allocator holds at most during a step, beyond what it held before."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    events = [(e.start_ns(), e.nbytes()) for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(change for _, change in sorted(events))) / 1e6


def compare(case: Case, kind: str, repeats: int) -> dict[str, Any]:
    """Medians and ratios of one case, and what it takes at least."""
    mode_size, rank, batch, sites = case
    steps = {"ours": make_steps(case, our_chain(case, kind)), "floor": make_steps(case, NoChain(mode_size))}
    for mode in MODES_OF_PEER:
        steps[str(mode)] = make_steps(case, peer_chain(case, kind, *mode))
    found = race(steps, repeats)
    chain = 6 * batch * (sites - 2) * mode_size * rank**2 + 6 * batch * mode_size * rank * (1 + CLASSES)
    cores = (1 if kind == "equal" else sites - 2) * mode_size * rank**2 + mode_size * rank * (1 + CLASSES)
    found["step_gflop"] = 1e-9 * (chain + 4 * batch * sites * PATCH_DIM * (mode_size - 1))
    found["step_gb"] = 4e-9 * (7 * (cores + PATCH_DIM * (mode_size - 1)) + batch * sites * PATCH_DIM)
    return found


def compare_other(case: Case, name: str, repeats: int) -> dict[str, Any]:
    """The same of another format, beside the peer's where it has the same one."""
    mode_size, rank, _, sites = case
    ours = OTHERS[name](sites, mode_size, CLASSES, rank)
    steps = {"ours": make_steps(case, ours)}
    if name == "hierarchical":
        for mode, inline in itertools.product(MODES_OF_PEER, (False, True)):
            key = f"{mode}{' inline' if inline else ''}"
            steps[key] = make_steps(case, peer_tree(case, ours, *mode, inline))
    return race(steps, repeats)


def race(steps: dict[str, tuple[Step, Step]], repeats: int) -> dict[str, Any]:
    """Milliseconds and MB of "ours", milliseconds of the "floor"; of the fastest of all others too, and ratios."""
    found: dict[str, Any] = {}
    peers = steps.keys() - {"ours", "floor"}
    for index, name in enumerate(("step", "inference")):
        times = interleaved({key: pair[index] for key, pair in steps.items()}, repeats)
        medians = {key: statistics.median(values) for key, values in times.items()}
        found[f"{name}_ms"] = medians["ours"]
        if "floor" in steps:
            found[f"{name}_floor_ms"] = medians["floor"]
        if not peers:
            continue
        peer = min(peers, key=medians.__getitem__)
        ratios = sorted(theirs / ours for theirs, ours in zip(times[peer], times["ours"], strict=True))
        default = [theirs / ours for theirs, ours in zip(times[str(DEFAULT_MODE)], times["ours"], strict=True)]
        found |= {
            f"{name}_peer_ms": medians[peer],
            f"{name}_peer_mode": peer,
            f"{name}_ratio": statistics.median(ratios),
            f"{name}_ratio_quartiles": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
            f"{name}_ratio_default": statistics.median(default),
        }
    found["memory_mb"] = peak_memory(steps["ours"][0])
    return found | ({"memory_peer_mb": min(peak_memory(steps[key][0]) for key in peers)} if peers else {})


def other_formats(cases: list[Case], threads: list[int], repeats: int) -> tuple[list[dict[str, Any]], Table]:
    """Every other format in every case, as rows of the report and as a table."""
    keys = ("step_ms", "step_peer_ms", "step_ratio", "inference_ms", "inference_peer_ms", "inference_ratio")
    columns = ("n, r, batch, d", "format", "thr.", "step ms", "peer ms", "ratio", "inference ms", "peer ms", "ratio")
    table, rows = Table(*columns, "MB", "peer MB"), []
    for count in threads:
        torch.set_num_threads(count)
        for case, name in itertools.product(cases, OTHERS):
            found = compare_other(case, name, max(5, repeats // (1 + case[1] // 64)))
            rows.append({"case": case, "format": name, "threads": count, **found})
            numbers = [f"{found[key]:.2f}" if key in found else "" for key in (*keys, "memory_mb", "memory_peer_mb")]
            table.add_row(", ".join(map(str, case)), name, str(count), *numbers)
            print(f"{case} {name}, {count} threads: {found}", file=sys.stderr, flush=True)
    return rows, table


def machine_rates() -> dict[str, float]:
    """What this machine reaches: GFLOP/s of a large product, GB/s of a large copy; the best of several tries."""
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
        steps = {
            str(size): make_steps(case, our_chain(case, "equal"))[0] for size, case in zip(sizes, cases, strict=True)
        }
        medians = [statistics.median(values) for values in interleaved(steps, repeats).values()]
        points[name] = [sizes, medians]
        x = torch.tensor(sizes).double().log()
        y = torch.tensor(medians).double().log()
        slopes[name] = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return slopes, points


def draw(report: dict[str, Any], path: Path) -> None:
    """Left: how many times as long TensorKrowch takes. Right: how our step grows with each size."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    rows = report["results"]
    labels = [f"{tuple(row['case'])} {row['kind']}, {row['threads']} thr." for row in rows]
    for shift, key, title in ((-0.2, "step_ratio", "training step"), (0.2, "inference_ratio", "inference")):
        left.barh([i + shift for i in range(len(rows))], [row[key] for row in rows], height=0.38, label=title)
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
        "--other-cases", nargs="*", default=OTHER_CASES, help="of the other formats; none: leave them out"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--output", type=Path, help="path of the .json and .png, without the ending")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # TensorKrowch's indexing
    cases, other_cases = (
        [tuple(map(int, case.split(","))) for case in given] for given in (options.cases, options.other_cases)
    )
    columns = ("n, r, batch, d", "cores", "thr.", "step ms", "floor", "peer ms", "ratio", "default", "inference ms")
    table = Table(*columns, "ratio", "MB", "peer MB", "of product", "of copy")
    results, rates = [], {}
    for threads in options.threads:
        torch.set_num_threads(threads)
        rate = rates[threads] = machine_rates()
        for case, kind in itertools.product(cases, options.kinds):
            found = compare(case, kind, max(5, options.repeats // (1 + case[3] // 100)))
            found["of_product"] = 1e3 * found["step_gflop"] / found["step_ms"] / rate["product_gflops"]
            found["of_copy"] = 1e3 * found["step_gb"] / found["step_ms"] / rate["copy_gb_per_s"]
            results.append({"case": case, "kind": kind, "threads": threads, **found})
            names = [f"step_{name}" for name in ("ms", "floor_ms", "peer_ms", "ratio", "ratio_default")]
            numbers = [f"{found[k]:.2f}" for k in (*names, "inference_ms", "inference_ratio")]
            numbers += [f"{found[k]:.1f}" for k in ("memory_mb", "memory_peer_mb")]
            fractions = [f"{found[k]:.0%}" for k in ("of_product", "of_copy")]
            table.add_row(", ".join(map(str, case)), kind, str(threads), *numbers, *fractions)
            print(f"{case} {kind} cores, {threads} threads: {found}", file=sys.stderr, flush=True)
    others, other_table = other_formats(other_cases, options.threads, options.repeats)
    torch.set_num_threads(1)
    slopes, points = growth(options.repeats)
    report = {
        "machine": cpu_name(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "kernel": kernel_name(),
        "rates": rates,
        "slopes": slopes,
        "growth": points,
        "results": results,
        "other_formats": others,
    }
    Console(width=150).print(table)
    if others:
        Console(width=150).print(other_table)
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
