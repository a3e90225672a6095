"""What the tests share: a naive oracle, small files in the formats of the data sets, the command line as a process."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from torchvision.io import write_jpeg, write_png

from ttlightning.commands.main import main
from ttlightning.training.classifier import Classifier

settings.register_profile("default", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("default")
torch.set_num_threads(1)


def dense_chain(cores: list[torch.Tensor]) -> torch.Tensor:
    """The whole tensor (n, ..., n, classes) of a tensor train, by one einsum after the other: the oracle."""
    whole = cores[0]
    for core in cores[1:]:
        whole = torch.einsum("...a,aib->...ib", whole, core)
    return whole.squeeze(0)


def dense_canonical(factors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The same of a canonical polyadic tensor: one outer product after the other."""
    whole = factors[0]
    for factor in factors[1:]:
        whole = torch.einsum("...k,ik->...ik", whole, factor)
    return torch.einsum("...k,ky->...y", whole, weights)


def dense_tree(leaves: list[torch.Tensor], levels: list[list[torch.Tensor]]) -> torch.Tensor:
    """The same of a hierarchical Tucker tensor: every node joins the whole tensors of its two children."""
    mode_size, parts = leaves[0].shape[0], leaves
    for level in levels:
        children = zip(parts[0::2], parts[1::2], strict=True)
        parts = [
            torch.einsum("ia,jb,abc->ijc", left, right, node).flatten(0, 1)
            for (left, right), node in zip(children, level, strict=True)
        ]
    [root] = parts
    return root.reshape(*[mode_size] * len(leaves), -1)


def dense_scores(weights: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Scores (batch, classes) of features (batch, sites, modes) against a whole weight tensor."""
    rows = []
    for sample in features:
        rest = weights
        for site in sample:
            rest = torch.einsum("i,i...->...", site, rest)
        rows.append(rest)
    return torch.stack(rows)


def write_idx(path: Path, array: np.ndarray) -> None:
    """An uncompressed IDX file, the format of MNIST."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def write_mnist() -> Callable[..., Path]:
    """Writes a data root with random digits in MNIST's layout; the labels are learnable."""

    def write(root: Path, name: str = "MNIST", train: int = 200, test: int = 50) -> Path:
        generator = np.random.default_rng(0)
        for part, samples in (("train", train), ("t10k", test)):
            labels = generator.integers(0, 10, samples)
            images = generator.integers(0, 64, (samples, 28, 28))
            for image, label in zip(images, labels, strict=True):
                image[2 * label : 2 * label + 4] += 150
            write_idx(root / name / "raw" / f"{part}-images-idx3-ubyte", images)
            write_idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", labels)
        return root

    return write


@pytest.fixture
def write_pictures() -> Callable[..., Path]:
    """Writes coloured pictures of 8 x 8 in folders of classes, all different, each class with an ending of its own."""

    def write(root: Path, classes: tuple[str, ...] = ("ant", "bee", "cat"), train: int = 4, test: int = 2) -> Path:
        generator = torch.Generator().manual_seed(0)
        for part, samples in (("train", train), ("test", test)):
            for name, ending in zip(classes, itertools.cycle((".jpg", ".png", ".JPEG"))):
                folder = root / part / name
                folder.mkdir(parents=True)
                for index in range(samples):
                    picture = torch.randint(0, 256, (3, 8, 8), generator=generator, dtype=torch.uint8)
                    file = str(folder / f"{index:02}{ending}")
                    write_png(picture, file) if ending == ".png" else write_jpeg(picture, file)
        return root

    return write


class CommandLine:
    """``ttlightning`` in an empty folder: called, in this process, or as ``.process``, the way a user starts it."""

    def __init__(self, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
        self.folder, self.monkeypatch, self.capfd = folder, monkeypatch, capfd
        self.data = data
        self.environment = {"TTLIGHTNING_DATA": str(data), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}

    def __call__(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        with self.monkeypatch.context() as patch:
            patch.chdir(self.folder)
            patch.delenv("TTLIGHTNING_RUNS", raising=False)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            self.capfd.readouterr()
            try:
                main([str(word) for word in words])
                stopped: object = 0
            except SystemExit as stop:
                stopped = stop.code
        output, errors = self.capfd.readouterr()
        assert stopped == code, f"exit code {stopped}\n{output}\n{errors}"
        return subprocess.CompletedProcess(words, code, output, errors)

    def process(self, *words: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """``python -m ttlightning`` with these words; an environment variable set to "" is taken away."""
        command = [sys.executable, "-m", "ttlightning", *map(str, words)]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "TTLIGHTNING", "PL_"))}
        merged = {name: value for name, value in (clean | self.environment | environment).items() if value}
        done = subprocess.run(command, cwd=self.folder, env=merged, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def result(self, run: str) -> dict:
        return json.loads((self.folder / "runs" / run / "result.json").read_text())

    def steps(self, run: str) -> int:
        """Optimizer steps that a run has made, as its last checkpoint has it."""
        return torch.load(self.folder / "runs" / run / "checkpoints/last.ckpt", weights_only=True)["global_step"]


def assert_one_line(errors: str, message: str) -> None:
    """What a user's mistake leaves on stderr."""
    lines = [line for line in errors.splitlines() if line.strip()]
    assert len(lines) == 1, errors
    assert lines[0].startswith("ttlightning: ")
    assert message in lines[0]


@pytest.fixture
def command(
    tmp_path: Path, write_mnist: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> CommandLine:
    """The command line beside a small data set in MNIST's layout."""
    folder = tmp_path / "work"
    folder.mkdir()
    return CommandLine(folder, write_mnist(tmp_path / "data"), monkeypatch, capfd)


class Killed(BaseException):
    """Stands for SIGKILL in a test that stays in its process: nothing of ours catches it."""


def kill() -> None:
    raise Killed


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Does something right before a given step of training, once."""

    def at(step: int, action: Callable[[], None]) -> None:
        whole = Classifier._losses

        def losses(self, batch):
            if self.training and self.trainer.global_step == step:
                monkeypatch.setattr(Classifier, "_losses", whole)
                action()
            return whole(self, batch)

        monkeypatch.setattr(Classifier, "_losses", losses)

    return at


def contents(run: Path) -> dict:
    """Everything of a run that must come out the same again, without the times."""
    result = json.loads((run / "result.json").read_text())
    del result["seconds"], result["rank_check_seconds"]
    files = ["metrics.csv", "rank/checks.jsonl", "rank/certificate.json", "config.yaml"]
    files += [file.relative_to(run).as_posix() for file in sorted(run.glob("figures/*.csv"))]
    return {"result": result} | {name: (run / name).read_text() for name in files}
