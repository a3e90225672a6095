"""Speed of the chains beside TensorKrowch, on the same network and the same batches.

    python scripts/benchmark.py [--repeats 30] [--cases 17,16,64,16 ...] [--output results/benchmark.json]

For every case (modes n, rank r, batch, sites d) and both kinds of cores, in one process and interleaved:

  step       forward, cross-entropy, backward and Adam of the whole network: feature map, chain, loss
  inference  forward alone, without gradients

TensorKrowch runs in each of its four modes (auto_stack, auto_unbind); the fastest of them in this run is the one that
counts. Ratios are medians of pairwise ratios. The roofline compares the arithmetic of a step, 6 n r^2 (d - 2) batch
multiply-adds and more, with what this machine reaches in one large matrix product.
"""

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from ttlightning import EqualCoreTensorTrain, PatchFeatureMap, TensorTrain

CASES = ["17,16,64,16", "33,32,64,16", "33,64,256,16", "33,32,64,49", "3,10,100,784"]
KINDS = ("different", "equal")
PATCH_DIM, CLASSES = 49, 10
MODES_OF_PEER = list(itertools.product((True, False), repeat=2))  # auto_stack, auto_unbind
Case = tuple[int, int, int, int]
Step = Callable[[], object]


class Network(nn.Module):
    """The same feature map before either chain."""

    def __init__(self, modes: int, chain: nn.Module) -> None:
        super().__init__()
        self.features, self.chain = PatchFeatureMap(PATCH_DIM, modes), chain

    def forward(self, patches: Tensor) -> Tensor:
        return self.chain(self.features(patches))


def our_chain(case: Case, kind: str) -> nn.Module:
    modes, rank, _, sites = case
    return (EqualCoreTensorTrain if kind == "equal" else TensorTrain)(sites, modes, CLASSES, rank)


def peer_chain(case: Case, kind: str, auto_stack: bool, auto_unbind: bool) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorkrowch

    modes, rank, _, sites = case
    layer = tensorkrowch.models.UMPSLayer if kind == "equal" else tensorkrowch.models.MPSLayer
    options = {"in_dim": modes, "out_dim": CLASSES, "bond_dim": rank, "init_method": "randn_eye", "std": 1e-3}
    chain = layer(n_features=sites + 1, out_position=sites, **options)
    chain.auto_stack, chain.auto_unbind = auto_stack, auto_unbind
    with torch.no_grad():
        chain.trace(torch.zeros(1, sites, modes))
    return chain


def make_steps(case: Case, chain: nn.Module) -> tuple[Step, Step]:
    """A training step and an inference, each without arguments."""
    modes, _, batch, sites = case
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(batch, sites, PATCH_DIM, generator=generator)
    labels = torch.randint(CLASSES, (batch,), generator=generator)
    network = Network(modes, chain)
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


def compare(case: Case, kind: str, repeats: int) -> dict[str, float | str]:
    """Medians and ratios of one case."""
    steps = {"ours": make_steps(case, our_chain(case, kind))}
    for mode in MODES_OF_PEER:
        steps[f"peer {mode}"] = make_steps(case, peer_chain(case, kind, *mode))
    found: dict[str, float | str] = {}
    for index, name in enumerate(("step", "inference")):
        times = interleaved({key: pair[index] for key, pair in steps.items()}, repeats)
        medians = {key: statistics.median(values) for key, values in times.items()}
        peer = min((key for key in medians if key != "ours"), key=medians.__getitem__)
        ratios = sorted(theirs / ours for theirs, ours in zip(times[peer], times["ours"], strict=True))
        found |= {
            f"{name}_ms": medians["ours"],
            f"{name}_peer_ms": medians[peer],
            f"{name}_peer_mode": peer,
            f"{name}_ratio": statistics.median(ratios),
            f"{name}_ratio_quartiles": f"{ratios[len(ratios) // 4]:.2f} to {ratios[3 * len(ratios) // 4]:.2f}",
        }
    modes, rank, batch, sites = case
    found["step_gflops"] = 12e-6 * modes * rank**2 * (sites - 2) * batch / float(found["step_ms"]) / 2
    return found


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


def growth(repeats: int) -> dict[str, float]:
    """Exponents p of time ~ size^p for our training step around (17, 16, 64, 32), equal cores: log-log slopes."""
    base = (17, 16, 64, 32)
    slopes = {}
    for index, name in enumerate(("modes", "rank", "batch", "sites")):
        sizes = [base[index] * 2**i for i in range(4)]
        cases = [(*base[:index], size, *base[index + 1 :]) for size in sizes]
        steps = {
            str(size): make_steps(case, our_chain(case, "equal"))[0] for size, case in zip(sizes, cases, strict=True)
        }
        medians = [statistics.median(values) for values in interleaved(steps, repeats).values()]
        x = torch.tensor(sizes).double().log()
        y = torch.tensor(medians).double().log()
        slopes[name] = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return slopes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases: list[Case] = [tuple(map(int, case.split(","))) for case in options.cases]
    rates = machine_rates()
    table = Table("n, r, batch, d", "cores", "step ms", "peer ms", "ratio", "inference", "ratio")
    results = []
    for case, kind in itertools.product(cases, options.kinds):
        found = compare(case, kind, max(5, options.repeats // (1 + case[3] // 100)))
        results.append({"case": case, "kind": kind, **found})
        numbers = [found[k] for k in ("step_ms", "step_peer_ms", "step_ratio", "inference_ms", "inference_ratio")]
        table.add_row(", ".join(map(str, case)), kind, *(f"{number:.2f}" for number in numbers))
        print(f"{case} {kind}: {found}", file=sys.stderr, flush=True)
    report = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "threads": options.threads,
        "rates": rates,
        "slopes": growth(options.repeats),
        "results": results,
    }
    Console(width=120).print(table)
    print(f"{options.threads} threads; a large product reaches {rates['product_gflops']:.0f} GFLOP/s, ", end="")
    print(f"a large copy {rates['copy_gb_per_s']:.1f} GB/s")
    print("time grows as", ", ".join(f"{name}^{p:.2f}" for name, p in report["slopes"].items()))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
