"""Fixtures for all tests: small datasets, the command line, runs that are trained once a session, kills."""

import functools
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from matplotlib.figure import Figure
from PIL import Image
from torchvision.io import write_jpeg, write_png

from ttlightning import PatchDataModule
from ttlightning.commands import rerun
from ttlightning.commands.main import main
from ttlightning.training.classifier import Classifier
from ttlightning.training.trainer import Trainer

settings.register_profile("default", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("default")
torch.set_num_threads(1)


def write_idx(path: Path, array: np.ndarray) -> None:
    """An uncompressed IDX file, the format of MNIST."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_sequences(folder: Path, train: int = 200, test: int = 50) -> None:
    """Learnable time series of 12 to 40 values, and documents of 4 to 30 bytes, in files of this folder."""
    generator = np.random.default_rng(0)
    for part, samples in (("train", train), ("test", test)):
        series, documents = [], []
        for index in range(samples):
            label, values, letters = index % 2, generator.integers(12, 41), generator.integers(3, 30)
            wave = np.sin((0.3 + 0.6 * label) * np.arange(values) + generator.uniform(0, 6))
            series.append("\t".join([str(2 * label - 1), *map("{:.4f}".format, wave), *["NaN"] * (40 - values)]))
            documents.append(f"{'xz'[label]}-like\t" + "xz"[label] + "".join(generator.choice(list("abc"), letters)))
        (folder / f"Waves_{part.upper()}.tsv").write_text("\n".join(series) + "\n")
        (folder / f"{part}.txt").write_text("\n".join(documents) + "\n")


@pytest.fixture
def write_mnist() -> Callable[..., Path]:
    """Writes a data root with random images in MNIST's layout and learnable labels, and files of sequences."""

    def write(root: Path, name: str = "MNIST", train: int = 200, test: int = 50) -> Path:
        generator = np.random.default_rng(0)
        for part, samples in (("train", train), ("t10k", test)):
            labels = generator.integers(0, 10, samples)
            images = generator.integers(0, 64, (samples, 28, 28))
            for image, label in zip(images, labels, strict=True):
                image[2 * label : 2 * label + 4] += 150
            write_idx(root / name / "raw" / f"{part}-images-idx3-ubyte", images)
            write_idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", labels)
        write_sequences(root, train, test)
        return root

    return write


@pytest.fixture
def write_pictures() -> Callable[..., Path]:
    """Writes different colour images of side x side pixels into one folder per class; each has its own file type."""

    def write(
        root: Path, classes: tuple[str, ...] = ("ant", "bee", "cat"), train: int = 4, test: int = 2, side: int = 8
    ) -> Path:
        generator = torch.Generator().manual_seed(0)
        for part, samples in (("train", train), ("test", test)):
            for name, ending in zip(classes, itertools.cycle((".jpg", ".png", ".JPEG"))):
                folder = root / part / name
                folder.mkdir(parents=True)
                for index in range(samples):
                    picture = torch.randint(0, 256, (3, side, side), generator=generator, dtype=torch.uint8)
                    file = str(folder / f"{index:02}{ending}")
                    write_png(picture, file) if ending == ".png" else write_jpeg(picture, file)
        return root

    return write


def empty_picture(figure: Figure, file: Any, **options: Any) -> None:
    """Stands for ``Figure.savefig`` in a run: drawing takes a quarter of the time of a small ``fit``."""
    Image.new("RGB", (1, 1)).save(file, format="png")


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without what changes W&B, a launcher or this package; a variable set to "" is removed."""
    names = ("WANDB", "TTLIGHTNING", "PL_", "SLURM", "TORCHELASTIC", "RANK", "LOCAL_RANK")
    merged = {name: value for name, value in os.environ.items() if not name.startswith(names)} | more
    return {name: value for name, value in merged.items() if value}


class CommandLine:
    """``ttlightning`` in an empty folder, called in this process; ``process`` starts it as a user does.

    Figures of ``fit`` are empty pictures unless ``draws`` is set; their tables are complete.
    """

    def __init__(
        self, folder: Path, data: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
    ) -> None:
        self.folder, self.data, self.shared = folder, data, shared
        self.monkeypatch, self.capfd = monkeypatch, capfd
        self.draws = False
        self.environment = {"TTLIGHTNING_DATA": str(data), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}

    def __call__(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """The output of the command, which ends with this exit code; None: with any."""
        with self.monkeypatch.context() as patch:
            patch.chdir(self.folder)
            patch.delenv("TTLIGHTNING_RUNS", raising=False)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            if words[:1] == ("fit",) and not self.draws:
                patch.setattr(Figure, "savefig", empty_picture)
            self.capfd.readouterr()
            try:
                main([str(word) for word in words])
                stopped: object = 0
            except SystemExit as stop:
                stopped = stop.code
        output, errors = self.capfd.readouterr()
        assert stopped == code or code is None, f"exit code {stopped}\n{output}\n{errors}"
        return subprocess.CompletedProcess(words, stopped, output, errors)

    def finished(self, *words: str) -> Path:
        """The run of ``fit`` with these words, as the next run of its experiment: trained once a session, then copied.

        For tests that need a finished run and do not look at how it was made. All tests have the same data.
        """
        key = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]
        folder = self.shared / key
        with FileLock(f"{folder}.lock"):
            if not (folder / "complete").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                trainer = CommandLine(folder, self.data, self.shared, self.monkeypatch, self.capfd)
                trainer("fit", *words)
                (folder / "complete").touch()
        [run] = (folder / "runs").glob("*/0")
        experiment = self.folder / "runs" / run.parent.name
        experiment.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copytree(run, experiment / str(len(list(experiment.iterdir())))))

    def killed(self, step: int, *words: str) -> None:
        """The command with these words, killed right before an optimizer step."""
        before_step(self.monkeypatch, step, kill)
        with pytest.raises(Killed):
            self(*words)

    def _process(self, words: tuple[str, ...], environment: dict[str, str]) -> dict[str, Any]:
        """The arguments of ``subprocess`` for ``python -m ttlightning`` with these words."""
        command = [sys.executable, "-m", "ttlightning", *map(str, words)]
        environment = clean_environment(**self.environment | environment)
        return {"args": command, "cwd": self.folder, "env": environment, "text": True}

    def start(self, *words: str, environment: dict[str, str] | None = None, **options: Any) -> "subprocess.Popen[str]":
        """Start ``python -m ttlightning`` with these words; ``options`` are those of ``Popen``."""
        return subprocess.Popen(**self._process(words, environment or {}), **options)

    def process(self, *words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """``python -m ttlightning`` with these words, to its end."""
        done = subprocess.run(**self._process(words, environment), capture_output=True, timeout=300)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def result(self, run: str) -> dict:
        return json.loads((self.folder / "runs" / run / "result.json").read_text())

    def steps(self, run: str) -> int:
        """Optimizer steps of a run, by its last checkpoint."""
        return torch.load(self.folder / "runs" / run / "checkpoints/last.ckpt", weights_only=True)["global_step"]


def assert_one_line(errors: str, message: str) -> None:
    """stderr after a user's mistake: one line with this message."""
    lines = [line for line in errors.splitlines() if line.strip()]
    assert len(lines) == 1, errors
    assert lines[0].startswith("ttlightning: ")
    assert message in lines[0]


@pytest.fixture(scope="session")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of finished runs that all workers of a session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished_runs"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def command(
    tmp_path: Path,
    write_mnist: Callable[..., Path],
    shared_runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> CommandLine:
    """The command line, with a small dataset in MNIST's layout."""
    folder = tmp_path / "work"
    folder.mkdir()
    return CommandLine(folder, write_mnist(tmp_path / "data"), shared_runs, monkeypatch, capfd)


class Killed(BaseException):
    """Stands for SIGKILL inside the test's process: the package does not catch it."""


def kill() -> None:
    raise Killed


def before_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Call ``action`` right before an optimizer step, once."""
    original = Classifier._losses

    def losses(self, batch):
        if self.training and self.trainer.global_step == step:
            monkeypatch.setattr(Classifier, "_losses", original)
            action()
        return original(self, batch)

    monkeypatch.setattr(Classifier, "_losses", losses)


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Calls an action right before an optimizer step, once."""
    return functools.partial(before_step, monkeypatch)


@pytest.fixture
def rerun_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """``rerun`` calls the command that it would start as a process."""

    def start(*words: str) -> int:
        assert words[:3] == (sys.executable, "-m", "ttlightning")
        main(words[3:])
        return 0

    monkeypatch.setattr(rerun, "start", start)


@pytest.fixture
def digits(tmp_path: Path, write_mnist: Callable[..., Path]) -> PatchDataModule:
    """The small dataset in MNIST's layout as 16 patches: 180 images to train on, in batches of 32."""
    root = write_mnist(tmp_path / "mnist")
    return PatchDataModule("mnist", root, patch_size=7, batch_size=32, validation=0.1, seed=4)


def quiet_trainer(folder: Path, kind: type = Trainer, **options: Any) -> Any:
    """A trainer on the CPU that prints nothing and keeps no file."""
    names = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    return kind(default_root_dir=folder, accelerator="cpu", **dict.fromkeys(names, False) | options)


def read_wandb(log: Path) -> tuple[dict, list[dict]]:
    """Summary and records of an offline record, by W&B's own reader, which needs no account."""
    read = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", log]
    if tuple(map(int, version("wandb").split(".")[:2])) < (0, 31):
        pytest.skip("the reader of this wandb prints no JSON")
    summary, records = (
        subprocess.run([*read, *more], capture_output=True, text=True, check=True).stdout
        for more in (["--summary"], [])
    )
    return json.loads(summary), [json.loads(line) for line in records.splitlines()]


def file_contents(folder: Path) -> dict[Path, bytes]:
    """The content of every file below a folder."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def contents(run: Path) -> dict:
    """The files of a run that must be the same when it is trained again, without times."""
    result = json.loads((run / "result.json").read_text())
    del result["seconds"], result["rank_check_seconds"]
    ranks = ["rank/checks.jsonl", "rank/certificate.json"] if result["rank"] else []
    files = ["metrics.csv", *ranks, "config.yaml"]
    files += [file.relative_to(run).as_posix() for file in sorted(run.glob("figures/*.csv"))]
    return {"result": result} | {name: (run / name).read_text() for name in files}
