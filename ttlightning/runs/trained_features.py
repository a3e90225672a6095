"""The feature map in a checkpoint, as far as a certificate speaks of it."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ttlightning.errors import UserError
from ttlightning.runs.checkpoints import read_checkpoint
from ttlightning.runs.trained_networks import describe_network

OWN = tuple(f"ttlightning.{place}PatchFeatureMap" for place in ("", "networks.", "networks.features."))


class TrainedFeatures(NamedTuple):
    """f(x) = activation(weight x + bias), and 1 if ``constant``."""

    activation: str
    constant: bool
    weight: Tensor
    bias: Tensor


def read_features(file: Path) -> TrainedFeatures:
    """The feature map in a checkpoint.

    Raises:
        UserError: if the checkpoint is damaged, or its feature map is not ``PatchFeatureMap``.
    """
    content = read_checkpoint(file)
    described = describe_network(content, file).model.get("features")
    state = content["state_dict"]
    names = ("features.linear.weight", "features.linear.bias")
    if not isinstance(described, dict) or described.get("class_path") not in OWN or not all(n in state for n in names):
        raise UserError(f"{file} has a feature map that is not PatchFeatureMap, whose independence is not counted here")
    if "features.hidden.weight" in state:
        raise UserError(f"{file} has a feature map with a hidden layer, whose independence is not counted here")
    arguments = described.get("init_args") or {}
    return TrainedFeatures(
        str(arguments.get("activation", "relu")), arguments.get("constant", True) is True, *(state[n] for n in names)
    )
