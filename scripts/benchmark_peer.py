"""TensorKrowch's networks with the sizes and numbers of ours, for scripts/benchmark.py."""

import functools
import itertools
import warnings

import torch
from torch import nn

from ttlightning import HierarchicalTucker

Case = tuple[int, int, int, int]
"""Modes n, rank r, batch, sites d."""
CLASSES = 10
MODES_OF_PEER = list(itertools.product((True, False), repeat=2))  # auto_stack, auto_unbind
DEFAULT_MODE = (True, False)


def peer_chain(
    case: Case,
    kind: str,
    auto_stack: bool,
    auto_unbind: bool,
    middle: bool = False,
    traced: bool = True,
    **inline: bool,
) -> nn.Module:
    """TensorKrowch's chain with the output at its end or in its ``middle``; ``inline`` has options of ``forward``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorkrowch

    mode_size, rank, _, sites = case
    layer = tensorkrowch.models.UMPSLayer if kind == "equal" else tensorkrowch.models.MPSLayer
    options = {"in_dim": mode_size, "out_dim": CLASSES, "bond_dim": rank, "init_method": "randn_eye", "std": 1e-3}
    chain = layer(n_features=sites + 1, out_position=sites // 2 if middle else sites, **options)
    chain.auto_stack, chain.auto_unbind = auto_stack, auto_unbind
    if traced:
        with torch.no_grad():
            chain.trace(torch.zeros(1, sites, mode_size), **inline)
    chain.forward = functools.partial(chain.forward, **inline)
    return chain


def peer_tree(case: Case, ours: HierarchicalTucker, auto_stack: bool, auto_unbind: bool, inline: bool) -> nn.Module:
    """TensorKrowch's tree with the parameters of ours."""
    import tensorkrowch

    mode_size, rank, _, sites = case
    nodes = [sites >> level for level in range(1, sites.bit_length())]
    bonds = [[mode_size, rank], *([rank] * 3 for _ in nodes[1:]), [rank, rank, CLASSES]]
    tree = tensorkrowch.models.Tree([sites, *nodes], bonds)
    for layer, values in zip(tree.layers, (ours.leaves, *ours.nodes, ours.root.unsqueeze(0)), strict=True):
        for node, value in zip(layer, values, strict=True):
            node.tensor = value.detach().clone()
    tree.auto_stack, tree.auto_unbind = auto_stack, auto_unbind
    with torch.no_grad():
        tree.trace(torch.zeros(1, sites, mode_size), inline=inline)
    tree.forward = functools.partial(tree.forward, inline=inline)
    return tree
