"""The verbs of the command line as functions, for notebooks and scripts; ``fit_model`` for objects made in Python.

A mistake is a ``UserError``, a fault a ``Fault``. Ctrl-C is a ``KeyboardInterrupt``, after a checkpoint where training
has begun. Signal handlers, random numbers, threads and settings of torch are afterwards as they were.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace

from ttlightning.commands.arguments import words_of
from ttlightning.commands.surroundings import as_it_was
from ttlightning.errors import UserError
from ttlightning.runs.run import Run
from ttlightning.system.extras import needed_by

if TYPE_CHECKING:
    from torch import Tensor

    from ttlightning.commands.rerun import Comparison as Verdict
    from ttlightning.comparison.statistics import Comparison
    from ttlightning.rank.certificates import Certificate
    from ttlightning.training.classifier import Classifier
    from ttlightning.training.datamodule import PatchDataModule

Source = str | Path | Run
"""A run, its directory, or a checkpoint file."""

Options = Mapping[str, Any]
"""Options of a command without the dashes: ``{"trainer.max_epochs": 1, "model.format": "TensorTrain"}``."""


def fit(
    config: str | Path | Sequence[str | Path] = (),
    options: Options | None = None,
    *,
    experiment: str | None = None,
    run: str | Path | None = None,
    ckpt_path: Source | None = None,
    trust: Sequence[str] = (),
) -> Run | None:
    """Train a network as ``python -m ttlightning fit`` does, with the same run directory.

        run = ttlightning.fit("eq.yaml", {"trainer.max_epochs": 1})

    Args:
        config: names or paths of configs; later ones override earlier ones.
        options: options of the command; they override the configs.
        experiment: name of the run's folder; default the names of the configs.
        run: directory of the run, which is made or goes on.
        ckpt_path: run or checkpoint that training goes on from.
        trust: classes and modules that the configuration of ``ckpt_path`` may import.

    Returns:
        The run; None if the trainer was asked to keep nothing (``fast_dev_run``, ``barebones``).

    Raises:
        UserError: a mistake in what was asked for; nothing is written.
        Fault: something went wrong in the run, whose last checkpoint is kept.
    """
    named = {"experiment": experiment, "run": run, "ckpt_path": ckpt_path}
    return _run_of(_called("fit", config, options, named, trust))


def fit_model(
    model: "Classifier",
    data: "PatchDataModule",
    options: Options | None = None,
    *,
    experiment: str = "model",
    run: str | Path | None = None,
    trust: Sequence[str] = (),
) -> Run | None:
    """Train a network that was made in Python, with the run directory of ``fit``.

        run = ttlightning.fit_model(model, data, {"trainer.max_epochs": 2}, experiment="mine")

    config.yaml describes the objects and repeats the run. If the data were given in Python, it holds their name, and
    ``fit`` with it is refused. ``run`` goes on with a stopped run, with the model made anew.

    Raises:
        UserError: also if config.yaml could not describe the model: a subclass, a lambda as optimizer, weights that are
            not those of its seed.
    """
    from ttlightning.commands.given import fit_given

    with as_it_was():
        return _run_of(fit_given(model, data, words_of(options, {"experiment": experiment, "run": run}, trust)))


def validate(source: Source, options: Options | None = None, *, trust: Sequence[str] = ()) -> dict[str, float]:
    """Metrics of a trained network on the validation set, such as ``val/acc``."""
    return _metrics_of(_called("validate", (), options, {"ckpt_path": source}, trust))


def test(source: Source, options: Options | None = None, *, trust: Sequence[str] = ()) -> dict[str, float]:  # noqa: PT028
    """Metrics of a trained network on the test set, such as ``test/acc``."""
    return _metrics_of(_called("test", (), options, {"ckpt_path": source}, trust))


test.__test__ = False  # type: ignore[attr-defined]  # for pytest, where it is imported by name


def predict(
    source: Source,
    images: str | Path | Sequence[str | Path] | None = None,
    output: str | Path = "predictions.csv",
    options: Options | None = None,
    *,
    trust: Sequence[str] = (),
) -> "Tensor":
    """Probabilities ``(samples, classes)`` of image files, or of the test set; and the CSV file that the verb writes.

    For arrays of images: ``ttlightning.load(source).predict(images)``.
    """
    several = isinstance(images, Sequence) and not isinstance(images, str)
    files = [str(path) for path in images] if several else images
    named = {"ckpt_path": source, "images": files, "output": output}
    return _called("predict", (), options, named, trust).trainer.probabilities


def rerun(source: Source, root: str | Path | None = None, *, trust: Sequence[str] = ()) -> "Verdict":
    """Run a finished run again, in a process of its own; ``verdict`` is "bitwise identical" if nothing differs.

    Args:
        root: folder of the data sets, if not that of the run.

    Raises:
        Fault: the second run did not end.
    """
    from ttlightning.commands.rerun import run_again

    with as_it_was():
        return run_again(Path(source), root and Path(root), trust)


def compare(
    runs: Source | Sequence[Source] = (), *, wandb: str | None = None, mixed_data: bool = False
) -> "Comparison":
    """Finished runs side by side: groups over seeds, and paired tests between them.

    ``ttlightning.comparison.tables.markdown`` makes the table that the verb prints.

    Args:
        runs: run directories, folders of them, or patterns such as ``runs/eq*/[0-2]``.
        wandb: entity/project at Weights & Biases.
        mixed_data: whether runs of different data may be compared.
    """
    from ttlightning.commands.compare import collect
    from ttlightning.comparison import statistics

    names = [runs] if isinstance(runs, str | Path | Run) else runs
    return statistics.compare(collect([str(name) for name in names], wandb, curves=True), mixed_data)


def certify(
    source: Source,
    output: str | Path | None = None,
    *,
    sampled: int | None = None,
    width: int | None = None,
    images: Sequence[str | Path] = (),
    features: bool = False,
    length: int | None = None,
    seed: int = 0,
    trust: Sequence[str] = (),
) -> "Certificate":
    """A certificate of the rank of a trained network; written to ``output`` if one is named.

    Args:
        sampled: K, from K x K scores instead of the staircase.
        width: K, the width within an error of the scores on K x K mixed images; it needs ``output``.
        images: pictures for ``width``, in place of the run's test set.
        features: also that the network's features are linearly independent, so that the bound is about functions.
        length: sites of the sequences that the certificate speaks of, for equal cores; default the longest.
        seed: seed of the sampled features.
    """
    from ttlightning.commands.certify import prepare
    from ttlightning.commands.parser import check_new_file
    from ttlightning.rank.certificates.files import write_certificate

    if width is not None and output is None:
        raise UserError("a certificate of width is written beside its images: name a file as output")
    asked = dict.fromkeys(("mode_size", "rank", "sites")) | {"sampled": sampled, "seed": seed}
    asked |= {"width": width, "images": [Path(image) for image in images], "features": features, "length": length}
    file, make = prepare(Namespace(source=Path(source), output=output and Path(output), **asked), trust)
    if output is not None:
        check_new_file(file, "output")
    certificate = make()
    if output is not None:
        write_certificate(file, certificate)
    return certificate


def export(
    source: Source, to: Literal["onnx", "pt2"], output: str | Path | None = None, *, trust: Sequence[str] = ()
) -> Path:
    """Write a trained network to a file that ONNX runtimes or torch alone run, as the verb does; the file's path.

    Args:
        output: file to write; default beside the checkpoint's run.
    """
    from ttlightning.commands.export import export as write

    with needed_by("ttlightning.export"):
        return write(Path(source), to, output and Path(output), trust)


def verify(file: str | Path, checkpoint: Source | None = None) -> str:
    """The statement of a certificate that holds.

    Raises:
        Rejected: a claim of it is false.
        UserError: it is no certificate, or its network cannot be read.
    """
    from ttlightning.commands.verify import judge
    from ttlightning.rank.verifier.claims import Rejected, read_certificate

    code, line = judge(Path(file), checkpoint and Path(checkpoint))
    if code:
        raise (Rejected if code == 1 else UserError)(line)
    return str(read_certificate(Path(file))["statement"])


def _called(
    verb: str, config: str | Path | Sequence[str | Path], options: Options | None, named: Options, trust: Sequence[str]
) -> Any:
    """The command line after it has run a verb."""
    configs = [config] if isinstance(config, str | Path) else config
    words = [word for name in configs for word in ("--config", str(name))]
    with as_it_was(), needed_by(f"ttlightning.{verb}"):
        from ttlightning.commands import cli

        return cli.run([verb, *words, *words_of(options, named, trust)])


def _run_of(cli: Any) -> Run | None:
    """The run of a fit, read anew."""
    return None if cli.trainer.run is None else Run(cli.trainer.run.path)


def _metrics_of(cli: Any) -> dict[str, float]:
    return {name: float(value) for name, value in cli.trainer.callback_metrics.items() if "/" in name}
