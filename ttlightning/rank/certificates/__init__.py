r"""Making certificates: small JSON files that state a lower bound on a CP-rank and hold what is needed to check it.

Three kinds:
    generic     almost every tensor train of this (n, r, d), with equal or different cores, has CP-rank >= R. One tensor
                with integer cores drawn from a seed proves it, by the staircase.
    checkpoint  the class tensors of one trained tensor train have CP-rank >= R_y, by the staircase of the exact images
                of its weights, for any number of sites.
    sampled     the same for any format, from the exact rank of a K x K matrix of scores; it shows at most K.

Ranks are counted modulo primes (``rank/finite_field.py``). Each is a lower bound on the rank over the reals, so no
tolerance is involved. ``rank/verifier`` counts again with other code.
"""

from typing import Any

Certificate = dict[str, Any]
