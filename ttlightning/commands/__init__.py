"""The verbs that need no Trainer: ``python -m ttlightning rank``, ``certify``, ``verify``, ``rerun``, ``compare``."""

from collections.abc import Callable, Sequence
from typing import Final

from ttlightning.commands import certify, compare, rank, rerun, verify

VERBS: Final[dict[str, tuple[str, Callable[[Sequence[str]], int]]]] = {
    "rank": ("Bounds and generic ranks over ranges of mode size, TT-rank and number of sites.", rank.main),
    "certify": ("Certify a rank: of almost every tensor train, or of a trained network.", certify.main),
    "compare": ("Finished runs side by side: means over seeds, paired tests, curves, a page.", compare.main),
    "rerun": ("Run a finished run again, and say whether it came out the same.", rerun.main),
    "verify": ("Check certificates with other code than that which made them.", verify.main),
}
"""Name: what it does, and the function that does it and returns the exit code."""
