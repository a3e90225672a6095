r"""The gradient of a global batch as a sum of V parts, whose order does not depend on the number of devices.

loss = (1 / B) sum_v l_v,   grad = sum_v (d loss / d l_v) grad l_v,   v = 1 ... V,   added as ((1 + 2) + (3 + 4)) + ...

``l_v`` is the sum of the samples' losses in slice v. The trainer may scale the loss, for accumulation or for float16:
d loss / d l_v has its factor.
"""

from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from ttlightning.data.sampler import Batch, Shard
from ttlightning.training.metrics import Outcome


class Parts(NamedTuple):
    """The slices of this device."""

    losses: list[Tensor]
    """l_v, with their graphs."""
    values: Tensor
    """The same numbers as a leaf, of which the loss is a function."""
    global_size: int


def split_loss(model: LightningModule, batch: Batch) -> tuple[Tensor, Parts, Outcome]:
    """This device's share of the loss, times the number of devices; its slices; the input of the metrics."""
    own = model.microbatches // model.trainer.world_size
    first = own * model.trainer.global_rank
    losses, outcomes = [], []
    for index in range(first, first + own):
        part, outcome = model._losses(batch.slice_of(Shard(index, model.microbatches)))
        losses.append(part)
        outcomes.append(outcome)
    values = torch.stack([part.detach() for part in losses]).requires_grad_()
    loss = values.sum() * (model.trainer.world_size / batch.global_size)
    sums, scores, labels = zip(*outcomes, strict=True)
    outcome = Outcome(torch.stack(sums).double().sum(), torch.cat(scores), torch.cat(labels))
    return loss, Parts(losses, values, batch.global_size), outcome


def backward(model: LightningModule, loss: Tensor, parts: Parts) -> None:
    """Add the gradient of the global batch to ``grad`` of every parameter, on every device the same bits."""
    world = model.trainer.world_size
    (factors,) = torch.autograd.grad(loss, parts.values)
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for part, factor in zip(parts.losses, factors / world, strict=True):
        gradients = torch.autograd.grad(part, parameters, factor)
        rows.append(torch.cat([part.detach().reshape(1), *(g.reshape(-1) for g in gradients)]))
    table = torch.stack(rows)
    if world > 1:
        table = model.all_gather(table).flatten(0, 1)
    while len(table) > 1:
        table = table[0::2] + table[1::2]
    total, *gradients = table[0].split([1, *(p.numel() for p in parameters)])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        gradient = gradient.view_as(parameter)
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    model.log_step(total[0] / parts.global_size)
