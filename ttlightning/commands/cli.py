"""The command line: fit, validate, test and predict through LightningCLI."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse.typing import register_type
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning_utilities.core.enums import StrEnum

from ttlightning import formats
from ttlightning.commands.arguments import complete_arguments, experiment_name
from ttlightning.commands.parser import PlainErrors, renamed_since_0_1
from ttlightning.errors import UserError
from ttlightning.networks import baselines
from ttlightning.runs.beginning import NEWEST, how_to_begin, newest_run
from ttlightning.runs.masking import masked, refuse_masked
from ttlightning.runs.run import Run, check_experiment_name, check_utf8, checkpoint_file, runs_root
from ttlightning.runs.trust import (
    NotTrusted,
    check_foreign,
    config_text,
    names_to_trust,
    refused_names,
    take_trusted,
    trusting,
)
from ttlightning.system.output import terminal
from ttlightning.system.parsing import complete_yaml, option_names, option_of_wrong_value, unknown_option
from ttlightning.system.paths import expanded
from ttlightning.training.callbacks.heartbeats import Heartbeats
from ttlightning.training.callbacks.last_checkpoint import LastCheckpoint
from ttlightning.training.callbacks.progress import EpochProgress, describe_result, print_lines
from ttlightning.training.callbacks.rank_check import RankCheck
from ttlightning.training.callbacks.run_directory import RunDirectory
from ttlightning.training.callbacks.run_figures import RunFigures
from ttlightning.training.callbacks.wandb_run import WandbOptions
from ttlightning.training.checkpoint_io import with_safe_checkpoints
from ttlightning.training.checks import (
    begin_at,
    check_fit,
    check_that_no_checkpoint_is_asked_for,
    choose_threads,
    fitting_checkpoint,
)
from ttlightning.training.classifier import Classifier
from ttlightning.training.datamodule import PatchDataModule
from ttlightning.training.faults import own_exceptions
from ttlightning.training.quiet import quiet_libraries
from ttlightning.training.searches import FINDERS, WITHOUT_TRAINING, keys_of, searched, take
from ttlightning.training.steps import KeptCheckpoints
from ttlightning.training.trainer import Trainer

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


for name in formats.NAMES:
    getattr(formats, name)  # jsonargparse resolves a class name without a module among the imported classes


class Parser(PlainErrors, LightningArgumentParser):
    """Says what a user can do about a mistake: the known names next to an unknown one, or the values that fit."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if names := refused_names(message, ex):
            raise NotTrusted(*names) from ex
        super().error(message, ex)

    def way_out(self, message: str) -> str:
        if (renamed := renamed_since_0_1(message)) or "since version 0.2" in message:
            return renamed
        if "ReduceLROnPlateau" in message:
            return (
                "; take --model.scheduler=lightning.pytorch.cli.ReduceLROnPlateau --model.scheduler.monitor=val/loss "
                "--model.scheduler_interval=epoch"
            )
        if 'key "data.dataset"' in message:
            hint = "; data that were given in Python are read again by Python only: see ttlightning.fit_model"
            return "" if hint in message else hint  # a parser of a config's part has said it
        if option_of_wrong_value(message) == "model.format":
            return f"; the formats are: {', '.join(sorted({*formats.NAMES, *baselines.__all__}))}"
        near = difflib.get_close_matches(unknown_option(message) or "", option_names(self), n=3, cutoff=0.5)
        return f"; did you mean {', '.join(near)}?" if near else ""


