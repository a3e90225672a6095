r"""The tree: scores of hierarchical Tucker, by the kernel that serves the machine.

    leaves   u_j = sum_i f_j[i] U_j[i]
    nodes    v   = sum_ab left[a] right[b] B[a, b]
    root     s_y = sum_ab left[a] right[b] R[a, b, y]                                        [K18, Fig. 2; Sec. 4]

Two kernels compute these sums:

    native_tree.py    compiled C, for a CPU with a C compiler
    torch_tree.py     torch's operations: with a gradient written by hand for GPUs and for CPUs without a compiler,
                      differentiable for transforms, tracing and derivatives of derivatives

Both split a power of two off every state of every sample and count them in an integer, see scales.py.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttlightning.formats.kernels import native
from ttlightning.formats.kernels.derivatives import by_operations
from ttlightning.formats.kernels.native_tree import NativeTree
from ttlightning.formats.kernels.scales import scale_by_power_of_two
from ttlightning.formats.kernels.torch_tree import TorchTree, tree_by_operations


def tree_scores(
    features: Float[Tensor, "batch sites modes"],
    leaves: Float[Tensor, "distinct modes rank"],
    root: Float[Tensor, "rank rank classes"],
    *nodes: Float[Tensor, "_ rank rank rank"],
) -> tuple[Float[Tensor, "batch classes"], Int[Tensor, " batch"]]:
    """Scores as ``mantissa * 2**exponent``, with one exponent per sample.

    ``nodes`` has the levels from the leaves to the root, without both. Leaves and nodes are one for each position of
    their level, or one that all positions share.

    Raises:
        UserError: if types, devices or shapes do not fit together.
    """
    if by_operations(features, leaves, root, *nodes):
        return tree_by_operations(features, leaves, root, *nodes)
    if features.device.type == "cpu" and native.kernel() is not None:
        return NativeTree.apply(False, torch.is_grad_enabled(), features, leaves, root, *nodes)
    return TorchTree.apply(features, leaves, root, *nodes)


def tree_values(features: Tensor, *cores: Tensor) -> Float[Tensor, "batch classes"]:
    """``mantissa * 2**exponent`` of ``tree_scores``; a score out of the type's range becomes 0 or inf."""
    if by_operations(features, *cores) or features.device.type != "cpu" or native.kernel() is None:
        return scale_by_power_of_two(*tree_scores(features, *cores))
    return NativeTree.apply(True, torch.is_grad_enabled(), features, *cores)[0]
