"""What the words of a command stand for: a config's name its path, a run directory its checkpoint, ``last`` a run.

A checkpoint has its configuration inside, and a run directory has it beside: it is used where no config is named.
"""

from collections.abc import Sequence
from pathlib import Path

from ttlightning.commands.configs import find_config
from ttlightning.errors import UserError
from ttlightning.runs.beginning import NEWEST
from ttlightning.runs.checkpoints import CONFIG_KEY, checkpoint_file, read_checkpoint
from ttlightning.runs.run import latest_run, runs_root
from ttlightning.runs.trust import ForeignConfig, config_text
from ttlightning.system.paths import expanded


def complete_arguments(args: Sequence[str]) -> list[str]:
    """Arguments with every config's name replaced by its path, and a run by its last checkpoint.

    Configs come first, in their order: an option wins over all of them, wherever it stands. A run without a checkpoint
    stays as it is: ``fit`` starts it again.
    """
    done: list[str] = []
    configs: list[Path] = []
    experiment = place = None
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in ("--config", "-c", "--ckpt_path", "--experiment"):
            done.append(word)
            continue
        if not equals:
            value = next(words, "")
        if name == "--ckpt_path":
            place, wanted = len(done) + 1, value
            done += [name, value]
        elif name == "--experiment":
            experiment = value
            done += [name, value]
        else:
            configs.append(find_config(value))
    named = [word for config in configs for word in ("--config", str(config))]
    verb = 0 if done[:1] and done[0].startswith("-") else 1
    if place is None or (wanted == NEWEST and configs):  # which run has this configuration is known when it is read
        return [*done[:verb], *named, *done[verb:]]
    if wanted == NEWEST:
        wanted = str(latest_run(runs_root(), experiment))
    path = expanded(wanted)
    if done[:1] == ["fit"] and (path / "config.yaml").is_file() and not (path / "checkpoints" / "last.ckpt").is_file():
        done[place] = str(path)
        file = path / "config.yaml"
        named = named or ["--config", ForeignConfig(config_text(file), file)]
        return [*done[:verb], *named, *done[verb:]]
    done[place] = str(checkpoint_file(path))
    if not configs:
        content = read_checkpoint(Path(done[place]))
        if CONFIG_KEY not in content:
            raise UserError(f"{done[place]} has no configuration inside; name one with --config")
        named = ["--config", ForeignConfig(content[CONFIG_KEY], Path(done[place]))]
    return [*done[:verb], *named, *done[verb:]]


def experiment_name(configs: Sequence[str | Path]) -> str:
    """What an experiment is called that nobody has named: after its configs."""
    return "+".join(Path(str(path)).stem for path in configs) or "default"
