"""A format's methods with its parameters in float64, or with their absolute values."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ttlightning.formats import ScoreTensor


class _Methods(nn.Module):
    """A format's methods as a module's forward, for ``functional_call`` with other parameters.

    A copy of the format is no substitute, because hooks of a profiler or a user cannot be copied.
    """

    def __init__(self, format: ScoreTensor) -> None:
        super().__init__()
        self.format = format

    def forward(self, method: str, *tensors: Tensor) -> Any:
        return getattr(self.format, method)(*tensors)


@torch.no_grad()
def in_float64(format: ScoreTensor, method: str, *tensors: Tensor, absolute: bool = False) -> Any:
    """What a method gives for the parameters and tensors in float64 on the CPU, which is exact.

    ``absolute``: for the absolute values of all of them.
    """
    methods = _Methods(format)
    own = {**dict(methods.named_parameters()), **dict(methods.named_buffers())}

    def exact(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().to(device="cpu", dtype=torch.float64)
        return tensor.abs() if absolute else tensor

    parameters = {name: exact(tensor) for name, tensor in own.items()}
    return functional_call(methods, parameters, (method, *map(exact, tensors)))
