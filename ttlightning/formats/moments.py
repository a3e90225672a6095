r"""Sums of powers of the singular values of an odd/even matricization, without forming it.

    tr(P P^T)     = sum_k s_k^2        two copies of the tensor that share all indices
    tr((P P^T)^2) = sum_k s_k^4        four copies: 1 and 2, 3 and 4 share the columns, 1 and 4, 2 and 3 the rows

A chain is contracted from left to right. X[(s_1, s_2), (s_3, s_4)] are the states of the four copies. A site whose
index two copies share acts on their states as E = sum_ij M[i, j] G_i (x) G_j, an r^2 x r^2 matrix. So a site costs r^6.
In a tree, a node joins the X of its two children by four copies of its core, which costs r^8.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ttlightning.formats.kernels.scales import split_off_scales

Moments = tuple[Float[Tensor, " classes_and_all"], Float[Tensor, " classes_and_all"]]


def chain_moments(
    cores: Sequence[Float[Tensor, "left modes right"]], metrics: Float[Tensor, "sites modes modes"]
) -> Moments:
    """The two traces for every class, then for the K x (K C) matricization of all classes side by side.

    Args:
        cores: TT-cores of W[i_1, ..., i_d, y]; the last bond is the class.
        metrics: M_k of every site.
    """
    first = cores[0].new_ones(1, 1)
    two, four = first, first  # four is X[(s_1, s_2), (s_3, s_4)]
    exponent_two = exponent_four = 0
    for site, (core, metric) in enumerate(zip(cores, metrics, strict=True), start=1):
        left, _, right = core.shape
        both = torch.einsum("aib,ij,cjd->acbd", core, metric, core).reshape(left * left, right * right)
        two = both.T @ two.reshape(-1)
        if site % 2:  # rows: copies 1 and 4, 2 and 3
            crossed = four.view(left, left, left, left).permute(0, 3, 1, 2).reshape(left**2, left**2)
            crossed = both.T @ crossed @ both
            four = crossed.view(right, right, right, right).permute(0, 2, 3, 1).reshape(right**2, right**2)
        else:
            four = both.T @ four @ both
        (_, down), (_, below) = split_off_scales(two, 0), split_off_scales(four, (0, 1))
        exponent_two += int(down)
        exponent_four += int(below)
    classes = cores[-1].shape[-1]
    two, four = two.view(classes, classes), four.view(classes, classes, classes, classes)
    return _of_classes(two, exponent_two, four, exponent_four)


def _of_classes(two: Tensor, exponent_two: int, four: Tensor, exponent_four: int) -> Moments:
    """From the open class indices of the copies: each class alone, and the class as an index of the columns."""
    along = torch.arange(len(two))
    traces = torch.cat([two[along, along], two.trace().view(1)])
    squares = torch.cat([four[along, along, along, along], torch.einsum("yyzz->", four).view(1)])
    return traces, torch.ldexp(squares, torch.tensor(exponent_four - 2 * exponent_two))


def sum_moments(
    factors: Float[Tensor, "sites modes rank"],
    weights: Float[Tensor, "rank classes"],
    metrics: Float[Tensor, "sites modes modes"],
) -> Moments:
    """The same for sums of products, P_y = U diag(c_y) V^T: from the r x r matrices U^T U and V^T V."""
    grams = factors.transpose(1, 2) @ metrics @ factors
    split_off_scales(grams, (1, 2))
    odd, even = grams[0::2].prod(0), grams[1::2].prod(0)
    split_off_scales(odd, (0, 1))
    split_off_scales(even, (0, 1))
    inside = even * torch.einsum("ky,ly->ykl", weights, weights)
    products = odd @ torch.cat([inside, inside.sum(0, keepdim=True)])
    return products.diagonal(dim1=1, dim2=2).sum(1), torch.einsum("ykl,ylk->y", products, products)


def tree_moments(
    leaves: Float[Tensor, "sites modes rank"],
    nodes: Sequence[Float[Tensor, "positions rank rank rank"]],
    root: Float[Tensor, "rank rank classes"],
    metrics: Float[Tensor, "sites modes modes"],
) -> Moments:
    """The same for a balanced tree, whose levels may have one core for all positions."""
    both = leaves.transpose(1, 2) @ metrics @ leaves
    split_off_scales(both, (1, 2))
    parts = []
    for site, shared in enumerate(both, start=1):
        four = torch.einsum("ad,bc->abcd" if site % 2 else "ab,cd->abcd", shared, shared)
        parts.append((shared, 0, four, 0))
    for level in (*nodes, root.unsqueeze(0)):
        pairs = zip(parts[0::2], parts[1::2], strict=True)
        parts = [_joined(left, right, level[min(k, len(level) - 1)]) for k, (left, right) in enumerate(pairs)]
    [top] = parts
    return _of_classes(*top)


_Part = tuple[Tensor, int, Tensor, int]  # of two copies and of four: entries and exponent


def _joined(left: _Part, right: _Part, core: Float[Tensor, "left right up"]) -> _Part:
    """What a node passes up: sum over a_i, b_i of left[a] right[b] B[a_1, b_1, c_1] ... B[a_4, b_4, c_4]."""
    (two_left, *_), (two_right, *_) = left, right
    two = torch.einsum("ab,cd,ace,bdf->ef", two_left, two_right, core, core)
    four_left, four_right = left[2], right[2]
    rank, up = core.shape[0], core.shape[2]
    of_right = four_right.reshape(rank**2, rank**2)
    four = core.new_empty(up, up, up, up)
    for c in range(up):
        once = torch.einsum("apqr,ab->bpqr", four_left, core[:, :, c])
        for d in range(up):
            twice = torch.einsum("bpqr,pe->beqr", once, core[:, :, d]).reshape(rank**2, rank**2)
            joined = (twice.T @ of_right).view(rank, rank, rank, rank)
            third = torch.einsum("qrst,qsu->rtu", joined, core)
            four[c, d] = torch.einsum("rtu,rtv->uv", third, core)
    (_, down), (_, below) = split_off_scales(two, (0, 1)), split_off_scales(four, (0, 1, 2, 3))
    return two, left[1] + right[1] + int(down), four, left[3] + right[3] + int(below)
