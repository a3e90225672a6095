"""Expand config names and run directories in the arguments of a command.

A checkpoint holds its configuration, and a run directory has it in a file: it is used where no config is named.
"""

from collections.abc import Sequence
from pathlib import Path

from ttlightning.commands.configs import find_config
from ttlightning.errors import UserError
from ttlightning.runs.beginning import NEWEST
from ttlightning.runs.checkpoints import CONFIG_KEY, read_checkpoint
from ttlightning.runs.run import Run, checkpoint_file, runs_of, runs_root
from ttlightning.runs.trust import ForeignConfig, config_text
from ttlightning.system.paths import expanded


def complete_arguments(args: Sequence[str]) -> list[str]:
    """Replace config names by paths, and run directories by their last checkpoints.

    Configs come first, in their order: an option wins over all of them, wherever it stands. ``--ckpt_path last``
    becomes the newest run; with a config, the command line finds it once the configuration is complete. ``fit`` keeps
    a run directory that has no checkpoint yet: it starts that run again.

    Raises:
        UserError: where a config, a checkpoint or its configuration does not exist.
    """
    completed: list[str] = []
    configs: list[str] = []
    values: dict[str, str] = {}
    """option: its last value"""
    words = iter(args)
    for word in words:
        option, equals, value = word.partition("=")
        if option not in ("--config", "-c", "--ckpt_path", "--experiment", "--run"):
            completed.append(word)
            continue
        value = value if equals else next(words, "")
        if option in ("--config", "-c"):
            configs.append(str(find_config(value)))
        else:
            values[option] = value
    is_fit = completed[:1] == ["fit"]
    source, run = values.get("--ckpt_path"), values.get("--run")
    foreign: ForeignConfig | None = None
    if source is not None and not (source == NEWEST and configs):
        path = runs_of(runs_root(), values.get("--experiment"))[0].path if source == NEWEST else expanded(source)
        if is_fit and Run(path).config_file.is_file() and not Run(path).checkpoint.is_file():
            values["--ckpt_path"], foreign = str(path), _config_of(Run(path))
        else:
            file = checkpoint_file(path)
            values["--ckpt_path"], foreign = str(file), None if configs else _config_inside(file)
    elif is_fit and run is not None and Run(expanded(run)).config_file.is_file():
        foreign = _config_of(Run(expanded(run)))
    named = [word for config in configs or ([] if foreign is None else [foreign]) for word in ("--config", config)]
    options = [word for option, value in values.items() for word in (option, value)]
    verb = 0 if completed[:1] and completed[0].startswith("-") else 1
    return [*completed[:verb], *named, *completed[verb:], *options]


def _config_of(run: Run) -> ForeignConfig:
    """The configuration in a run directory."""
    return ForeignConfig(config_text(run.config_file), run.config_file)


def _config_inside(file: Path) -> ForeignConfig:
    """The configuration in a checkpoint."""
    content = read_checkpoint(file)
    if CONFIG_KEY not in content:
        raise UserError(f"{file} has no configuration inside; name one with --config")
    return ForeignConfig(content[CONFIG_KEY], file)


def experiment_name(configs: Sequence[str | Path]) -> str:
    """Name of an experiment after its configs: ``eq+more`` for ``eq.yaml`` and ``more.yaml``."""
    return "+".join(Path(str(path)).stem for path in configs) or "default"