class CLI(LightningCLI):
    """LightningCLI with a run directory around ``fit`` and the data's sizes linked into the network."""

    def __init__(self, args: list[str]) -> None:
        # That config.yaml can hold what Lightning's own callbacks have as defaults.
        register_type(torch.device, str, torch.device)
        yaml.SafeDumper.add_multi_representer(StrEnum, lambda dumper, value: dumper.represent_str(value.value))
        self.searched: dict[str, float | int] = {}
        super().__init__(
            Classifier,
            PatchDataModule,
            save_config_callback=None,
            trainer_class=Trainer,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_class=Parser,
            parser_kwargs={"prog": "python -m ttlightning"},
            args=args,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--seed_everything", type=int, default=0, help="Key of every random choice.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--experiment", type=str | None, help="Name of the run's folder; default: of the configs.")
        parser.add_argument("--test_after_fit", type=bool, default=True, help="End fit with the test set.")
        parser.add_argument(
            "--figures", type=bool, default=True, help="End fit with figures: confusions, mistakes, spectrum."
        )
        parser.add_argument(
            "--rank_timeout", type=float | None, default=60.0,
            help="Seconds after which a process of several that shows no sign of life ends the run; null: never.",
        )  # fmt: skip
        parser.add_class_arguments(WandbOptions, "wandb")
        parser.add_lightning_class_args(RankCheck, "rank_check")
        parser.add_lightning_class_args(KeptCheckpoints, "checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.set_defaults({"checkpoint.filename": "{epoch}-{step}", "checkpoint.enable_version_counter": False,
                             "checkpoint.save_top_k": 0})  # fmt: skip
        for size in ("sites", "patch_dim", "classes", "steps_per_execution", "microbatches"):
            parser.link_arguments(f"data.{size}", f"model.{size}", apply_on="instantiate")
        for part in ("data", "model", "rank_check"):
            parser.link_arguments("seed_everything", f"{part}.seed")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument("--run", type=str | None, help="Directory of the run, which is made or goes on.")
            parser.add_argument(
                "--seeds_at_once", type=int | None,
                help="Number of runs side by side, with the seeds from seed_everything on; on the command line only.",
            )  # fmt: skip
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        check_foreign(parser, args)
        self.config = parser.parse_args([str(word) for word in args])

    def _parse_ckpt_path(self) -> None:
        """Do nothing: ``complete_arguments`` has read a checkpoint's configuration like a config file."""

    def before_instantiate_classes(self) -> None:
        options = self.config[self.subcommand]
        if options.experiment is None:
            options.experiment = experiment_name(options.config or [])
        check_experiment_name(options.experiment)
        if self.subcommand == "fit" and options.seeds_at_once is not None:
            raise UserError("seeds_at_once is in a configuration: give --seeds_at_once on the command line")
        if options.ckpt_path == NEWEST:
            config = yaml.safe_load(self._dump(options))
            options.ckpt_path = newest_run(runs_root(), options.experiment, config, self.subcommand).path
        if options.ckpt_path is not None:
            options.ckpt_path = str(checkpoint_file(Path(options.ckpt_path), begun=self.subcommand == "fit"))
        refuse_masked(options.as_dict())

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        options = self.config[self.subcommand]
        asked = self._get(self.config_init, "trainer")
        arguments = dict(asked) | {"plugins": with_safe_checkpoints(asked.plugins)} | kwargs
        given = asked.callbacks if isinstance(asked.callbacks, list) else list(filter(None, [asked.callbacks]))
        if self.subcommand == "fit" and not any(asked[name] for name in WITHOUT_TRAINING):
            given = self._searched(given, arguments, options)
        if asked.barebones:
            self._make_run_directory(options)  # for where training begins; no callback writes into it
            return Trainer(**arguments | {"callbacks": given, "log_every_n_steps": None})
        shown = asked.enable_progress_bar is not False and not any(isinstance(c, ProgressBar) for c in given)
        callbacks = [*given, Heartbeats(options.rank_timeout), *([EpochProgress()] if shown else [])]
        if self.subcommand != "fit":
            if finder := next((c for c in given if isinstance(c, FINDERS)), None):
                raise UserError(
                    f"{type(finder).__name__} searches for training: give it to fit, not to {self.subcommand}"
                )
            kept = [c for c in callbacks if not isinstance(c, Checkpoint)]
            trainer = Trainer(**arguments | {"callbacks": kept})
            trainer.callbacks = [c for c in trainer.callbacks if not isinstance(c, Checkpoint)]
            return trainer
        made = self.config_init.fit
        callbacks += [self._make_run_directory(options)]
        if options.figures:
            callbacks.append(RunFigures(options.rank_check.sketch_size, options.seed_everything))
        checkpoints = [made.checkpoint, made.last_checkpoint]
        if asked.enable_checkpointing is False:
            check_that_no_checkpoint_is_asked_for(given, options)
            made.last_checkpoint.is_written = self.run_directory.keeps_checkpoints = False
            del checkpoints[0]
        callbacks += [made.rank_check, *checkpoints]
        trainer = Trainer(**arguments | {"callbacks": callbacks, "enable_checkpointing": True})
        if not trainer.fast_dev_run:
            trainer.loggers = [*self.run_directory.loggers, *trainer.loggers]
        return trainer

    def _searched(self, given: list[Callback], arguments: dict[str, Any], options: Any) -> list[Callback]:
        """Search what finders among the callbacks are for, and put it into the configuration; the other callbacks."""
        entries = options.trainer.callbacks
        pairs = list(zip(given, entries if isinstance(entries, list) else [entries], strict=False))
        for finder, entry in (pair for pair in pairs if isinstance(pair[0], FINDERS)):
            name, keys = type(finder).__name__, [key for key in keys_of(finder) if key in options]
            value = searched(finder, Trainer, arguments, self.model, self.datamodule)
            if not entry.init_args.get("update_attr", True):
                print(
                    f"{'searched':<10}  {name} suggests {value:g}; update_attr is false, so it is not used", flush=True
                )
                continue
            take(finder, value, self.model, self.datamodule)
            for key in keys:
                options[key] = self.searched[key] = value
            print(f"{'searched':<10}  {', '.join(keys)} = {value:g}, by {name}", flush=True)
        options.trainer.callbacks = [entry for callback, entry in pairs if not isinstance(callback, FINDERS)] or None
        return [callback for callback in given if not isinstance(callback, FINDERS)]

    def _make_run_directory(self, options: Any) -> RunDirectory:
        """The callback of a new run, or of a stopped run, which goes on with its first configuration."""
        config = self._dump(options)
        source, into = options.ckpt_path, options.run
        into = into and Run(check_utf8(expanded(into), "name another folder with --run"))
        self.begin = how_to_begin(yaml.safe_load(config), source and Path(source), into)
        if self.begin.goes_on:
            config = config_text(self.begin.run.config_file)
        file = self.begin.state or self.begin.weights
        options.ckpt_path = file and str(file)
        self.config_init.fit.ckpt_path = self.begin.state and str(self.begin.state)
        wandb = WandbOptions(**options.wandb.as_dict())
        self.run_directory = RunDirectory(options.experiment, config, wandb, self.begin, self.hidden)
        self.run_directory.searched = self.searched
        self.run_directory.trusted = names_to_trust(self.parser, "fit", config)
        return self.run_directory

    def _dump(self, options: Any) -> str:
        """The configuration as YAML without secrets; ``UserError`` if a value has no text that gives it back.

        Entries are masked before they become text, because a bare ``~`` is null in YAML.
        """
        content = yaml.safe_load(complete_yaml(self._parser(self.subcommand), options))
        content.pop("run", None)
        content.pop("seeds_at_once", None)
        visible, self.hidden = masked(content)
        return yaml.safe_dump(visible, sort_keys=False)

    def before_fit(self) -> None:
        check_fit(self.trainer, self.model, self.datamodule, self.config.fit.checkpoint)
        self.model.choose_steps(self.trainer, self.datamodule)
        if self.config.fit.ckpt_path is not None:
            content = fitting_checkpoint(Path(self.config.fit.ckpt_path), self.model, self.datamodule)
            begin_at(self.begin, content, self.trainer, self.model)
        choose_threads(self.trainer, self.model, self.datamodule)

    def before_validate(self) -> None:
        if not self.datamodule.validation:
            raise UserError("data.validation is 0, so no image validates; set --data.validation 0.1, or use test")
        self.before_test()

    def before_test(self) -> None:
        if (path := self.config[self.subcommand].ckpt_path) is None:
            verb = self.subcommand
            raise UserError(f"{verb} needs trained weights: --ckpt_path with a .ckpt file or a run directory")
        fitting_checkpoint(Path(path), self.model, self.datamodule)

    before_predict = before_test

    def after_predict(self) -> None:
        print(f"predictions  {self.config.predict.output}")

    def after_fit(self) -> None:
        if self.trainer.interrupted:
            return
        if option := next((name for name in WITHOUT_TRAINING if getattr(self.trainer, name)), None):
            if rank_zero_only.rank == 0:
                print(f"{'run':<10}  none: with trainer.{option} nothing is written or tested")
            return
        is_validated = self.run_directory.is_validated(self.model)
        if not is_validated and self.datamodule.has_validation() and self.trainer.limit_val_batches:
            self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        if self.config.fit.test_after_fit:
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)
        result = self.run_directory.write_result(self.trainer, self.model, self.config.fit.seed_everything)
        if rank_zero_only.rank == 0:
            self.run_directory.finish_record()
            lines = describe_result(result, self.trainer.run and self.trainer.run.path)
            print_lines(terminal(), lines)


def run(args: Sequence[str], kind: type[CLI] = CLI) -> CLI:
    """Run fit, validate, test or predict."""
    rest, names = take_trusted(args)
    with quiet_libraries(), trusting(names), own_exceptions():
        return kind(complete_arguments(rest))
