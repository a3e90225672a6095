"""The choices of a sweep, from the YAML file that `wandb sweep` takes, or of a grid.

A choice is a value for each swept option of `fit`. Its name follows from its values.
"""

import hashlib
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import yaml

from ttlightning.commands.configs import find_config
from ttlightning.errors import UserError
from ttlightning.randomness import keyed_generator

Choice = dict[str, Any]
"""Option of ``fit`` without the dashes: value."""

SEED: Final = "seed_everything"
FIGURES: Final = 4
"""Significant figures of a drawn number, which is part of a name."""

LONGEST_NAME: Final = 120
"""Most characters of an experiment's name, a folder name; a longer one is cut and ends with a hash."""


class Sweep(NamedTuple):
    """The content of a sweep file."""

    words: tuple[str, ...]
    """configs and options of all runs"""
    choices: list[Choice]


def read_sweep(name: str, runs: int | None, key: int = 0) -> Sweep:
    """The sweep file ``name``, looked up like a config: all points of a grid, or ``runs`` random ones.

    Args:
        runs: number of choices to draw, for ``method: random``.
        key: key of the random numbers; the first choices do not depend on ``runs``.

    Raises:
        UserError: if the file is no sweep of `fit`, or its method needs W&B's server.
    """
    file = find_config(name)
    content = yaml.safe_load(file.read_text())
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        raise UserError(f"{file} is no sweep: it has no parameters")
    words = _shared_words(file, content.get("command"))
    parameters, method = content["parameters"], content.get("method")
    if method == "grid":
        if runs is not None:
            raise UserError(f"--runs is {runs}, but {file} is a grid: it has as many runs as points")
        return Sweep(words, grid({option: _values(file, option, how) for option, how in parameters.items()}))
    if method == "random":
        if runs is None or runs < 1:
            raise UserError(f"{file} draws at random: say how many runs with --runs 20")
        return Sweep(words, [{o: _draw(file, o, how, key, n) for o, how in parameters.items()} for n in range(runs)])
    command = f"wandb sweep {shlex.quote(str(file))}"
    raise UserError(f"{file} has method {method!r}, which needs W&B's server: {command}; here: grid, random")


def grid(values: dict[str, list[Any]]) -> list[Choice]:
    """Every combination; the last option changes fastest."""
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def option_words(choice: Choice) -> tuple[str, ...]:
    """A choice as options of ``fit``."""
    return tuple(f"--{option}={_text(value)}" for option, value in choice.items())


def name_of(base: str, choice: Choice) -> str:
    """``base+rank-8+format-TensorTrain``: letters, digits and . _ + - only, different for different choices.

    The seed is not in it. A name with replaced characters, or over ``LONGEST_NAME``, ends with a hash.
    """
    settings = {option: choice[option] for option in sorted(choice) if option != SEED}
    keys = [[part for part in option.split(".") if part != "init_args"] for option in settings]
    lasts = [key[-1] for key in keys]
    short = [key[-1] if lasts.count(key[-1]) == 1 else ".".join(key[-2:]) for key in keys]
    complete = "+".join([base, *(f"{key}-{_text(value)}" for key, value in zip(short, settings.values(), strict=True))])
    name = re.sub(r"[^A-Za-z0-9._+-]+", "-", complete)
    if name == complete and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(json.dumps([base, settings]).encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9]}+{digest}"


def _shared_words(file: Path, command: Any) -> tuple[str, ...]:
    """The words of a sweep's command between ``fit`` and the arguments that the sweep fills in."""
    words = list(map(str, command)) if isinstance(command, list) else []
    if not {"fit", "${args}"} <= set(words):
        raise UserError(f"{file} has no command that ends in: -m ttlightning fit --config=eq.yaml ${{args}}")
    shared = [word for word in words[words.index("fit") + 1 :] if word != "${args}"]
    if macro := next((word for word in shared if word.startswith("${")), None):
        raise UserError(f"{file} has {macro} in its command, which only W&B's agent fills in")
    return tuple(shared)


def _values(file: Path, option: str, how: Any) -> list[Any]:
    if isinstance(how, dict) and isinstance(how.get("values"), list) and how["values"]:
        return how["values"]
    if isinstance(how, dict) and "value" in how:
        return [how["value"]]
    raise UserError(f"{file}: {option} is {how}; in a grid it must have values: [...] or value: ...")


def _draw(file: Path, option: str, how: Any, key: int, number: int) -> Any:
    """A value of one option, a function of (key, number, option)."""
    if isinstance(how, dict) and ("values" in how or "value" in how):
        values = _values(file, option, how)
        return values[int(torch.randint(len(values), (), generator=keyed_generator(key, "sweep", number, option)))]
    u = float(torch.rand((), dtype=torch.float64, generator=keyed_generator(key, "sweep", number, option)))
    try:
        low, high = how["min"], how["max"]
        integers = isinstance(low, int) and isinstance(high, int)
        distribution = how.get("distribution", "int_uniform" if integers else "uniform")
        return {
            "int_uniform": lambda: int(low + u * (high - low + 1)),
            "uniform": lambda: _rounded(low + u * (high - low)),
            "log_uniform_values": lambda: _rounded(low * (high / low) ** u),
        }[distribution]()
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as fault:
        raise UserError(
            f"{file}: {option} is {how}; it must have values, or min and max with distribution uniform, int_uniform or "
            "log_uniform_values"
        ) from fault


def _rounded(number: float) -> float:
    return float(f"{number:.{FIGURES}g}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
