"""The help of the verbs with a trainer on one screen; Lightning's own has 900 lines and takes seconds to import.

``fit --help`` prints this, ``fit --help all`` every option.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from ttlightning.commands import WITH_TRAINER
from ttlightning.system.output import columns

ONLY_FIT: Final = ("Network", "Training", "Run")
"""Groups that the other verbs leave out: what they say of them is in the checkpoint."""

GROUPS: Final[Mapping[str, Mapping[str, str]]] = {
    "Recipe and weights": {
        "--config FILE": "eq.yaml, tt.yaml, debug.yaml, ...; later ones override, options override all",
        "--ckpt_path RUN": "a run, a checkpoint, a released name or last; fit continues or begins with it",
        "--trust NAME": "a class of yours in a checkpoint, which may be imported",
    },
    "Data": {
        "--data.dataset NAME": "mnist, fashion_mnist, cifar10, mnist5k, moons, image_folder, text, ...",
        "--data.root FOLDER": "where the data are, or are downloaded to",
        "--data.patch_size P": "an image becomes a chain of patches of P x P pixels",
        "--data.batch_size B": "of all devices together",
    },
    "Network": {
        "--model.format NAME": "EqualCoreTensorTrain, TensorTrain, CanonicalPolyadic, HierarchicalTucker, ...",
        "--model.format.rank R": "the width",
        "--model.features.mode_size N": "features of a patch",
    },
    "Training": {
        "--model.optimizer NAME": "a class of torch, or CoreMuon",
        "--model.optimizer.lr X": "the learning rate",
        "--trainer.max_epochs E": "and every other option of Lightning's Trainer",
        "--trainer.devices D": "the batch is cut into equal slices",
        "--seed_everything S": "the key of every random choice",
    },
    "Run": {
        "--run FOLDER": "makes or continues exactly this run; default: runs/CONFIG/NUMBER",
        "--wandb.mode online": "uploads to W&B; default: offline. --wandb false records nothing",
        "--print_config": "prints the complete configuration and ends",
    },
}
"""Group: option with the kind of its value, and what it does."""

OF_PREDICT: Final = {
    "--images FILES": "PNG, JPEG, folders of them, IDX files",
    "--output FILE": "the CSV file, predictions.csv",
}


def groups_of(verb: str) -> dict[str, Mapping[str, str]]:
    """The groups of options that the help of a verb shows."""
    shown = {title: options for title, options in GROUPS.items() if verb == "fit" or title not in ONLY_FIT}
    return shown | ({"Images": OF_PREDICT} if verb == "predict" else {})


def short_help(verb: str) -> str:
    """The text of ``python -m ttlightning VERB --help``, in 80 columns."""
    example = "--config eq.yaml" if verb == "fit" else "--ckpt_path runs/eq/0"
    lines: list[str] = [f"usage: python -m ttlightning {verb} {example} [options]", "", WITH_TRAINER[verb]]
    for title, options in groups_of(verb).items():
        lines += ["", f"{title}:", *columns(options, indent=2)]
    lines += ["", f"python -m ttlightning {verb} --help all shows every option."]
    return "\n".join(lines)


def wants_short_help(words: Sequence[str]) -> bool:
    """Whether the words after a verb ask for this help, and not for ``--help all`` or with a configuration."""
    return list(words) in (["-h"], ["--help"])


def full_help(words: Sequence[str]) -> list[str]:
    """The words with ``--help`` for ``--help all``, which Lightning's parser knows."""
    return ["--help"] if list(words) == ["--help", "all"] else list(words)
