"""``fit`` of a network and data that were made in Python: the command line, which takes them instead of making them.

The objects are described in plain values, which become the options of ``fit``. The command line makes the network from
them once more: only if that has the same weights does config.yaml repeat the run.
"""

from collections.abc import Sequence
from typing import Any

import yaml

from ttlightning.commands.cli import CLI, Parser
from ttlightning.errors import UserError
from ttlightning.runs.checkpoints import weights_sha256
from ttlightning.runs.trust import take_trusted, trusting
from ttlightning.training.callbacks.run_directory import RunDirectory
from ttlightning.training.classifier import Classifier
from ttlightning.training.datamodule import PatchDataModule
from ttlightning.training.descriptions import describe_data, describe_model
from ttlightning.training.faults import own_exceptions
from ttlightning.training.quiet import quiet_libraries

SHARED = ("seed", "steps_per_execution", "microbatches")
"""Arguments that network and data have in common."""


def fit_given(model: Classifier, data: PatchDataModule, words: Sequence[str]) -> CLI:
    """Train ``model`` on ``data`` with these options of ``fit``.

    Raises:
        UserError: also if the objects do not fit together, or no configuration describes them.
    """
    _check(model, data)
    given = {f"model.{name}": value for name, value in describe_model(model).items()}
    given |= {f"data.{name}": value for name, value in describe_data(data).items()}
    if data.own is not None:  # the parser knows named data only; ``_dump`` puts the name in
        given = {name: value for name, value in given.items() if name != "data.dataset"}
    given["seed_everything"] = model.seed
    texts = {name: yaml.safe_dump(value, default_flow_style=True, width=10**6) for name, value in given.items()}
    for word in words:
        name = word.removeprefix("--").partition("=")[0]
        if name.startswith(("model.", "data.")) or name == "seed_everything":
            raise UserError(f"{name} is an argument of the network or of the data: make them with it")
    options = [f"--{name}={text.removesuffix('...' + chr(10)).strip()}" for name, text in texts.items()]

    class Given(CLI):
        """The command line with these objects."""

        def add_arguments_to_parser(self, parser: Parser) -> None:
            super().add_arguments_to_parser(parser)
            parser.add_instantiator(lambda kind, **_: data, PatchDataModule, prepend=True)
            parser.add_instantiator(_taking(model), Classifier, prepend=True)

        def _dump(self, options: Any) -> str:
            text = super()._dump(options)
            if data.own is None:
                return text
            content = yaml.safe_load(text)
            content["data"]["dataset"] = data.dataset
            return yaml.safe_dump(content, sort_keys=False)

        def _make_run_directory(self, options: Any) -> RunDirectory:
            directory = super()._make_run_directory(options)
            if data.own is not None:
                directory.way_on = "ttlightning.fit_model(model, data, run={!r}), with the model made anew"
            return directory

        def before_fit(self) -> None:
            super().before_fit()
            if data.own is not None and not data.own.images.test.labels.numel():
                self.config.fit.test_after_fit = False

    rest, names = take_trusted(words)
    with quiet_libraries(), trusting(names), own_exceptions():
        return Given(["fit", *options, *rest])


def _check(model: Any, data: Any) -> None:
    """Check the kinds of the objects, and the arguments that they have in common."""
    if type(model) is not Classifier or type(data) is not PatchDataModule:
        raise UserError(
            f"fit_model takes a Classifier and a PatchDataModule, which config.yaml can describe, got "
            f"{type(model).__name__} and {type(data).__name__}; lightning.Trainer trains any"
        )
    for name in SHARED:
        if getattr(model, name) != getattr(data, name):
            raise UserError(
                f"{name} is {getattr(model, name)} in the network and {getattr(data, name)} in the data: a run has one"
            )
    sizes = [(model.format.sites, model.patch_dim, model.format.classes), (data.sites, data.patch_dim, data.classes)]
    if sizes[0] != sizes[1]:
        raise UserError(f"sites, patch_dim and classes are {sizes[0]} in the network and {sizes[1]} in the data")


def _taking(model: Classifier) -> Any:
    """An instantiator that gives ``model``; ``UserError`` where the configuration makes another network."""

    def instantiate(kind: type[Classifier], **arguments: Any) -> Classifier:
        if weights_sha256(kind(**arguments).state_dict()) != weights_sha256(model.state_dict()):
            raise UserError(
                f"the weights of the network are not those that its arguments and seed {model.seed} give, so that "
                "config.yaml could not repeat the run: make it anew; fit(ckpt_path=...) trains a trained one on"
            )
        return model

    return instantiate
