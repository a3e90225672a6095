"""Expand config names and run directories in the arguments of a command.

A checkpoint holds its configuration, and a run directory has it in a file: it is used where no config is named.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ttlightning.commands.configs import find_config
from ttlightning.errors import UserError
from ttlightning.runs.beginning import NEWEST
from ttlightning.runs.checkpoints import CONFIG_KEY, read_checkpoint
from ttlightning.runs.run import Run, checkpoint_file, runs_of, runs_root
from ttlightning.runs.trust import OPTION, ForeignConfig, config_text
from ttlightning.system.paths import expanded

OFF: Final = ("false", "off", "no", "0", "disabled")
"""Values of ``--wandb`` that switch W&B off."""


def complete_arguments(args: Sequence[str]) -> list[str]:
    """Replace config names by paths and run directories by their last checkpoints.

    ``--wandb false`` becomes ``--wandb.mode=disabled``. Without a config, the configuration of ``--ckpt_path`` or
    ``--run`` is added. Configs come first, in their order: an option wins over all of them, wherever it stands.
    ``--ckpt_path last`` becomes the newest run; beside a config, ``CLI`` finds that run once the configuration is
    complete.

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
        if option == "--wandb":
            value = value if equals else next(words, "")
            completed.append("--wandb.mode=disabled" if value.lower() in OFF else f"--wandb={value}")
            continue
        if option not in ("--config", "-c", "--ckpt_path", "--experiment", "--run"):
            completed.append(word)
            continue
        value = value if equals else next(words, "")
        if option in ("--config", "-c"):
            configs.append(str(find_config(value)))
        else:
            values[option] = value
    source, run, is_fit = values.get("--ckpt_path"), values.get("--run"), completed[:1] == ["fit"]
    if source == NEWEST and not configs:
        source = str(runs_of(runs_root(), values.get("--experiment"))[0])
    if source is not None and source != NEWEST:
        file = checkpoint_file(Path(source), begun=is_fit)
        values["--ckpt_path"] = str(file)  # to YAML a bare ~ is nothing
        configs = configs or [_own_config(file)]
    elif is_fit and run is not None and not configs and Run(expanded(run)).config_file.is_file():
        configs = [_own_config(expanded(run))]
    named = [word for config in configs for word in ("--config", config)]
    return [*completed[:1], *named, *completed[1:], *(word for pair in values.items() for word in pair)]


def _own_config(source: Path) -> ForeignConfig:
    """The configuration in a run directory or in a checkpoint."""
    if source.is_dir():
        file = Run(source).config_file
        return ForeignConfig(config_text(file), file)
    content = read_checkpoint(source)
    if CONFIG_KEY not in content:
        raise UserError(f"{source} has no configuration inside; name one with --config")
    return ForeignConfig(content[CONFIG_KEY], source)


def words_of(options: Mapping[str, Any] | None, named: Mapping[str, Any], trust: Sequence[str] = ()) -> list[str]:
    """The options as words of a command; those of ``named`` are left out if they are None."""
    entries: dict[str, Any] = {}
    for name, value in (options or {}).items():
        is_section = isinstance(value, Mapping) and "class_path" not in value and "." not in name
        entries |= {f"{name}.{key}": part for key, part in value.items()} if is_section else {name: value}
    entries |= {name: value for name, value in named.items() if value is not None}
    words = [f"--{name}={_text(name, value)}" for name, value in entries.items()]
    return words + ([OPTION, ",".join(trust)] if trust else [])


def _text(name: str, value: Any) -> str:
    """A value as the text of an option."""
    if isinstance(value, str | Path | Run):
        return str(value)
    try:
        return json.dumps(value)
    except TypeError as fault:
        raise UserError(f"{name} is {value!r:.60}, which no config.yaml can hold: give plain values") from fault


def experiment_name(configs: Sequence[str | Path]) -> str:
    """Name of an experiment after its configs: ``eq+more`` for ``eq.yaml`` and ``more.yaml``."""
    return "+".join(Path(str(path)).stem for path in configs) or "default"
