"""The file of a study, and the runs that it asks for.

    config: eq.yaml                                  # or a list of configs that compose
    options: {trainer.max_epochs: 10}                # options of fit for every run
    grid: {model.format.init_args.rank: [4, 8, 16]}  # every combination is an experiment of its own
    seeds: 5                                         # seeds 0 to 4 of every combination, or a list of seeds
    experiment: ranks                                # what every name begins with; default: named after the configs
    slurm: {partition: gpu, timeout_min: 60}         # what submitit asks SLURM for, with --launcher slurm

A file that ``wandb sweep`` takes is a study too: its choices are a grid, or drawn at random.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from ttlightning.commands.arguments import experiment_name
from ttlightning.commands.configs import find_config
from ttlightning.commands.studies import Job
from ttlightning.commands.sweeps import SEED, Choice, grid, name_of, option_words, read_sweep
from ttlightning.errors import UserError

KEYS: Final = ("config", "options", "grid", "seeds", "experiment", "slurm")
OF_ONE_RUN: Final = (SEED, "ckpt_path", "run", "experiment", "config")
"""Options of ``fit`` that a study chooses itself."""


class Study(NamedTuple):
    """The content of a file."""

    name: str
    jobs: list[Job]
    """one seed of every combination after the other, so that a table is there early"""
    slurm: dict[str, Any]


def read_study(name: str, runs: int | None = None) -> Study:
    """The study in the file ``name``, which is looked up like a config.

    Args:
        runs: number of choices to draw from the distributions of a sweep.

    Raises:
        UserError: where a key is unknown or a value has another form than the file's text above.
    """
    file = find_config(name)
    content = yaml.safe_load(file.read_text())
    if not isinstance(content, dict):
        raise UserError(f"{file} is no study: it must have keys such as config, grid and seeds")
    if "parameters" in content:
        shared, choices = read_sweep(name, runs)
        configs = [word.removeprefix("--config=") for word in shared if word.startswith("--config=")]
        return Study(file.stem, jobs(experiment_name(configs), shared, choices, None), {})
    if runs is not None:
        raise UserError(f"--runs is {runs}, but {file} draws nothing at random: it has a grid and seeds")
    if unknown := next((key for key in content if key not in KEYS), None):
        raise UserError(f"{file} has {unknown!r}, a study has: {', '.join(KEYS)}; options of fit belong below options")
    configs = _configs(file, content.get("config"))
    options = _mapping(file, content, "options")
    values = _mapping(file, content, "grid")
    for option in (*options, *values):
        if option in OF_ONE_RUN and not (option == SEED and option in values):
            raise UserError(
                f"{file} has {option} among its options, which a study chooses: see config, seeds, experiment"
            )
        if option in options and option in values:
            raise UserError(f"{file} has {option} below options and below grid; leave one out")
    if wrong := next((option for option, listed in values.items() if not isinstance(listed, list) or not listed), None):
        raise UserError(f"{file}: {wrong} is {values[wrong]!r}, below grid it must be a list of values")
    base = str(content.get("experiment") or experiment_name(configs))
    words = (*(f"--config={config}" for config in configs), *option_words(options))
    slurm = _mapping(file, content, "slurm")
    return Study(file.stem, jobs(base, words, grid(values), _seeds(file, content.get("seeds"))), slurm)


def jobs(base: str, words: tuple[str, ...], choices: list[Choice], seeds: list[int] | None) -> list[Job]:
    """Every choice with every seed; the default is seed 0, or the seed that the choice has.

    Raises:
        UserError: where both the seeds and the choices say which seeds.
    """
    if seeds and any(SEED in choice for choice in choices):
        raise UserError(f"there are seeds, but {SEED} is among what is chosen already; leave one out")
    found = []
    for choice in choices:
        fixed = {option: value for option, value in choice.items() if option != SEED}
        every = (*words, *option_words(fixed))
        own = [choice[SEED]] if SEED in choice else seeds or [0]
        found += [Job(name_of(base, choice), every, seed) for seed in own]
    return sorted(dict.fromkeys(found), key=lambda job: job.seed)


def _configs(file: Path, value: Any) -> list[str]:
    configs = value if isinstance(value, list) else [value]
    if not configs or not all(isinstance(config, str) for config in configs):
        raise UserError(f"{file}: config is {value!r}, it must name a config such as eq.yaml, or several in a list")
    return configs


def _seeds(file: Path, value: Any) -> list[int] | None:
    if value is None:
        return None
    listed = list(range(value)) if type(value) is int else value
    is_list = isinstance(listed, list) and listed and all(type(seed) is int and seed >= 0 for seed in listed)
    if not is_list:
        raise UserError(
            f"{file}: seeds is {value!r}, it must be a number of seeds, at least 1, or a list such as [0, 7]"
        )
    return listed


def _mapping(file: Path, content: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{file}: {key} is {value!r}, it must have entries such as name: value")
    return value
