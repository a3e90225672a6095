r"""What limits training on many processes: time of a step, of an all-reduce, and of many networks at once.

    python scripts/scale.py [--repeats 15] [--latency 1e-5] [--bandwidth 1e10] [--output results/scale.json]

Measures the network of eq.yaml on one thread for each process, interleaved. Steps are in processor's time, median and
quartiles, which other programs of the machine change little and waiting does not count in; an all-reduce, where
processes wait for each other, is the fastest of 10 in every repeat, and the median of these fastest ones:

    t(B)      a step on B samples alone: forward, backward, AdamW; a and b are the line t(B) = a + b B
    c(W)      the all-reduce of its P parameters by gloo, among W = 1, 2, 4 processes of this machine
    T(W)      a step on B / W samples by each of W processes, with its share of the all-reduce, without waiting
    s(S)      a step of S networks stacked by torch.func, each on its own batch of 64, for each network

and prints a + b B / W beside T(W), then the model a + b B / W + 2 log2(W) L + 2 (W - 1) / W * 4 P / R for up to 64
processes, with the latency L in seconds and the rate R in bytes per second of a network that --latency and --bandwidth
describe, which are not measured.
"""

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.multiprocessing as processes
from torch import Tensor, distributed, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from ttlightning.formats import EqualCoreTensorTrain
from ttlightning.networks.features import PatchFeatureMap
from ttlightning.networks.network import Network
from ttlightning.system.output import run_script

SITES, PATCH, MODES, RANK, CLASSES = 16, 49, 17, 16, 10
BATCHES = (8, 16, 32, 64, 128, 256, 512)
WORLDS = (1, 2, 4)
GLOBAL = (64, 512)
STACKS = (1, 4, 16)
PROCESSES = (1, 2, 4, 8, 16, 32, 64)


def network(seed: int = 0) -> Network:
    """That of eq.yaml, and one step's inputs are ``data``."""
    torch.manual_seed(seed)
    features = PatchFeatureMap(PATCH, mode_size=MODES, activation="gelu")
    return Network(features, EqualCoreTensorTrain(SITES, MODES, CLASSES, rank=RANK, gain=10.0), pixel_mean=0.13)


def data(samples: int, *stack: int) -> tuple[Tensor, Tensor]:
    return torch.rand(*stack, samples, SITES, PATCH), torch.randint(0, CLASSES, (*stack, samples))


class Step:
    """Forward, backward and AdamW on a fixed batch; ``average`` is called on the flat gradient."""

    def __init__(self, samples: int, average: Callable[[Tensor], object] | None = None) -> None:
        self.network, self.average = network(), average
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=True)
        self.patches, self.labels = data(samples)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        F.cross_entropy(self.network(self.patches), self.labels).backward()
        if self.average is not None:
            gradients = [p.grad for p in self.network.parameters()]
            flat = nn.utils.parameters_to_vector(gradients)
            self.average(flat)
            nn.utils.vector_to_parameters(flat, gradients)
        self.optimizer.step()


class Stacked:
    """The step of S networks in one call of each operation, by ``vmap``."""

    def __init__(self, stack: int, samples: int = 64) -> None:
        networks = [network(seed) for seed in range(stack)]
        self.weights, self.buffers = stack_module_state(networks)
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=1e-4, fused=True)
        self.patches, self.labels = data(samples, stack)

        def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor], patches: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(networks[0], (weights, buffers), (patches,)), labels)

        self.gradients = vmap(grad(loss))

    def __call__(self) -> None:
        weights = {name: weight.detach() for name, weight in self.weights.items()}
        gradients = self.gradients(weights, self.buffers, self.patches, self.labels)
        for name, weight in self.weights.items():
            weight.grad = gradients[name]
        self.optimizer.step()


def processor_seconds(action: Callable[[], object], times: int = 10) -> float:
    started = time.process_time()
    for _ in range(times):
        action()
    return (time.process_time() - started) / times


def fastest_seconds(action: Callable[[], object], times: int = 10) -> float:
    found = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        found.append(time.perf_counter() - started)
    return min(found)


def spread(values: list[float]) -> list[float]:
    """Quartiles in milliseconds."""
    return [1000 * value for value in statistics.quantiles(values, n=4, method="inclusive")]


