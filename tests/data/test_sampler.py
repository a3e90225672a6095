"""Batches: functions of (seed, epoch), sliced over devices without overlap or padding."""

from itertools import islice

import pytest
import torch
from conftest import quiet_trainer
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback

from ttlightning import Classifier, PatchDataModule
from ttlightning.data.sampler import Calls, EvaluationBatches, Shard, TrainingBatches, permutation, validation_split
from ttlightning.formats import TensorTrain
from ttlightning.networks.features import PatchFeatureMap
from ttlightning.randomness import keep_mask


def numbered(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(samples)
    return labels.reshape(-1, 1, 1).to(torch.uint8), labels


@given(samples=st.integers(1, 200), batch=st.integers(1, 40), world=st.integers(1, 4), epoch=st.integers(0, 3))
def test_devices_take_disjoint_slices_of_the_same_global_batches(samples, batch, world, epoch):
    alone = list(TrainingBatches(*numbered(samples), batch, 0, lambda: epoch, Shard()))
    shared = [list(TrainingBatches(*numbered(samples), batch, 0, lambda: epoch, Shard(w, world))) for w in range(world)]
    assert torch.equal(torch.cat([b.labels for b in alone]).sort().values, torch.arange(samples))
    for step, whole in enumerate(alone):
        parts = [device[step] for device in shared]
        assert torch.equal(torch.cat([p.labels for p in parts]), whole.labels)
        assert all(p.global_size == len(whole.labels) for p in parts)
        assert [p.start for p in parts] == [sum(len(q.labels) for q in parts[:w]) for w in range(world)]
        assert max(len(p.labels) for p in parts) - min(len(p.labels) for p in parts) <= 1


@given(samples=st.integers(1, 100), batch=st.integers(1, 30), world=st.integers(1, 4))
def test_evaluation_sees_each_sample_once(samples, batch, world):
    shards = [EvaluationBatches(*numbered(samples), batch, [Shard(w, world)]) for w in range(world)]
    seen = [b.labels for shard in shards for b in shard]
    assert torch.equal(torch.cat(seen), torch.arange(samples))
    assert all(len(shard) == len(list(shard)) for shard in shards if len(shard.labels))


def test_permutations_are_functions_of_seed_and_epoch():
    assert torch.equal(permutation(100, 1, 2), permutation(100, 1, 2))
    assert not torch.equal(permutation(100, 1, 2), permutation(100, 1, 3))
    assert not torch.equal(permutation(100, 1, 2), permutation(100, 2, 2))


def test_drawing_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    permutation(100, 0, 0)
    keep_mask(8, 16, 0.5, 0, 0, 0)
    validation_split(100, 10, 0)
    assert torch.equal(torch.get_rng_state(), before)


@given(samples=st.integers(1, 300), share=st.floats(0, 0.99), seed=st.integers(0, 100))
def test_validation_split(samples, share, seed):
    held_out = int(share * samples)
    train, validation = validation_split(samples, held_out, seed)
    assert len(validation) == held_out
    assert torch.equal(torch.cat([train, validation]).sort().values, torch.arange(samples))
    again = validation_split(samples, held_out, seed)
    assert torch.equal(again[1], validation)


def test_the_share_of_blanked_patches():
    mask = keep_mask(1000, 16, 0.2, seed=3, epoch=1, step=5)
    assert abs(mask.float().mean().item() - 0.8) < 0.01
    assert not torch.equal(mask, keep_mask(1000, 16, 0.2, seed=3, epoch=1, step=6))


@given(samples=st.integers(1, 100), batch=st.integers(1, 30), exponent=st.integers(0, 2))
def test_microbatches_cut_the_same_batches_on_any_number_of_devices(samples, batch, exponent):
    def cuts(world: int) -> list[list[int]]:
        return [
            part.labels.tolist()
            for rank in range(world)
            for part in EvaluationBatches(*numbered(samples), batch, Shard(rank, world).cut(4))
        ]

    assert cuts(2**exponent) == cuts(1)

    def slices(world: int) -> list[list[int]]:
        [whole] = TrainingBatches(*numbered(samples), samples, 0, lambda: 0, Shard())
        devices = [
            next(iter(TrainingBatches(*numbered(samples), samples, 0, lambda: 0, Shard(w, world))))
            for w in range(world)
        ]
        assert sum(len(device.labels) for device in devices) == len(whole.labels)
        return [
            device.slice_of(piece).labels.tolist()
            for rank, device in enumerate(devices)
            for piece in Shard(rank, world).cut(4)
        ]

    assert slices(2**exponent) == slices(1)


@given(samples=st.integers(1, 60), batch=st.integers(1, 12), size=st.integers(1, 4), data=st.data())
def test_an_interrupted_epoch_continues_with_the_next_batch(samples, batch, size, data):
    """Batches given out before and after are those of a pass that was not interrupted; the next epoch starts anew."""

    def batches() -> tuple[TrainingBatches, Calls]:
        made = TrainingBatches(*numbered(samples), batch, 7, lambda: epoch[0], Shard())
        return made, Calls(made, size)

    epoch = [3]
    _, whole = batches()
    labels = [[part.labels.tolist() for part in call] for call in whole]
    stop = data.draw(st.integers(0, len(labels)))
    _, interrupted = batches()
    given_out = iter(interrupted)
    before = [[part.labels.tolist() for part in next(given_out)] for _ in range(stop)]
    state = interrupted.state_dict()
    _, resumed = batches()
    if stop:
        resumed.load_state_dict(state)
    if stop == len(labels):  # the epoch was over
        epoch[0] = 4
        _, fresh = batches()
        assert [[p.labels.tolist() for p in c] for c in resumed] == [[p.labels.tolist() for p in c] for c in fresh]
    else:
        assert before + [[part.labels.tolist() for part in call] for call in resumed] == labels
        assert [[part.labels.tolist() for part in call] for call in resumed] == labels  # once only


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(("limit", "same"), [("overfit_batches", True), ("limit_train_batches", False)])
def test_overfitting_shows_the_same_batches_in_every_epoch(tmp_path, write_mnist, size, limit, same):
    """``overfit_batches`` does, to the order; ``limit_train_batches`` shows as many, and others."""
    data = PatchDataModule("mnist", write_mnist(tmp_path), patch_size=14, batch_size=16, steps_per_execution=size)
    model = Classifier(data.sites, data.patch_dim, data.classes, PatchFeatureMap, TensorTrain, steps_per_execution=size)
    seen = []

    class Watch(Callback):
        def on_train_epoch_start(self, trainer, module):
            seen.append([])

        def on_train_batch_start(self, trainer, module, batch, index):
            seen[-1].append(batch.patches)  # who looks at steps has a call for each

    quiet_trainer(tmp_path, max_epochs=3, callbacks=[Watch()], **{limit: 2}).fit(model, datamodule=data)
    assert [len(epoch) for epoch in seen] == [2] * 3
    first, second, third = (torch.cat(epoch) for epoch in seen)
    assert torch.equal(first, second) == torch.equal(second, third) == torch.equal(first, third) == same
    whole = PatchDataModule("mnist", data.root, patch_size=14, batch_size=16)
    whole.setup("fit")
    assert torch.equal(first, torch.cat([batch.patches for batch in islice(whole.train_dataloader(), 2)]))
