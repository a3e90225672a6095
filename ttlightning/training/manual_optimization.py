"""Optimizer steps in Lightning's manual optimization: several in one call of ``training_step``, or of microbatches.

One step in a call is Lightning's automatic optimization, which computes the same bits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from ttlightning.data.sampler import Batch, Shard


class Outcome(NamedTuple):
    """Input of the metrics from one batch."""

    losses: Tensor
    """Sum of the samples' losses."""
    scores: Tensor
    labels: Tensor


def make_steps(model: LightningModule, batches: Sequence[Batch], first_step: int) -> list[Outcome]:
    """One optimizer step of a ``Classifier`` for each batch, up to ``trainer.max_steps``.

    ``first_step`` is the number of the first batch in its epoch, from 0.
    """
    optimizer, scheduler = model.optimizers(), model.lr_schedulers()
    outcomes: list[Outcome] = []
    for step, batch in enumerate(batches, start=first_step):
        if model.trainer.global_step == model.trainer.max_steps:
            break
        model.check_position(batch, step)
        optimizer.zero_grad()
        if model.microbatches == 1:
            loss, outcome = model.training_loss(batch)
            model.manual_backward(loss)
            outcomes.append(outcome)
        else:
            outcomes += _backward_of_microbatches(model, batch)
        optimizer.step()
        if scheduler is not None and model.scheduler_interval == "step":
            scheduler.step()
    return outcomes


def _backward_of_microbatches(model: LightningModule, batch: Batch) -> list[Outcome]:
    """The gradient as a sum of V parts, added as a binary tree, so that it does not depend on the number of devices.

    grad = (1 / B) sum_v grad_v,   v = 1, ..., V,   added as ((1 + 2) + (3 + 4)) + ...
    """
    own = model.microbatches // model.trainer.world_size
    first = own * model.trainer.global_rank
    parameters, rows, outcomes = list(model.parameters()), [], []
    for index in range(first, first + own):
        losses, outcome = model._losses(batch.slice_of(Shard(index, model.microbatches)))
        gradients = torch.autograd.grad(losses / batch.global_size, parameters)
        rows.append(torch.cat([losses.detach().reshape(1), *(g.reshape(-1) for g in gradients)]))
        outcomes.append(outcome)
    table = torch.stack(rows)
    if model.trainer.world_size > 1:
        table = model.all_gather(table).flatten(0, 1)
    while len(table) > 1:
        table = table[0::2] + table[1::2]
    loss, *gradients = table[0].split([1, *(p.numel() for p in parameters)])
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.view_as(parameter)
    model.log_step(loss[0] / batch.global_size)
    return outcomes
