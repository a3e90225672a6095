r"""Orthogonalized steps for cores: every slice of a core is a matrix, and so is every linear map.

M <- mu M + grad,   N = grad + mu M,   W <- (1 - lr * weight_decay) W - lr * 0.2 sqrt(max(p, q)) polar(N)

on each p x q matrix, the last two axes of a parameter: a slice G_k[i] of an interior core, the first core F, a slice
L[i] of the last core. polar(N) = U V^T for N = U S V^T is the steepest step in the spectral norm; five iterations
X <- a X + b (X X^T) X + c (X X^T)^2 X bring the singular values of N / |N| near 1 without a decomposition.
[Jordan et al., Muon, 2024; the factor 0.2 sqrt(max(p, q)) of Liu et al., arXiv 2502.16982, gives entries the size of a
step of Adam.] Vectors take a step of AdamW.

A change of gauge by orthogonal matrices, G_k[i] -> Q_{k-1}^T G_k[i] Q_k, does not change the tensor. Steps commute
with it, because polar(P^T N Q) = P^T polar(N) Q. Those of Adam, which treat every entry by itself, do not.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
ITERATIONS: Final = 5


def polar(matrices: Float[Tensor, "*many rows columns"]) -> Float[Tensor, "*many rows columns"]:
    """U V^T of each matrix, with singular values between about 0.7 and 1.2 instead of 1; a matrix of zeros stays so."""
    transposed = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if transposed else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + torch.finfo(x.dtype).tiny)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if transposed else x


class CoreMuon(Optimizer):
    r"""Muon on the last two axes of every parameter, AdamW on vectors: the formula is on top of this file.

    Args:
        params: parameters, or groups of them.
        lr: learning rate, of matrices and of vectors.
        weight_decay: decay of matrices; vectors have none.
        momentum: mu.
        betas: of AdamW, for vectors.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 2e-3,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        for name, value, limit in (
            ("lr", lr, float("inf")),
            ("weight_decay", weight_decay, float("inf")),
            ("momentum", momentum, 1),
            ("betas[0]", betas[0], 1),
            ("betas[1]", betas[1], 1),
        ):
            if not 0 <= value < limit:
                raise ValueError(f"{name} is {value}, it must be at least 0 and below {limit}")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": tuple(betas)})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; ``closure`` evaluates the loss again, if it is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    (self._matrix_step if parameter.ndim > 1 else self._vector_step)(parameter, group)
        return loss

    def _matrix_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, lr = self.state[parameter], group["lr"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(parameter.grad)
        direction = polar(parameter.grad + group["momentum"] * buffer)
        parameter.mul_(1 - lr * group["weight_decay"])
        parameter.add_(direction, alpha=-lr * 0.2 * max(parameter.shape[-2:]) ** 0.5)

    def _vector_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, (beta, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float64)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        count = int(state["step"])
        mean = state["exp_avg"].lerp_(parameter.grad, 1 - beta) / (1 - beta**count)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(parameter.grad, parameter.grad, value=1 - beta2)
        parameter.addcdiv_(mean, (square / (1 - beta2**count)).sqrt_().add_(1e-8), value=-group["lr"])
