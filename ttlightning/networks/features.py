r"""The feature map, which turns a patch into the features that the weight tensor multiplies.

f(x) = sigma(A x + b), the same A and b at every site, optionally followed by a constant feature 1  [K18, Sec. 2]
"""

from collections.abc import Callable
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ttlightning.errors import UserError

ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "cos": torch.cos,
    "identity": lambda z: z,
}

Activation = Literal[*ACTIVATIONS]


class PatchFeatureMap(nn.Module):
    r"""``mode_size`` features of a patch, the same map for all sites: sigma(A x + b).

    Args:
        patch_dim: length of a vectorised patch.
        mode_size: n, the number of features, the constant one included.
        activation: sigma, applied entry by entry.
        constant: whether the last feature is 1 for every patch. The score then has terms of all degrees up to d, and a
            core whose last slice is the identity passes the state on.

    Shapes:
        patches ``(..., patch_dim)`` -> features ``(..., mode_size)``.

    Raises:
        UserError: no feature is left to learn, or the activation has no such name.
    """

    def __init__(
        self, patch_dim: int, mode_size: int = 17, activation: Activation = "relu", constant: bool = True
    ) -> None:
        super().__init__()
        if mode_size - constant < 1:
            raise UserError(
                f"PatchFeatureMap: mode_size is {mode_size}, it must be at least {1 + constant} (constant={constant})"
            )
        if activation not in ACTIVATIONS:
            raise UserError(f"PatchFeatureMap: activation is {activation!r}, it must be one of {tuple(ACTIVATIONS)}")
        self.mode_size, self.activation, self.constant = mode_size, activation, constant
        self.linear = nn.Linear(patch_dim, mode_size - constant)

    __call__: Callable[..., Tensor]  # of nn.Module, which gives a type checker Any

    def forward(self, patches: Float[Tensor, "*batch patch_dim"]) -> Float[Tensor, "*batch modes"]:
        learned = ACTIVATIONS[self.activation](self.linear(patches))
        return F.pad(learned, (0, 1), value=1.0) if self.constant else learned

    def formula(self) -> str:
        """The map in the line that ``fit`` prints."""
        return f"{self.activation}(Ax + b)" + (", the last one constant" if self.constant else "")

    def extra_repr(self) -> str:
        return f"mode_size={self.mode_size}, activation={self.activation}, constant={self.constant}"


class Pixels(PatchFeatureMap):
    """The pixels themselves, f(x) = x: ``mode_size`` is ``patch_dim``, and nothing is learned.

    Shapes:
        patches ``(..., patch_dim)`` -> features ``(..., patch_dim)``.
    """

    def __init__(self, patch_dim: int) -> None:
        nn.Module.__init__(self)
        self.mode_size, self.activation, self.constant = patch_dim, "identity", False

    def forward(self, patches: Float[Tensor, "*batch patch_dim"]) -> Float[Tensor, "*batch modes"]:
        return patches

    def formula(self) -> str:
        return "the pixels themselves"
