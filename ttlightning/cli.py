"""The command line: fit, validate, test and predict through LightningCLI."""

import difflib
import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import wandb
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console

from ttlightning import formats
from ttlightning.callbacks.progress import EpochProgress, describe_result
from ttlightning.callbacks.rank_check import RankCheck
from ttlightning.callbacks.run_directory import RunDirectory, WandbOptions
from ttlightning.checkpoints import CONFIG_KEY, check_fits, checkpoint_file, read_checkpoint
from ttlightning.classifier import Classifier
from ttlightning.commands import VERBS
from ttlightning.configs import find_config
from ttlightning.data.datamodule import PatchDataModule
from ttlightning.errors import UserError
from ttlightning.formats.contraction import ARITHMETIC_FOR_THREADS
from ttlightning.runs import check_experiment_name
from ttlightning.trainer import Trainer

TRAINER_DEFAULTS = {
    "max_epochs": 20,
    "devices": 1,
    "deterministic": True,
    "logger": False,
    "log_every_n_steps": 50,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


class Parser(LightningArgumentParser):
    """Says what is wrong in one line, and ends with exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise UserError(" ".join(message.split()) + self._way_out(message))

    def _way_out(self, message: str) -> str:
        """The names that come nearest to one that is unknown."""
        unknown = re.search(r"(?:unrecognized arguments: --|(?:[Kk]ey|option) ['\"])([\w.]+)", message)
        if unknown is None:
            return ""
        if unknown[1] == "model.format":
            return f"; the formats are: {', '.join(sorted(set(formats.__all__) - {'ScoreTensor'}))}"
        keys = {action.dest for parser in self._parsers() for action in parser._actions}
        near = difflib.get_close_matches(unknown[1], keys, n=3, cutoff=0.5)
        return f"; did you mean {', '.join(near)}?" if near else ""

    def _parsers(self) -> list[LightningArgumentParser]:
        commands = self._subcommands_action
        return [self] if commands is None else list(commands._name_parser_map.values())


class CLI(LightningCLI):
    """LightningCLI with a run directory around ``fit`` and the data's sizes linked into the network."""

    def __init__(self, args: list[str]) -> None:
        super().__init__(
            Classifier,
            PatchDataModule,
            save_config_callback=None,
            trainer_class=Trainer,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_class=Parser,
            args=args,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        verbs = "; ".join(f"{name}: {text[0].lower()}{text[1:-1]}" for name, (text, _) in VERBS.items())
        return super().init_parser(**kwargs, epilog=f"Without a trainer, {verbs}.")

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=int, default=0, help="Key of every random choice.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--experiment", type=str | None, help="Name of the run's folder; default: of the configs.")
        parser.add_argument("--test_after_fit", type=bool, default=True, help="End fit with the test set.")
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.add_lightning_class_args(RankCheck, "rank_check")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.filename": "{epoch}-{step}"})
        for size in ("sites", "patch_dim", "classes", "steps_per_call"):
            parser.link_arguments(f"data.{size}", f"model.{size}", apply_on="instantiate")
        for part in ("data", "model", "rank_check"):
            parser.link_arguments("seed_everything", f"{part}.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Nothing: a checkpoint's configuration is a config file of its own, see ``complete_arguments``."""

    def before_instantiate_classes(self) -> None:
        options = self.config[self.subcommand]
        if options.experiment is None:
            names = [Path(str(path)).stem for path in options.config or []]
            options.experiment = "+".join(names) or "default"
        check_experiment_name(options.experiment)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        options = self.config[self.subcommand]
        callbacks = [EpochProgress()] if self._get(self.config_init, "trainer").enable_progress_bar is not False else []
        if self.subcommand == "fit":
            config = self._parser("fit").dump(self.config.fit, skip_none=False, format="yaml")
            mode = options.wandb.mode or os.environ.get("WANDB_MODE") or "offline"
            self.run_directory = RunDirectory(options.experiment, config, WandbOptions(**options.wandb.as_dict()), mode)
            callbacks.append(self.run_directory)
        given = self._get(self.config_init, "trainer").callbacks or []
        trainer = super().instantiate_trainer(callbacks=[*given, *callbacks], **kwargs)
        if self.subcommand != "fit":
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, ModelCheckpoint | RankCheck)]
        return trainer

    def before_fit(self) -> None:
        steps = self.datamodule.steps_per_call
        for name, harmless in (("accumulate_grad_batches", 1), ("gradient_clip_val", None)):
            value = getattr(self.trainer, name)
            if steps > 1 and value != harmless:
                raise UserError(
                    f"trainer.{name} is {value}, Lightning does that one step a call: set --data.steps_per_call 1"
                )
        every = self.config.fit.checkpoint.every_n_train_steps
        if every and steps > 1:
            raise UserError(
                f"checkpoint.every_n_train_steps is {every}, but the trainer sees a step only at the end of a call of "
                f"{steps}: set --data.steps_per_call 1, or checkpoint.every_n_epochs"
            )
        self._check_checkpoint(needed=False)
        self._choose_threads()

    def before_validate(self) -> None:
        if not self.datamodule.validation:
            raise UserError(
                "data.validation is 0, there is nothing to validate on; set --data.validation 0.1, or use test"
            )
        self._check_checkpoint()

    def before_test(self) -> None:
        self._check_checkpoint()

    def before_predict(self) -> None:
        self._check_checkpoint()

    def after_predict(self) -> None:
        print(f"predictions  {self.config.predict.output}")

    def after_fit(self) -> None:
        if self.trainer.interrupted or self.trainer.fast_dev_run:
            return
        if self.config.fit.test_after_fit:
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        result = self.run_directory.write_result(self.trainer, self.model, self.config.fit.seed_everything)
        if rank_zero_only.rank == 0:
            wandb.finish()
            Console().print(describe_result(result, self.run_directory.path), soft_wrap=True)

    def _choose_threads(self) -> None:
        """One thread on a CPU, where nobody has chosen and a pass is too small to be worth sharing."""
        format, on_cpu = self.model.format, self.trainer.strategy.root_device.type == "cpu"
        batch = self.datamodule.batch_size // self.trainer.world_size
        arithmetic = batch * format.sites * format.modes * format.rank**2
        if on_cpu and "OMP_NUM_THREADS" not in os.environ and arithmetic < ARITHMETIC_FOR_THREADS:
            torch.set_num_threads(1)

    def _check_checkpoint(self, needed: bool = True) -> None:
        path = self.config[self.subcommand].get("ckpt_path")
        if path is None:
            if needed:
                raise UserError(
                    f"{self.subcommand} needs trained weights: --ckpt_path with a .ckpt file or a run directory"
                )
            return
        file = Path(path)
        check_fits(read_checkpoint(file), self.model, file)


