"""Ways to score a batch of sequences of different lengths on the compiled kernel, forward and backward.

    groups        sorted by length, groups of similar lengths, each filled to its longest  (formats/kernels/lengths.py)
    one group     every sequence filled to the longest of the batch
    each length   a call for each length that occurs

Prints milliseconds of CPU time per batch, median and quartiles, and the share of sites that are no filling.
"""

import argparse
import statistics
import time
from unittest import mock

import torch

from ttlightning import EqualCoreTensorTrain
from ttlightning.formats.kernels import lengths as of_lengths
from ttlightning.formats.kernels.native import kernel_name
from ttlightning.runs.machine import cpu_name
from ttlightning.system.output import run_script

WAYS = {"groups": (of_lengths.TOGETHER, of_lengths.WASTE), "one group": (1 << 30, 1.0), "each length": (1, 1.0)}


def draw(kind: str, batch: int, sites: int) -> torch.Tensor:
    """Lengths: uniform, or most of them short, as documents are."""
    share = torch.rand(batch, generator=torch.Generator().manual_seed(0))
    return (2 + (sites - 1) * share.pow(1 if kind == "uniform" else 4)).long().clamp(max=sites)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=500)
    parser.add_argument("--mode_size", type=int, default=9)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{kernel_name()}; {cpu_name()}; one thread, {options.repetitions} repetitions")
    print(f"d = {options.sites}, n = {options.mode_size}, r = {options.rank}, float32\n")
    print("| lengths | batch | way | ms, median (quartiles) | sites in use |\n|---|---|---|---|---|")
    for kind in ("uniform", "mostly short"):
        for batch in (64, 256):
            lengths = draw(kind, batch, options.sites)
            format = EqualCoreTensorTrain(options.sites, options.mode_size, 10, rank=options.rank)
            features = torch.rand(batch, options.sites, options.mode_size, requires_grad=True)
            for way, (together, waste) in WAYS.items():
                with mock.patch.multiple(of_lengths, TOGETHER=together, WASTE=waste):
                    low, middle, high = measure(format, features, lengths, options.repetitions)
                    groups = of_lengths.group_by_length(lengths.tolist())
                sites = sum(len(group) * max(int(lengths[i]) for i in group) for group in groups)
                figures = f"{middle:.1f} ({low:.1f} to {high:.1f})"
                print(f"| {kind} | {batch} | {way} | {figures} | {int(lengths.sum()) / sites:.0%} |", flush=True)


def measure(format: EqualCoreTensorTrain, features: torch.Tensor, lengths: torch.Tensor, count: int) -> list[float]:
    """Quartiles of the milliseconds of CPU time of a forward and a backward pass."""
    times = []
    for _ in range(count + 1):
        started = time.process_time()
        format(features, lengths).sum().backward()
        times.append(1000 * (time.process_time() - started))
    return statistics.quantiles(times[1:], n=4)


if __name__ == "__main__":
    run_script(main)
