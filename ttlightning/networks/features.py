r"""The feature map, which turns a patch into the features that the weight tensor multiplies.

f(x) = sigma(A x + b), the same A and b at every site, optionally followed by a constant feature 1  [K18, Sec. 2]
f(x) = sigma(A sigma(H x + c) + b) with a hidden layer
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

VALUES: Final = 256
"""Values of a byte."""

Activation = Literal[*ACTIVATIONS]


class PatchFeatureMap(nn.Module):
    r"""``mode_size`` features of a patch, the same map for all sites: sigma(A x + b), or sigma(A sigma(H x + c) + b).

    Args:
        patch_dim: length of a vectorised patch.
        mode_size: n, the number of features, the constant one included.
        activation: sigma, applied entry by entry.
        constant: whether the last feature is 1 for every patch. The score then has terms of all degrees up to d, and a
            core whose last slice is the identity passes the state on.
        hidden: units of a hidden layer, the rows of H; ``None`` is the one layer of [K18].

    Shapes:
        patches ``(..., patch_dim)`` -> features ``(..., mode_size)``.

    Raises:
        UserError: no feature or hidden unit is left to learn, or the activation has no such name.
    """

    def __init__(
        self,
        patch_dim: int,
        mode_size: int = 17,
        activation: Activation = "relu",
        constant: bool = True,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if mode_size - constant < 1:
            raise UserError(
                f"PatchFeatureMap: mode_size is {mode_size}, it must be at least {1 + constant} (constant={constant})"
            )
        if activation not in ACTIVATIONS:
            raise UserError(f"PatchFeatureMap: activation is {activation!r}, it must be one of {tuple(ACTIVATIONS)}")
        if hidden is not None and hidden < 1:
            raise UserError(f"PatchFeatureMap: hidden is {hidden}, it must be at least 1, or null for no hidden layer")
        self.mode_size, self.activation, self.constant = mode_size, activation, constant
        self.hidden = None if hidden is None else nn.Linear(patch_dim, hidden)
        self.linear = nn.Linear(hidden or patch_dim, mode_size - constant)

    @property
    def patch_dim(self) -> int:
        """Length of a vectorised patch."""
        return self.layers()[0].in_features

    def layers(self) -> list[nn.Linear]:
        """The linear maps from patch to features, each followed by the activation."""
        return [self.linear] if self.hidden is None else [self.hidden, self.linear]

    takes_bytes = False
    """Whether patches must be bytes, and not other numbers."""

    __call__: Callable[..., Tensor]  # of nn.Module, which gives a type checker Any

    def forward(self, patches: Float[Tensor, "*batch patch_dim"]) -> Float[Tensor, "*batch modes"]:
        learned = patches
        for layer in self.layers():
            learned = ACTIVATIONS[self.activation](layer(learned))
        return F.pad(learned, (0, 1), value=1.0) if self.constant else learned

    def formula(self) -> str:
        """The map in one line, for the summary of a run."""
        layers = f"A {self.activation}(Hx + c)" if self.hidden is not None else "Ax"
        return f"{self.activation}({layers} + b)" + (", the last one constant" if self.constant else "")

    def extra_repr(self) -> str:
        return f"mode_size={self.mode_size}, activation={self.activation}, constant={self.constant}"


class ByteFeatureMap(PatchFeatureMap):
    r"""``mode_size`` features of a patch of bytes: sigma(A e(x) + b), with e(x) the bytes of x as one-hot vectors.

    A has a column for each of the 256 values of each byte of the patch. A e(x) is the sum of the columns of its bytes,
    a learned embedding: no one-hot vector is made.

    Args:
        patch_dim: bytes of a patch.
        mode_size, activation, constant: as of ``PatchFeatureMap``. Entries of A begin uniform in +-1/sqrt(patch_dim).

    Shapes:
        patches ``(..., patch_dim)``, bytes divided by 255, as ``Batch.patches`` gives them -> ``(..., mode_size)``. A
        dropped patch counts as bytes 0, which text does not have.
    """

    takes_bytes = True

    def __init__(
        self, patch_dim: int, mode_size: int = 17, activation: Activation = "identity", constant: bool = True
    ) -> None:
        super().__init__(VALUES * patch_dim, mode_size, activation, constant)
        nn.init.uniform_(self.linear.weight, -(patch_dim**-0.5), patch_dim**-0.5)

    def forward(self, patches: Float[Tensor, "*batch patch_dim"]) -> Float[Tensor, "*batch modes"]:
        position = torch.arange(patches.shape[-1], device=patches.device)
        column = (255 * patches).round().to(torch.int64) + VALUES * position
        learned = ACTIVATIONS[self.activation](F.embedding(column, self.linear.weight.T).sum(-2) + self.linear.bias)
        return F.pad(learned, (0, 1), value=1.0) if self.constant else learned


class Pixels(PatchFeatureMap):
    """The pixels themselves, f(x) = x: ``mode_size`` is ``patch_dim``, and nothing is learned.

    Shapes:
        patches ``(..., patch_dim)`` -> features ``(..., patch_dim)``.
    """

    def __init__(self, patch_dim: int) -> None:
        nn.Module.__init__(self)
        self.mode_size, self.activation, self.constant, self.hidden = patch_dim, "identity", False, None

    @property
    def patch_dim(self) -> int:
        return self.mode_size

    def layers(self) -> list[nn.Linear]:
        return []

    def forward(self, patches: Float[Tensor, "*batch patch_dim"]) -> Float[Tensor, "*batch modes"]:
        return patches

    def formula(self) -> str:
        return "the pixels themselves"
