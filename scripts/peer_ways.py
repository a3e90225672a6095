"""A training step of TensorKrowch's chains with all its options, beside ours and a step without a chain.

    python scripts/peer_ways.py [--case 17,16,64,16] [--repeats 15] [--threads 1]

Output at the end or in the middle, traced or not, auto_stack, auto_unbind, inputs and matrices inline or stacked, both
kinds of cores: 128 ways. Steps of one kind are interleaved. Prints the fastest and the slowest, as Markdown.
"""

import argparse
import itertools
import statistics
import warnings

import torch
from benchmark import KINDS, NoChain, interleaved, make_steps, ours
from benchmark_peer import Case, peer_chain

from ttlightning.system.output import run_script

ORDER = ("auto_stack", "auto_unbind", "middle", "traced", "inline_input", "inline_mats")


def steps_of(case: Case, kind: str) -> dict[str, object]:
    """Steps by name: ours, without a chain, and all options of the peer."""
    steps = {
        "ours": make_steps(case, ours(case, kind))[0],
        "without a chain": make_steps(case, NoChain(case[0]))[0],
    }
    for choice in itertools.product((True, False), repeat=len(ORDER)):
        way = dict(zip(ORDER, choice, strict=True))
        name = ", ".join(key for key, chosen in way.items() if chosen) or "none of these"
        steps[name] = make_steps(case, peer_chain(case, kind, **way))[0]
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="17,16,64,16")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # TensorKrowch's indexing
    torch.set_num_threads(options.threads)
    case = tuple(map(int, options.case.split(",")))
    print(f"case (n, r, batch, d) = {case}, {options.threads} threads, ms: median (quickest, slowest)\n")
    print("| cores | ours | without a chain | fastest way | its ms | slowest way | its ms |")
    print("|---|---|---|---|---|---|---|")
    for kind in KINDS:
        times = interleaved(steps_of(case, kind), options.repeats)
        shown = {name: f"{statistics.median(t):.2f} ({min(t):.2f}, {max(t):.2f})" for name, t in times.items()}
        ways = sorted(times.keys() - {"ours", "without a chain"}, key=lambda name: statistics.median(times[name]))
        fastest, slowest = ways[0], ways[-1]
        cells = [kind, shown["ours"], shown["without a chain"], fastest, shown[fastest], slowest, shown[slowest]]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    run_script(main)
