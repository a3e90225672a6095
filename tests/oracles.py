"""Dense oracles: the complete weight tensor of each format, by code that the formats do not share."""

import torch
from tensor_ring import PlainTensorRing

from ttlightning import CanonicalPolyadic, ScoreTensor


def dense(format: ScoreTensor) -> torch.Tensor:
    """The complete weight tensor (n, ..., n, classes) of a format."""
    if (cores := format.cores()) is not None:
        return dense_chain(cores)
    if isinstance(format, PlainTensorRing):
        opened = dense_chain([torch.eye(format.rank).double().unsqueeze(0), *format.ring.transpose(1, 2)])
        return torch.einsum("x...l,lxy->...y", opened, format.closing)
    if isinstance(format, CanonicalPolyadic):
        return dense_canonical(format.factors, format.weights)
    leaves = list(format.leaves.expand(format.sites, -1, -1))
    widths = [format.sites >> level for level in range(1, format.sites.bit_length())]
    nodes = [*format.nodes, format.root.unsqueeze(0)]
    return dense_tree(leaves, [list(node.expand(w, -1, -1, -1)) for node, w in zip(nodes, widths, strict=True)])


def dense_chain(cores: list[torch.Tensor]) -> torch.Tensor:
    """The weight tensor of a tensor train: one einsum per core."""
    tensor = cores[0]
    for core in cores[1:]:
        tensor = torch.einsum("...a,aib->...ib", tensor, core)
    return tensor.squeeze(0)


def dense_canonical(factors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weight tensor of a canonical polyadic tensor: one outer product per site."""
    tensor = factors[0]
    for factor in factors[1:]:
        tensor = torch.einsum("...k,ik->...ik", tensor, factor)
    return torch.einsum("...k,ky->...y", tensor, weights)


def dense_tree(leaves: list[torch.Tensor], levels: list[list[torch.Tensor]]) -> torch.Tensor:
    """The weight tensor of a hierarchical Tucker tensor: each node joins the tensors of its two children."""
    mode_size, parts = leaves[0].shape[0], leaves
    for level in levels:
        children = zip(parts[0::2], parts[1::2], strict=True)
        parts = [
            torch.einsum("ia,jb,abc->ijc", left, right, node).flatten(0, 1)
            for (left, right), node in zip(children, level, strict=True)
        ]
    [root] = parts
    return root.reshape(*[mode_size] * len(leaves), -1)


def dense_scores(weights: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Scores (batch, classes) of features (batch, sites, modes), by the complete weight tensor."""
    rows = []
    for sample in features:
        rest = weights
        for site in sample:
            rest = torch.einsum("i,i...->...", site, rest)
        rows.append(rest)
    return torch.stack(rows)
