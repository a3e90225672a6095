"""What the words of a command stand for: a config's name its path, a run directory its checkpoint, ``last`` a run.

A checkpoint has its configuration inside, and a run directory has it beside: it is used where no config is named.
"""

from collections.abc import Sequence
from pathlib import Path

import yaml

from ttlightning.checkpoints import CONFIG_KEY, checkpoint_file, read_checkpoint
from ttlightning.configs import find_config
from ttlightning.errors import UserError
from ttlightning.runs import latest_run, runs_root
from ttlightning.trust import ForeignConfig, config_text, read_mapping

LAST = "last"


def complete_arguments(args: Sequence[str]) -> list[str]:
    """Arguments with every config's name replaced by its path, and a run by its last checkpoint.

    A run without a checkpoint stays as it is: ``fit`` starts it again.
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
            done += ["--config", str(configs[-1])]
    if place is None:
        return done
    if wanted == LAST:
        if experiment is None and configs:
            contents = [yaml.safe_load(config.read_text()) for config in reversed(configs)]
            names = (c["experiment"] for c in contents if isinstance(c, dict) and "experiment" in c)
            experiment = next(names, experiment_name(configs))
        wanted = str(latest_run(runs_root(), experiment))
    path = Path(wanted).expanduser()
    if done[:1] == ["fit"] and (path / "config.yaml").is_file() and not (path / "checkpoints" / "last.ckpt").is_file():
        done[place] = str(path)
        file = path / "config.yaml"
        return done if configs else [*done[:1], "--config", ForeignConfig(config_text(file), file), *done[1:]]
    done[place] = str(checkpoint_file(path))
    if not configs:
        content = read_checkpoint(Path(done[place]))
        if CONFIG_KEY not in content:
            raise UserError(f"{done[place]} has no configuration inside; name one with --config")
        done[1:1] = ["--config", ForeignConfig(content[CONFIG_KEY], Path(done[place]))]
    return done


def experiment_name(configs: Sequence[str | Path]) -> str:
    """What an experiment is called that nobody has named: after its configs."""
    return "+".join(Path(str(path)).stem for path in configs) or "default"


def run_that_goes_on(place: Path, config: str) -> Path | None:
    """The run at ``place`` (its directory or last checkpoint), if it was stopped and its configuration is ``config``.

    None for any other checkpoint: that is where a new run begins. Where a run itself began, its ``ckpt_path``, is not
    compared.

    Raises:
        UserError: where the run of this configuration is finished.
    """
    run = place if place.is_dir() else place.parent.parent
    last = place.is_dir() or (place.parent.name, place.name) == ("checkpoints", "last.ckpt")
    file = run / "config.yaml"
    if not last or not file.is_file():
        return None
    theirs, ours = (read_mapping(text, file) | {"ckpt_path": None} for text in (config_text(file), config))
    if theirs != ours:
        return None
    if (run / "result.json").exists():
        raise UserError(
            f"{run} is finished, there is nothing to go on with; train longer, in a new run, with --trainer.max_epochs"
        )
    return run
