"""A user's program over the public face, which a type checker accepts and whose types it knows."""

from pathlib import Path
from typing import assert_type

import torch
from torch import Tensor, nn

import ttlightning
from ttlightning import (
    ByteFeatureMap,
    CanonicalPolyadic,
    Classifier,
    EqualCoreTensorTrain,
    HierarchicalTucker,
    PatchDataModule,
    PatchFeatureMap,
    Pixels,
    ScoreFunction,
    ScoreTensor,
    SharedHierarchicalTucker,
    TensorTrain,
    UserError,
)
from ttlightning.formats.bounds import generic_odd_even_rank
from ttlightning.networks.network import Network
from ttlightning.rank.unfolding import matricization
from ttlightning.runs.run import Run

KINDS: list[type[ScoreTensor]] = [CanonicalPolyadic, HierarchicalTucker, SharedHierarchicalTucker, TensorTrain]

weights = EqualCoreTensorTrain(sites=6, mode_size=3, classes=10, rank=2, initialization="gaussian")
module: nn.Module = weights
assert_type(weights(torch.randn(5, 6, 3)), Tensor)
assert_type(weights.rank, int)
assert_type(weights.parameter_count(), int)
assert_type(matricization(weights), Tensor)
assert_type(generic_odd_even_rank(3, 2, 6), int)


class Pairs(ScoreTensor):
    """A format of the user's."""

    @property
    def rank(self) -> int:
        return 1

    def scaled_scores(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features.sum((1, 2)).unsqueeze(-1), torch.zeros(features.shape[0], 1)


def accuracy(path: str, images: Tensor, labels: Tensor) -> float:
    try:
        network = ttlightning.load(path)
    except UserError as mistake:
        raise SystemExit(str(mistake)) from mistake
    assert_type(network, Network)
    return float((network.score_images(images).argmax(1) == labels).float().mean())


data = PatchDataModule("moons", patch_size=1)
model = Classifier(data.sites, data.patch_dim, data.classes)
features = PatchFeatureMap(49, mode_size=17)
maps: list[PatchFeatureMap] = [features, ByteFeatureMap(2, mode_size=5), Pixels(49)]
function: ScoreFunction = weights
assert_type(function.weight_tensor(), ScoreTensor | None)
assert_type(features(torch.rand(2, 49)), Tensor)
assert_type(ttlightning.__version__, str)


def commands(images: Tensor) -> None:
    """The commands as functions."""
    run = ttlightning.fit("debug.yaml", {"trainer.max_epochs": 1}, experiment="mine")
    assert_type(run, Run | None)
    assert run is not None
    assert_type(ttlightning.fit_model(model, data, experiment="made"), Run | None)
    assert_type(ttlightning.test(run), dict[str, float])
    assert_type(ttlightning.validate(run), dict[str, float])
    assert_type(ttlightning.predict(run, "digits"), Tensor)
    assert_type(ttlightning.load(run).predict(images), Tensor)
    assert_type(ttlightning.rerun(run).verdict, str)
    ttlightning.compare([run])
    ttlightning.certify(run, "certificate.json")
    assert_type(ttlightning.verify("certificate.json"), str)
    assert_type(ttlightning.export(run, "onnx"), Path)