def complete_arguments(args: Sequence[str]) -> list[str]:
    """Arguments with every config's name replaced by its path, and a run directory by its last checkpoint.

    Where a checkpoint but no config is given, the configuration inside the checkpoint comes first.
    """
    done: list[str] = []
    has_config, checkpoint = False, None
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in ("--config", "-c", "--ckpt_path"):
            done.append(word)
            continue
        if not equals:
            value = next(words, "")
        if name == "--ckpt_path":
            checkpoint = checkpoint_file(Path(value))
            done += [name, str(checkpoint)]
        else:
            has_config = True
            done += ["--config", str(find_config(value))]
    if checkpoint is not None and not has_config:
        content = read_checkpoint(checkpoint)
        if CONFIG_KEY not in content:
            raise UserError(f"{checkpoint} has no configuration inside; name one with --config")
        done[1:1] = ["--config", content[CONFIG_KEY]]
    return done


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; a user's mistake is one line on stderr and exit code 2."""
    _quieten_libraries()
    try:
        args = sys.argv[1:] if args is None else args
        if args and args[0] in VERBS:
            sys.exit(VERBS[args[0]][1](args[1:]))
        CLI(complete_arguments(args))
    except (UserError, MisconfigurationException) as mistake:
        if rank_zero_only.rank == 0:
            print(f"ttlightning: {' '.join(str(mistake).split())}", file=sys.stderr)
        sys.exit(2)


@functools.cache
def _quieten_libraries() -> None:
    """Leave the terminal to what this package says, and to warnings that a user can act on."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for expected in (
        ".*LeafSpec.*",  # Lightning's own use of torch
        "Total length of `list` across ranks is zero",  # no validation split
        ".*callbacks used to create the checkpoint",  # test and predict need none of them
    ):
        warnings.filterwarnings("ignore", message=expected)
    others = warnings.formatwarning

    def format_warning(message: Any, category: Any, file: str, *rest: Any) -> str:
        ours = Path(file).is_relative_to(Path(__file__).parent)
        return f"ttlightning: {message}\n" if ours else others(message, category, file, *rest)

    warnings.formatwarning = format_warning
    os.environ.setdefault("WANDB_SILENT", "true")