def alone(repeats: int) -> dict[str, list[float]]:
    """t(B) and s(S)."""
    actions: dict[str, tuple[Callable[[], object], int]] = {f"t({b})": (Step(b), 1) for b in BATCHES}
    actions |= {f"s({s})": (Stacked(s), s) for s in STACKS}
    found: dict[str, list[float]] = {name: [] for name in actions}
    for round_ in range(repeats + 1):
        for name, (action, share) in actions.items():
            value = processor_seconds(action) / share
            if round_:  # the first one warms up
                found[name].append(value)
    return {name: spread(values) for name, values in found.items()}


def together(rank: int, world: int, repeats: int, rendezvous: Path, output: Path) -> None:
    """c(W) and T(W), measured by rank 0 of each group."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    groups = {w: distributed.new_group(list(range(w))) for w in WORLDS}
    found: dict[str, list[float]] = {}
    actions = []
    for w, group in groups.items():
        if rank < w:
            average = lambda flat, group=group: distributed.all_reduce(flat, group=group)  # noqa: E731
            flat = torch.zeros(sum(p.numel() for p in network().parameters()))
            exchange = lambda average=average, flat=flat: average(flat)  # noqa: E731
            actions.append((f"c({w})", group, exchange, fastest_seconds))
            actions += [(f"T({w}), B = {b}", group, Step(b // w, average), processor_seconds) for b in GLOBAL]
    for round_ in range(repeats + 1):
        for name, group, action, clock in actions:
            distributed.barrier(group)
            value = clock(action)
            if round_:
                found.setdefault(name, []).append(value)
    if rank == 0:
        output.write_text(json.dumps({name: spread(values) for name, values in found.items()}))
    distributed.barrier()
    distributed.destroy_process_group()


def line(found: dict[str, list[float]]) -> tuple[float, float]:
    """a and b in milliseconds, by least squares of the relative errors."""
    points = [(float(b), found[f"t({b})"][1]) for b in BATCHES]
    design = torch.tensor([[1 / t, b / t] for b, t in points], dtype=torch.float64)
    a, b = torch.linalg.lstsq(design, torch.ones(len(points), 1, dtype=torch.float64)).solution.flatten().tolist()
    return a, b


def predicted(a: float, b: float, batch: int, world: int, exchange: float) -> float:
    return a + b * batch / world + exchange


def exchange(world: int, parameters: int, latency: float, bandwidth: float) -> float:
    """Milliseconds of an all-reduce: a tree's latencies, and the bytes that each process sends and receives."""
    return 1000 * (2 * math.log2(world) * latency + 2 * (world - 1) / world * 4 * parameters / bandwidth)


def report(found: dict[str, list[float]], parameters: int, latency: float, bandwidth: float) -> Iterator[str]:
    yield f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {parameters:,} parameters"
    yield "milliseconds: median [quartiles]"
    for name, (low, middle, high) in found.items():
        yield f"  {name:<15} {middle:8.3f} [{low:.3f}, {high:.3f}]"
    a, b = line(found)
    yield f"t(B) = a + b B: a = {a:.3f} ms, b = {b:.4f} ms; as long as a are {a / b:.0f} samples"
    for batch in GLOBAL:
        for world in WORLDS:
            measured = found[f"T({world}), B = {batch}"][1]
            share = predicted(a, b, batch, world, 0)
            yield f"  T({world}), B = {batch}: a + b B / W = {share:.3f}, measured {measured:.3f}"
    yield f"by the model, with L = {latency:g} s and R = {bandwidth:g} bytes/s (assumed):"
    yield "  processes       " + "".join(f"{world:>8}" for world in PROCESSES)
    for batch in (64, 512, 4096):
        times = [
            predicted(a, b, batch, w, exchange(w, parameters, latency, bandwidth) if w > 1 else 0) for w in PROCESSES
        ]
        speeds = [times[0] / each for each in times]
        yield f"  speed, B = {batch:<4}" + "".join(f"{speed:8.2f}" for speed in speeds)
    yield "  speed, seeds    " + "".join(f"{float(world):8.2f}" for world in PROCESSES) + "  (a network for each)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--latency", type=float, default=1e-5)
    parser.add_argument("--bandwidth", type=float, default=1e10)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = alone(options.repeats)
    with tempfile.TemporaryDirectory() as name:
        output, rendezvous = Path(name, "found.json"), Path(name, "rendezvous")
        inputs = (max(WORLDS), options.repeats, rendezvous, output)
        processes.start_processes(together, inputs, nprocs=max(WORLDS), start_method="fork")
        found |= json.loads(output.read_text())
    parameters = sum(p.numel() for p in network().parameters())
    print("\n".join(report(found, parameters, options.latency, options.bandwidth)))
    if options.output:
        options.output.write_text(json.dumps({"milliseconds": found, "parameters": parameters}, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
