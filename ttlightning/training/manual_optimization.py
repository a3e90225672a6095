"""Several optimizer steps in one call of ``training_step``, by Lightning's manual optimization.

One step in a call is Lightning's automatic optimization, which computes the same bits.
"""

from collections.abc import Sequence

from lightning.pytorch import LightningModule

from ttlightning.data.sampler import Batch
from ttlightning.training.metrics import Outcome


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
        loss, outcome = model.training_loss(batch)
        model.manual_backward(loss)
        outcomes.append(outcome)
        optimizer.step()
        if scheduler is not None and model.scheduler_interval == "step":
            scheduler.step()
    return outcomes
