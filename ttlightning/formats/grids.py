r"""Scores of a chain on a grid: the odd sites of every row with the even sites of every column.

    A_k = sum_i f_k[i] G_k[i]        one r x r matrix for every row (k odd) or column (k even)
    h_pq <- h_pq A_k

The matrices are made once for each row and column, not for each pair. A pair costs r^2 a site.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttlightning.formats.kernels.scales import split_off_scales

STATES_AT_ONCE = 16_000_000
"""Entries of all states in memory at once, 128 MB in float64."""
SITES_OF_A_SCALE = 16
"""Sites after which the states' scales are split off; matrices have largest entries in [1/2, 1)."""


def chain_on_grid(
    rows: Float[Tensor, "rows odd modes"],
    columns: Float[Tensor, "columns even modes"],
    first: Float[Tensor, "modes rank"],
    interior: Float[Tensor, "distinct modes rank rank"],
    last: Float[Tensor, "modes rank classes"],
) -> tuple[Float[Tensor, "rows columns classes"], Int[Tensor, "rows columns"]]:
    """Mantissa and exponent of every pair, see ``ScoreTensor.scaled_scores_on_grid``."""
    sites = rows.shape[1] + columns.shape[1]
    cores = [first.unsqueeze(1), *(interior[min(k, len(interior) - 1)] for k in range(sites - 2)), last]
    of_columns, column_exponents = _matrices(columns, cores[1::2])
    per_chunk = max(1, STATES_AT_ONCE // (len(columns) * first.shape[1]))
    mantissas, exponents = [], []
    for chunk in rows.split(per_chunk):
        of_rows, row_exponents = _matrices(chunk, cores[0::2])
        exponent = row_exponents.unsqueeze(1) + column_exponents.unsqueeze(0)
        state = chunk.new_ones(len(chunk), len(columns), 1)
        for site in range(sites):
            matrices = (of_columns if site % 2 else of_rows)[site // 2]
            state = torch.einsum("pqa,qab->pqb", state, matrices) if site % 2 else state @ matrices
            if site % SITES_OF_A_SCALE == SITES_OF_A_SCALE - 1:
                exponent = exponent + split_off_scales(state, 2)[1].squeeze(2)
        mantissas.append(state)
        exponents.append(exponent)
    return torch.cat(mantissas), torch.cat(exponents)


def _matrices(
    features: Float[Tensor, "images sites modes"], cores: list[Float[Tensor, "modes left right"]]
) -> tuple[list[Float[Tensor, "images left right"]], Int[Tensor, " images"]]:
    """A_k of every image and site, and the sum of the exponents that were split off."""
    exponent = torch.zeros(len(features), dtype=torch.int32)
    matrices = []
    for k, core in enumerate(cores):
        matrix = torch.einsum("pi,iab->pab", features[:, k], core).contiguous()
        exponent = exponent + split_off_scales(matrix, (1, 2))[1].view(-1)
        matrices.append(matrix)
    return matrices, exponent
