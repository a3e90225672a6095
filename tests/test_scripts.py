"""The scripts that print this project's figures, at their smallest."""

import gzip
import importlib
import itertools
import json
import math
import os
import re
import runpy
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import write_sequences
from scipy.stats import spearmanr
from standalone import judged

from ttlightning import CanonicalPolyadic, EqualCoreTensorTrain, HierarchicalTucker, TensorTrain
from ttlightning.commands.studies import Outcome, percent
from ttlightning.commands.verify import judge
from ttlightning.data.datasets import read_dataset
from ttlightning.errors import UserError
from ttlightning.networks.features import PatchFeatureMap
from ttlightning.networks.network import Network
from ttlightning.rank.verifier.verification import read_certificate
from ttlightning.runs.run import Run

ROOT = Path(__file__).resolve().parent.parent
CERTIFICATES = sorted((ROOT / "results" / "certificates").glob("*.json"))


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """Runs a script in an empty folder, in this process (the runs that it makes have their own); returns its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TTLIGHTNING_RUNS", raising=False)

    def run(name: str, *words: str) -> str:
        monkeypatch.setattr("sys.argv", [name, *words])
        capsys.readouterr()
        code = None
        try:
            runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        assert not code, code
        return capsys.readouterr().out

    return run


def as_a_process(folder: Path, script: str, *words: str) -> str:
    """The same as a user starts it."""
    command = [sys.executable, str(ROOT / "scripts" / script), *words]
    clean = {name: value for name, value in os.environ.items() if name != "TTLIGHTNING_RUNS"}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module(name)


def test_rank_agreement(script):
    said = script("rank_agreement.py", "--entries", "8")
    assert "agree on 240" in said
    assert re.search(r"(\d+) cases n < r: .* holds in \1\n", said)
    assert "absorbed ends give 3,693,048,057 of 6,975,757,441, the ends alone 820,677,346" in said
    assert re.search(r"(\d+) cases of other formats: .* agree on \1\n", said)


def test_partitions(script, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    said = script("partitions.py", "--sites", "4", "6", "--sizes", "3x2", "2x4", "--seeds=1", "--output=found")
    assert said == Path("found.md").read_text()
    assert "| TT, equal cores | 6 | 10 | 7 | 2 of 2 sizes | 1 | 0 of 14 |" in said
    assert "- none" in said
    found = json.loads(Path("found.json").read_text())
    assert len(found) == 16
    committed = json.loads((ROOT / "results" / "partitions.json").read_text())
    assert all(each in committed for each in found)
    tree = next(each["classes"] for each in found if each["format"] == "HT, equal nodes" and each["mode_size"] == 3)
    assert [(row["rows"], row["partitions"], row["rank"], row["cut"]) for row in tree] == [
        ("13", 2, 4, 4),
        ("12", 1, 2, 2),
    ]


def test_partitions_below_their_cut_are_named(monkeypatch):
    partitions = module("partitions", monkeypatch)
    row = {"rows": "13", "partitions": 2, "odd_even": True, "cut": 9, "rank": 9, "least_rank": 8}
    result = {"format": "TT, equal cores", "sites": 4, "mode_size": 3, "rank": 3, "classes": [row]}
    assert [*partitions.below_the_cut([result])] == [
        "- TT, equal cores, 4 sites, n = 3, r = 3: 13 has rank 8 to 9, the cut is 9"
    ]
    for words in (["--sites=5"], ["--sizes=9x2", "--sites=8"], ["--seeds=0"]):
        monkeypatch.setattr("sys.argv", ["partitions.py", *words])
        with pytest.raises(UserError):
            partitions.main()


def test_sequence_speed(script):
    said = script("sequence_speed.py", "--sites=12", "--mode_size=2", "--rank=2", "--repetitions=2")
    assert (
        len(re.findall(r"\| (?:uniform|mostly short) \| (?:64|256) \| [a-z ]+ \| [\d.]+ \(.*\) \| \d+% \|", said)) == 12
    )
    assert len(re.findall(r"each length \| .* \| 100% \|", said)) == 4


@pytest.mark.slow
def test_epoch_overhead(script):
    said = script("epoch_overhead.py", "--epochs=2", "--config=toy/moons.yaml")
    assert len(re.findall(r"epoch \d   fit +[\d.]+ s   bare +[\d.]+ s   ratio [\d.]+", said)) == 2
    assert re.search(r"median ratio [\d.]+ \(from [\d.]+ to [\d.]+\)", said)


@pytest.mark.slow
@pytest.mark.nightly
def test_startup(script):
    said = script("startup.py", "--processes=1")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]
    assert {"--help", "fit, line 1", "fit, line 2", "compare runs/debug", "rerun --help"} <= {row[0] for row in rows}
    assert all(float(cell.replace(",", "")) > 0 for row in rows for cell in row[1:])


def test_staircase_figure(script, tmp_path):
    script("staircase_figure.py", "--output=staircase.png")
    assert (tmp_path / "staircase.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.nightly
def test_make_certificates(command):
    """Of a run, and of generic tensors; each file holds, by the other code."""
    command("fit", "--config=debug.yaml", "--figures=false")
    as_a_process(
        command.folder,
        "make_certificates.py",
        "--runs",
        "runs/debug/0",
        "--output",
        "c",
        "--width_run",
        "runs/debug/0",
        "--images=8",
    )
    files = sorted((command.folder / "c").glob("*.json"))
    assert {"debug.json", "debug-width-8.json", "generic-n3-r5-d9.json"} < {file.name for file in files}
    command("verify", *map(str, files))


@pytest.mark.nightly
@pytest.mark.slow
def test_rank_check_cost(script):
    """Two runs, with and without the width: the seconds of their results; a run that is there is read."""
    said = script("rank_check_cost.py", "--quick", "--output=cost.md")
    assert said == Path("cost.md").read_text()
    shares = dict(re.findall(r"\| (with the width|without) \| \d+ \| .* \| (-?[\d.]+) % \(.*\) \|", said))
    for way, name in (("with the width", "rank_check_cost_debug"), ("without", "rank_check_cost_debug_narrow")):
        [folder] = (Path("runs") / name).glob("0-*")
        run = Run(folder)
        checks, seconds = run.result["rank_check_seconds"], run.result["seconds"]
        assert checks > 0
        assert float(shares.pop(way)) == pytest.approx(100 * checks / (seconds - checks), abs=0.01)
        lines = run.checks_file.read_text().splitlines()
        assert ["width_images" in json.loads(line) for line in lines] == [way != "without"] * len(lines)
    assert shares == {}
    assert script("rank_check_cost.py", "--quick", "--output=cost.md") == said


@pytest.mark.slow
def test_width_memory(command):
    """Of a run that is there; it says the widths of the run's certificate."""
    command.finished("--config=debug.yaml", "--data.dataset=mnist5k")
    said = as_a_process(command.folder, "width_memory.py", "--run", "runs/debug/0", "--images=8")
    assert re.search(r"^K 8  \d+ s  peak \d+\.\d\d GiB", said, re.MULTILINE)
    certificate = command("certify", "runs/debug/0", "--width=8").stdout
    widths = re.findall(r"(\d+) for ([\d.]+) %", certificate)
    assert len(widths) == 6
    assert all(f"{error} %: {units}" in said for units, error in widths)


@pytest.mark.slow
def test_rank_figure(script, tmp_path):
    said = script("rank_figure.py", "--quick", "--seeds=1", "--output=figure")
    assert "0 of 15 differ" in said
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert script("rank_figure.py", "--quick", "--seeds=1", "--output=figure") == said


@pytest.mark.nightly
@pytest.mark.slow
def test_rank_study(script, tmp_path):
    said = script("rank_study.py", "--quick", "--output=study")
    counts = re.findall(r"\| ([\d,]+) / ([\d,]+) \|", said)
    assert [certified for certified, _ in counts] == [generic for _, generic in counts]
    assert len(counts) == 2
    assert (tmp_path / "study.png").stat().st_size > 10_000


@pytest.mark.nightly
@pytest.mark.slow
def test_width_sweep(script, tmp_path):
    """Each format once; once more, and nothing is made again."""
    words = ("--quick", "--formats", "EqualCoreTensorTrain", "CanonicalPolyadic", "--jobs=2", "--output=sweep")
    said = script("width_sweep.py", *words)
    assert said == (tmp_path / "sweep.md").read_text()
    points = json.loads((tmp_path / "sweep.json").read_text())["points"]
    results = [json.loads(file.read_text()) for file in (tmp_path / "runs").rglob("result.json")]
    accuracies = {result["weights_sha256"]: result["metrics"]["test/acc"] for result in results}
    assert len(accuracies) == len(results) == 6  # two rates, and the better one with another seed
    for title, point in zip(("TT, equal cores", "CP (shallow)"), points, strict=True):
        assert point["test_acc"] == [accuracies[digest] for digest in point["weights_sha256"]]
        assert point["seeds"] == [0, 1]
        assert point["rate"] == min((4e-3, 1e-3), key=lambda rate: point["train_losses"][f"{rate:g}"])
        cells = f"{percent(point['test_acc'])} | {percent(point['train_acc'])} | {point['rate']:g} |"
        assert f"| {title} | 2 | {point['parameters']:,} | 2 | {cells}" in said
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
    assert script("width_sweep.py", *words) == script("width_sweep.py", *words, "--finished") == said


@pytest.mark.slow
@pytest.mark.nightly
def test_compression(script, tmp_path):
    """Every way once; once more, and nothing is made again."""
    words = ("--quick", "--jobs=2", "--output=compression")
    said = script("compression.py", *words)
    assert (tmp_path / "compression.md").read_text() in said
    records = json.loads((tmp_path / "compression.json").read_text())["records"]
    results = [json.loads(file.read_text()) for file in (tmp_path / "runs").rglob("result.json")]
    assert {r["weights_sha256"][0]: r["val/acc"][0] for r in records} == {
        result["weights_sha256"]: result["metrics"]["val/acc"] for result in results
    }
    ways = [(record["way"], record["rank"]) for record in records]
    assert {("data, equal, tuned", 2), ("data, different", 2), ("trained", 4)} < set(ways)
    assert (tmp_path / "compression.png").stat().st_size > 10_000
    assert (tmp_path / "compression.md").read_text() in script("compression.py", *words)
    assert len(list((tmp_path / "runs").rglob("result.json"))) == len(results)


def test_a_table_of_compressed_networks(monkeypatch):
    """A line for each way, a column for each rank; parameters once where all cores have them."""
    compression = module("compression", monkeypatch)

    def record(config, way, rank, parameters, errors=()):
        accuracies = [0.5, 0.6]
        return {"config": config, "way": way, "rank": rank, "parameters": parameters, "val/acc": accuracies} | {
            "relative_error": list(errors)
        }

    records = [
        *(record("eq.yaml", "trained", rank, 10 * rank) for rank in (2, 4)),
        record("eq.yaml", "data, equal", 2, 20, (0.5, 0.25)),
        record("eq.yaml", "data, different", 2, 90, (0.1, 0.1)),
        *(record("tt.yaml", "trained", rank, 1000 * rank) for rank in (2, 4)),
        record("tt.yaml", "data, different", 2, 2000, (0.1, 0.1)),
    ]
    lines = compression.table(records, Namespace(configs=["eq.yaml", "tt.yaml"])).splitlines()
    assert lines[0] == "| config | way | r = 2 | r = 4 |"
    assert [line.split(" | ")[1:] for line in lines[2:]] == [
        ["data, different", "55.00 ± 63.53 (0.1)", " |"],
        ["data, equal", "55.00 ± 63.53 (0.38)", " |"],
        ["trained", "55.00 ± 63.53", "55.00 ± 63.53 |"],
        ["parameters", "20", "40 |"],
        ["parameters, different", "90", " |"],
        ["data, different", "55.00 ± 63.53 (0.1)", " |"],
        ["trained", "55.00 ± 63.53", "55.00 ± 63.53 |"],
        ["parameters", "2,000", "4,000 |"],
    ]


def test_the_shallow_network_has_more_ranks(monkeypatch):
    sweep = module("width_sweep", monkeypatch)
    formats = ["TensorTrain", "CanonicalPolyadic"]
    options = Namespace(ranks=[2, 4], shallow_ranks=[64], formats=formats, rates=[1e-3, 2e-3], epochs=1)
    points = sweep.plan(options, {"mnist": ("--data.dataset=mnist",)})
    networks = [("TensorTrain", 2), ("CanonicalPolyadic", 2), ("TensorTrain", 4), ("CanonicalPolyadic", 4)]
    assert [(p.format, p.rank) for p in points[::2]] == [*networks, ("CanonicalPolyadic", 64)]
    assert [p.rate for p in points] == [1e-3, 2e-3] * 5
    assert {p.seed for p in points} == {0}


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [((0.5, 0.2, 0.3), 1e-3), ((0.1, None, 0.3), 4e-3), ((None, 0.7, None), 1e-3), ((None, None, None), None)],
)
def test_the_learning_rate_is_chosen_by_training_loss(losses, chosen, monkeypatch, tmp_path):
    """The accuracy of the test set has no say, and a loss that is not finite is never the lowest."""
    sweep = module("width_sweep", monkeypatch)
    found = {}
    for rate, loss in zip((4e-3, 1e-3, 5e-4), losses, strict=True):
        run = None if loss is None else write_result(tmp_path / str(rate), loss)
        found[sweep.Point("mnist", (), "TensorTrain", 2, rate, 0, 1)] = run
    if chosen is None:
        assert sweep.choose(found) == {}
        return
    [(point, of_rates)] = sweep.choose(found).items()
    assert (point.rate, point.seed) == (chosen, 0)
    assert list(of_rates.values()) == ["not finite" if loss is None else loss for loss in losses]
    other = write_result(tmp_path / "other", 0.9)
    row = sweep.row(point, of_rates, {0: found[point], 1: None, 2: other})
    assert (row["rate"], row["seeds"], row["not_finite"]) == (chosen, [0, 2], 1)
    loss = min(loss for loss in losses if loss is not None)
    assert (row["train_loss"], row["test_acc"]) == ([loss, 0.9], [1 - loss, 1 - 0.9])
    assert len(set(row["weights_sha256"])) == len(set(row["result_sha256"])) == 2


def write_result(path: Path, loss: float) -> Run:
    path.mkdir()
    metrics = {"train/loss": loss, "train/acc": 0.9, "test/acc": 1 - loss}
    (path / "result.json").write_text(json.dumps({"metrics": metrics, "parameters": 10, "weights_sha256": path.name}))
    (path / "provenance.json").write_text(json.dumps({"dataset": {"sha256": "d"}}))
    return Run(path)


@pytest.mark.parametrize("site", range(3))
def test_the_metric_of_the_chain(site, monkeypatch):
    """The change of the scores of all index tuples, weighted by the moments, against the two environments."""
    steps = module("core_steps", monkeypatch)
    torch.manual_seed(site)
    chain = EqualCoreTensorTrain(5, 3, 2, rank=2).double()
    for parameter in chain.parameters():
        torch.nn.init.normal_(parameter)
    factor = torch.randn(3, 3, dtype=torch.float64)
    moments = factor @ factor.T + 0.1 * torch.eye(3, dtype=torch.float64)
    before, after = steps.environments(chain, moments)
    ratios = []
    with torch.no_grad():
        for _ in range(3):
            change = torch.randn(3, 2, 2, dtype=torch.float64)
            cores = [chain.interior[0]] * 3
            cores[site] = change
            tensor = torch.einsum("ia,jab,kbc,lcd,mdy->ijklmy", chain.first, *cores, chain.last)
            weighted = torch.einsum("ijklmy,in,jo,kp,lq,mr->nopqry", tensor, *[moments] * 5)
            left, right = before[site], after[site + 1]
            short = torch.einsum("ij,ab,ibc,cd,jad->", moments, left, change, right, change)
            ratios.append((tensor * weighted).sum() / short)
    torch.testing.assert_close(ratios, [ratios[0]] * 3, rtol=1e-4, atol=0)


def test_the_metric_of_the_chain_in_another_gauge(monkeypatch):
    """G[i] -> S^-1 G[i] S with any S: P becomes S^T P S and Q becomes S^-1 Q S^-T, up to their traces."""
    steps = module("core_steps", monkeypatch)
    torch.manual_seed(0)
    chain = EqualCoreTensorTrain(6, 3, 2, rank=3).double()
    for parameter in chain.parameters():
        torch.nn.init.normal_(parameter)
    gauge, moments = torch.randn(3, 3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    before, after = steps.environments(chain, moments)
    with torch.no_grad():
        chain.first.copy_(chain.first @ gauge)
        chain.interior.copy_(gauge.inverse() @ chain.interior @ gauge)
        chain.last.copy_(torch.einsum("ab,iby->iay", gauge.inverse(), chain.last))
    for old, new, change in zip(
        (*before, *after), itertools.chain(*steps.environments(chain, moments)),
        [gauge] * len(before) + [gauge.inverse().T] * len(after), strict=True,
    ):  # fmt: skip
        expected = change.T @ old @ change
        torch.testing.assert_close(new, expected / expected.trace())


@pytest.mark.nightly
@pytest.mark.slow
def test_core_steps(script, tmp_path):
    """Each kind of step once; once more, and nothing is measured again."""
    ways = ["CoreMuon", "features x 3", "natural, 0.1", "orthogonalized, 0.1", "AdamW, 0.004"]
    words = ("--quick", "--output=steps", "--ways", *ways)
    said = script("core_steps.py", *words)
    assert said == (tmp_path / "steps.md").read_text()
    rows = json.loads((tmp_path / "steps.json").read_text())["rows"]
    assert [row["way"] for row in rows] == ways
    assert len({row["weights_sha256"] for row in rows}) == len({row["train"] for row in rows}) == len(ways)
    assert script("core_steps.py", *words) == said
    assert json.loads((tmp_path / "steps.json").read_text())["rows"] == rows


@pytest.mark.nightly
@pytest.mark.slow
def test_baselines(script, tmp_path):
    """A tensor network and one without ranks; once more, and nothing is made again."""
    words = ("--quick", "--output=table", "--trainer.limit_train_batches=5")
    said = script("baselines.py", *words)
    assert said == (tmp_path / "table.md").read_text()
    equal, cnn = json.loads((tmp_path / "table.json").read_text())["rows"]
    results = {json.loads(f.read_text())["weights_sha256"] for f in (tmp_path / "runs").rglob("result.json")}
    assert {*equal["weights_sha256"], *cnn["weights_sha256"]} == results
    assert int(equal["certified"][0]) > 1
    assert 1 <= equal["width_10_percent"][0] <= equal["width_images"]
    assert (cnn["certified"], cnn["width_10_percent"], cnn["width_images"]) == ([], [], None)
    assert said.splitlines()[3].endswith("| no weight tensor |  |")
    words = [row["result_sha256"] for row in (equal, cnn)]
    for more in ((), ("--finished",)):
        script("baselines.py", "--quick", "--output=table", "--trainer.limit_train_batches=5", *more)
        assert [row["result_sha256"] for row in json.loads((tmp_path / "table.json").read_text())["rows"]] == words
    script("baselines.py", "--quick", "--output=table", "--trainer.limit_train_batches=6", "--finished")
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == []


def test_baselines_update_some_rows_of_a_table(monkeypatch, tmp_path, capsys):
    """The others stay as they are, in their places; a table of another machine, or none, is refused before any run."""
    baselines = module("baselines", monkeypatch)
    file = tmp_path / "best.json"
    file.write_bytes((ROOT / "results/best.json").read_bytes())
    whole = json.loads(file.read_text())
    monkeypatch.setattr(baselines, "cpu_name", lambda: whole["machine"])
    monkeypatch.setattr(baselines.torch, "__version__", whole["torch"])
    new = whole["rows"][3] | {"seeds": [0, 1], "test": [0.5, 0.6]}
    other = new | {"group": "small"}
    monkeypatch.setattr(baselines, "collect", lambda *_: [new, other])
    monkeypatch.setattr(baselines, "make_runs", lambda *_: [])
    monkeypatch.setattr(baselines, "faults_of", lambda _: None)
    words = ["x", "--data=mnist5k", "--groups=small", "--configs=eq.yaml", f"--output={file.with_suffix('')}"]
    monkeypatch.setattr("sys.argv", [*words, "--update"])
    with pytest.raises(SystemExit) as end:
        baselines.main()
    assert end.value.code is None
    rows = json.loads(file.read_text())["rows"]
    assert rows == [*whole["rows"][:3], new, *whole["rows"][4:], other]
    assert file.with_suffix(".md").read_text() == baselines.table(rows) == capsys.readouterr().out
    monkeypatch.delattr(baselines, "make_runs")
    monkeypatch.setattr(baselines, "cpu_name", lambda: "an abacus")
    with pytest.raises(UserError, match=r"best.json is of the machine .*, this is an abacus: use another --output"):
        baselines.main()
    file.unlink()
    with pytest.raises(UserError, match=r"--update: there is no .*best.json"):
        baselines.main()


PAGE = """.TH {name} 1
.SH NAME
{name} \\- {first}
.\\" a comment
.PP
{first}
{second} \\fBbold\\fP
.TP
\\-x, \\-\\-option
/usr/share/{name}
.PP
shared by both languages, as it was never translated
"""


def write_manual(root: Path) -> Path:
    """Pages of two languages, English in the folder itself, one of them packed, one of them with two names."""
    words = {
        "en": ("the words of english pages", "are these and no others"),
        "de": ("die Wörter", "sind diese für uns"),
    }
    for language, (first, second) in words.items():
        folder = root / ("" if language == "en" else language) / "man1"
        folder.mkdir(parents=True)
        for number in range(150):
            name = f"page{number}"
            text = PAGE.format(name=name, first=f"{first} {'i' * (number % 13)} {number}", second=second).encode()
            (folder / f"{name}.1.gz").write_bytes(gzip.compress(text))
        (folder / "packed.1").write_bytes(text.replace(b"149", b"777"))
        (folder / "other.1.gz").symlink_to("page0.1.gz")
    return root


def test_the_corpus_of_languages(monkeypatch, tmp_path):
    """Running text alone, nothing that two languages share, a page's translations on one side."""
    languages = module("languages", monkeypatch)
    most = {"train": 30, "test": 7}
    parts = languages.corpus(write_manual(tmp_path), ["de", "en"], 60, most)
    assert {part: len(pairs) for part, pairs in parts.items()} == {part: 2 * count for part, count in most.items()}
    numbers = {part: {int(re.findall(r"\d+", text)[0]) for _, text in pairs if re.search(r"\d", text)}
               for part, pairs in parts.items()}  # fmt: skip
    assert numbers["train"]
    assert numbers["test"]
    assert not numbers["train"] & numbers["test"]
    for label, text in parts["train"] + parts["test"]:
        assert text.startswith("the words" if label == "en" else "die Wörter")
        assert languages.SHORTEST <= len(text.encode()) <= 60
        assert "bold" not in text or "\\" not in text
    assert parts == languages.corpus(tmp_path, ["de", "en"], 60, most)
    with pytest.raises(UserError, match=r"no pages of fr: install manpages-fr$"):
        languages.corpus(tmp_path, ["de", "fr"], 60, most)


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("languages", ("--longest=9",), "--longest is 9, it must be at least 20 bytes"),
        ("languages", ("--man=nowhere", "--languages", "en"), "nowhere has no pages of en: install manpages$"),
        ("width_sweep", ("--seeds=0",), "--seeds is 0"),
        ("core_steps", ("--epochs=0",), "--epochs is 0"),
    ],
)
def test_what_a_script_refuses(name, words, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [name, *words])
    with pytest.raises(UserError, match=message):
        module(name, monkeypatch).main()
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
@pytest.mark.slow
def test_languages(script, tmp_path, monkeypatch):
    """From pages to the table; once more, and nothing is made again."""
    write_manual(tmp_path / "man")
    words = ("--man=man", "--languages", "de", "en", "--train=30", "--test=7", "--seeds=1", "--output=table")
    said = script("languages.py", *words, "--trainer.max_epochs=8")
    assert said == (tmp_path / "table.md").read_text()
    record = json.loads((tmp_path / "table.json").read_text())
    assert record["documents"] == {"train": 60, "test": 14}
    [result] = [json.loads(file.read_text()) for file in (tmp_path / "runs").rglob("result.json")]
    chain, bayes = record["rows"]
    assert chain["accuracy"][0][0] == pytest.approx(result["metrics"]["test/acc"])
    assert bayes["accuracy"][0] == [1.0]
    assert script("languages.py", *words, "--trainer.max_epochs=8") == said
    monkeypatch.setattr("sys.argv", ["languages", *words, "--longest=50"])
    with pytest.raises(UserError, match="languages was not made with these options"):
        module("languages", monkeypatch).main()


@pytest.mark.parametrize("budget", [*range(5, 40), 1000, 1023, 1024, 1025])
def test_the_widest_network_within_a_budget(budget, monkeypatch):
    baselines = module("baselines", monkeypatch)
    width = baselines.widest(lambda w: 3 * w * w + w, budget)
    assert width == max(w for w in range(1, 100) if 3 * w * w + w <= budget or w == 1)


@pytest.mark.slow
def test_baselines_are_as_large_as_their_reference(monkeypatch, tmp_path, write_pictures):
    """On grey and on coloured images; a folder that is none is refused."""
    baselines = module("baselines", monkeypatch)
    monkeypatch.chdir(ROOT)
    [data] = baselines.read_data(["mnist=anywhere"])
    assert "--data.root=anywhere" in data.options
    entries = baselines.plan([data], ["small"], None, ())
    sizes = {e.config: baselines.parameters(baselines.configuration(e.words), e.data) for e in entries}
    assert list(sizes) == ["eq.yaml", *baselines.SIZED]
    assert all(0.8 * sizes["eq.yaml"] < size <= sizes["eq.yaml"] for size in sizes.values())
    assert len({e.experiment for e in entries}) == len(entries)
    with pytest.raises(UserError, match="--data has 'nothing=there'"):
        baselines.read_data(["nothing=there"])
    [pictures] = baselines.read_data([f"Own pictures={write_pictures(tmp_path / 'own')}"])
    assert (pictures.shape, pictures.classes) == ((3, 8, 8), 3)
    assert "--data.dataset=image_folder" in pictures.options


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_what_is_compared_with_a_best_recipe_is_trained_alike(name, monkeypatch):
    """With a weight tensor: the recipe with another format. Without: its images, labels and batches."""
    baselines = module("baselines", monkeypatch)
    monkeypatch.chdir(ROOT)

    def content(words):
        whole = baselines.configuration(words)
        return {f"{room}.{key}": value for room in ("data", "model", "trainer") for key, value in whole[room].items()}

    [data] = baselines.read_data([name])
    reference = content(("--config", f"best/{baselines.RECIPES[name]}_tt.yaml", *data.options))
    patches = {"data.patch_size", "data.stride", "data.padding"}
    free = {"model.features", "model.optimizer", "model.scheduler", "model.patch_dropout", *patches}
    for entry in baselines.plan([data], ["best"], list(baselines.SIZED), ()):
        differ = {key for key, value in content(entry.words).items() if value != reference[key]} - {"model.format"}
        allowed = {"shallow": set(), "tree": patches}.get(entry.config.split("/")[1].removesuffix(".yaml"), free)
        assert differ <= allowed, entry.config
        assert differ or allowed != free


def test_a_scale_of_the_tree_changes_no_score_and_the_present_one_trains(script, tmp_path, monkeypatch):
    start = module("tree_start", monkeypatch)
    torch.manual_seed(0)
    format, features = HierarchicalTucker(8, 3, 4, 5).double(), torch.rand(6, 8, 3).double()
    before = format(features)
    start.rescale(format, 3.7)
    torch.testing.assert_close(format(features), before)
    said = script("tree_start.py", "--ranks=32", "--rates=1e-3", "--seeds=1", "--steps=12", "--output=start")
    assert said == (tmp_path / "start.md").read_text()
    ones, present, _ = json.loads((tmp_path / "start.json").read_text())["rows"]
    assert ones["largest_loss"] > 20 * present["largest_loss"]
    script("tree_start.py", "--ranks=32", "--rates=1e-3", "--seeds=1", "--steps=12", "--output=start")
    assert json.loads((tmp_path / "start.json").read_text())["rows"][0] == ones


@pytest.mark.slow
@pytest.mark.nightly
def test_time_series(script, tmp_path):
    """Two sets, one of them with series of different lengths; the nearest neighbour by hand."""
    (tmp_path / "Waves").mkdir()
    write_sequences(tmp_path / "Waves", 20, 6)
    (tmp_path / "Steps").mkdir()
    rows = {"TRAIN": ["1 0 0 0 0 0 0 0 0 0 9", "2 1 1 1 1 1 1 1 1 1 1"] * 4, "TEST": ["2 0 0 0 0 0 0 0 0 0 0"]}
    for end, lines in rows.items():
        (tmp_path / f"Steps/Steps_{end}.txt").write_text("\n".join(lines) + "\n")
    words = ("Waves", "Steps", "--seeds=1", "--output=table", "--trainer.max_epochs=1")
    said = script("time_series.py", *words)
    assert said == (tmp_path / "table.md").read_text()
    waves, steps = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert (steps["nearest"], steps["classes"], steps["train"], steps["test"]) == (1.0, 2, 8, 1)
    assert waves["values"][0] < waves["values"][1] <= 40
    results = {json.loads(f.read_text())["weights_sha256"] for f in (tmp_path / "runs").rglob("result.json")}
    assert {*waves["weights_sha256"], *steps["weights_sha256"]} == results


@pytest.mark.slow
@pytest.mark.nightly
def test_width_against_error(script, tmp_path, monkeypatch):
    """No imitator is below the bound on mixed images; once more, and nothing is made again."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))  # it is two files
    words = ("--quick", "--jobs=2", "--output=width")
    said = script("width_against_error.py", *words)
    assert said == (tmp_path / "width.md").read_text()
    found = json.loads((tmp_path / "width.json").read_text())
    states = {(p["cores"], p["state"]) for p in found["points"].values()}
    assert states == {(c, s) for c in ("equal", "different") for s in ("epoch 1", "epoch 0", "Gaussian cores")}
    for point in found["points"].values():
        assert len(point["bound"]) == 65
        assert point["bound"] == sorted(point["bound"], reverse=True)
        for units, kinds in point["imitators"].items():
            assert all(kind["error_on_mixed"] >= point["bound"][int(units)] > 0 for kind in kinds.values())
    trained = {p["weights_sha256"] for p in found["points"].values() if p["state"] == "epoch 1"}
    results = [json.loads(file.read_text()) for file in (tmp_path / "runs").rglob("result.json")]
    assert trained == {result["weights_sha256"] for result in results}
    assert (tmp_path / "width.png").stat().st_size > 10_000
    written = (tmp_path / "width.json").stat().st_mtime_ns
    assert script("width_against_error.py", *words) == said
    assert (tmp_path / "width.json").stat().st_mtime_ns == written


def test_rank_correlation(monkeypatch):
    """Spearman's, as SciPy has it, also with ties; without spread there is none."""
    figure = module("width_against_error_figure", monkeypatch)
    first, second = [0.1, 0.5, 0.5, 0.9, 0.2], [3, 40, 7, 40, 2]
    assert figure.rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert figure.rank_correlation(first, [0.1, 5, 5, 70, 0.2]) == pytest.approx(1)
    assert math.isnan(figure.rank_correlation(first, [1] * 5))


def test_imitators_see_mixed_images(monkeypatch):
    """A grid of scores is that of the single mixed images, and training on it comes near a network that it can be."""
    imitation = module("imitation", monkeypatch)
    patches = torch.rand(12, 6, 5)
    like = imitation.shallow_network(Network(PatchFeatureMap(5, 4), CanonicalPolyadic(6, 4, 3)), patches, 2, 4, seed=1)
    grid = imitation.grid_scores(like, patches, patches).detach()
    mixed = patches[:, None].repeat(1, 12, 1, 1)
    mixed[:, :, 1::2] = patches[None, :, 1::2]
    assert torch.allclose(grid, like(mixed.flatten(0, 1)).view(12, 12, 3), rtol=1e-4, atol=1e-6)
    student = imitation.shallow_network(like, patches, 4, 4, seed=2)
    before = imitation.relative_error(imitation.grid_scores(student, patches, patches), 100 * grid)
    recipe = imitation.Recipe(steps=200, side=12, rate=1e-2, mode_size=4)
    imitation.imitate_mixed(student, patches, 100 * grid, recipe, seed=0)
    after = imitation.relative_error(imitation.grid_scores(student, patches, patches), 100 * grid)
    assert after < 0.3 < 0.9 < before


@pytest.mark.nightly
@pytest.mark.slow
def test_rectifier_width(script, tmp_path):
    said = script("rectifier_width.py", "--quick", "--output=rectifiers")
    assert said.count("| rectifiers, ") == said.count("| products, ") == 4
    networks = json.loads((tmp_path / "rectifiers.json").read_text())["networks"]
    points = [point for study in networks.values() for point in study["epochs"]]
    assert len({point["weights_sha256"] for point in points}) == 8
    assert all(point["bound"][0] > 0.99 and point["bound"][-1] < 1e-3 for point in points)
    assert script("rectifier_width.py", "--quick", "--output=rectifiers") == said


@pytest.mark.parametrize("equal", [True, False])
def test_a_rectifier_train_is_its_formula(monkeypatch, equal):
    """Entry by entry; not linear in a site's features; mixed images take odd patches from their row."""
    rectifiers = module("rectifier_width", monkeypatch)
    network = rectifiers.RectifierTrain(sites=3, mode_size=2, classes=2, rank=2, equal=equal).double()
    features = torch.randn(1, 3, 2, dtype=torch.float64)
    state = [0.0, 0.0]
    for site in range(3):
        core = network.cores[0 if equal else site]
        state = [
            sum(core[i, a, b] * max(features[0, site, i], state[a], 0) for i in range(2) for a in range(2))
            for b in range(2)
        ]
    expected = [sum(state[a] * network.last[a, y] for a in range(2)) for y in range(2)]
    assert network(features)[0].tolist() == pytest.approx([float(score) for score in expected])
    patches = torch.randn(3, 3, 2, dtype=torch.float64)
    scores = rectifiers.scores_on_mixed(network, patches)
    assert torch.allclose(scores[1, 2], network(torch.stack([patches[1, 0], patches[2, 1], patches[1, 2]])[None])[0])


@pytest.mark.nightly
@pytest.mark.slow
def test_reproduce_table(script, tmp_path):
    said = script("reproduce_table.py", "--quick", "--jobs=2", "--output=table", "--wandb.mode=disabled")
    assert (tmp_path / "table.md").read_text() == said
    written = {run["config"]: run for run in json.loads((tmp_path / "table.json").read_text())["runs"]}
    for config, kind in (("eq.yaml", "equal cores"), ("tt.yaml", "different cores")):
        [file] = (tmp_path / "runs" / Path(config).stem).glob("0-*/result.json")
        result = json.loads(file.read_text())
        cells = [f"{100 * result['metrics'][name]:.2f}" for name in ("train/acc", "test/acc")]
        line = [config, f"{kind} on mnist5k", f"{result['parameters']:,}", *(f"{cell} ({cell})" for cell in cells)]
        assert f"| {' | '.join(line)} |" in said
        assert written[config]["weights_sha256"] == result["weights_sha256"]
        assert written[config]["metrics"] == result["metrics"]


@pytest.mark.slow
def test_rank_table(tmp_path):
    said = as_a_process(tmp_path, "rank_table.py", "--quick", "--seeds=2")
    assert "| TT | 3, 4, 4 | 3 (3) | 4 (9) | 12 (9) |" in said
    assert "| HT | 3, 4, 4 | 3 (3) | 3 (3) | 9 (9) |" in said
    assert "| CP | 3, 4, 4 | 3 (3) | 3 (3) | 3 (3) |" in said


@pytest.mark.parametrize("file", CERTIFICATES, ids=lambda file: file.stem)
def test_the_certificates_of_this_repository_hold(file):
    code, line = judge(file)
    assert code == 0
    assert ("linearly independent" in line) == (read_certificate(file)["kind"] == "checkpoint")


@pytest.mark.slow
@pytest.mark.parametrize("file", CERTIFICATES, ids=lambda file: file.stem)
def test_they_hold_by_the_standard_library_alone(file):
    code, line = judged(file)
    assert code == 0
    assert line.endswith(read_certificate(file)["statement"])


def test_benchmark_of_other_formats(monkeypatch):
    """The peer's tree says what ours says, in all of its modes; formats without a peer stand alone."""
    pytest.importorskip("tensorkrowch")
    benchmark = module("benchmark", monkeypatch)
    case = (3, 2, 4, 8)
    ours = HierarchicalTucker(8, 3, benchmark.CLASSES, 2)
    features = torch.randn(4, 8, 3)
    for *mode, inline in itertools.product((True, False), repeat=3):
        peer = benchmark.peer_tree(case, ours, *mode, inline)
        torch.testing.assert_close(peer(features), ours(features))
        assert sum(p.numel() for p in peer.parameters()) == ours.parameter_count()
    rows = benchmark.measure("format", [case], benchmark.OTHERS, 1, 5)
    assert [row["format"] for row in rows] == list(benchmark.OTHERS)
    assert ["step_ratio" in row for row in rows] == [False, True, False]
    assert all(row["step_ms"] > 0 and row["inference_ms"] > 0 and row["memory_mb"] > 0 for row in rows)
    assert benchmark.table_of("format", rows, benchmark.CELLS).row_count == len(rows)


def test_every_way_of_the_peer_is_a_step(monkeypatch):
    pytest.importorskip("tensorkrowch")
    steps = module("peer_ways", monkeypatch).steps_of((3, 2, 4, 6), "equal")
    assert len(steps) == 2 + 64
    times = module("benchmark", monkeypatch).interleaved(steps, 1)
    assert all(milliseconds > 0 for [milliseconds] in times.values())


@pytest.mark.nightly
@pytest.mark.slow
def test_reproducibility(tmp_path):
    said = as_a_process(tmp_path, "reproducibility.py", "--quick", "--output=table")
    assert "exact resume: toy/moons.yaml" in said
    assert "1 of 1 bitwise identical" in (tmp_path / "table.md").read_text()
    assert said.endswith((tmp_path / "table.md").read_text())
    assert {file.name for file in tmp_path.glob("table*")} == {"table.json", "table.md"}


def test_reproducibility_goes_on_where_it_was_stopped(script, tmp_path):
    """Only from a partial table: a complete one is made anew."""
    section = {"stops": {"machine": "another", "table": [["resume", "as before", 1, "1 of 1"]], "detail": None}}
    (tmp_path / "table.partial.json").write_text(json.dumps(section))
    said = script("reproducibility.py", "--quick", "--output=table")
    assert said.splitlines()[-1] == "| resume | as before | 1 | 1 of 1 |"
    assert json.loads((tmp_path / "table.json").read_text()) == section
    assert {file.name for file in tmp_path.glob("table*")} == {"table.json", "table.md"}


@pytest.mark.nightly
@pytest.mark.slow
def test_determinism_price(tmp_path):
    said = as_a_process(tmp_path, "determinism_price.py", "--rounds=1", "--config=debug.yaml")
    assert len(re.findall(r": [\d.]+ times the epoch \([\d.]+ to [\d.]+\)", said)) == 2


@pytest.mark.nightly
@pytest.mark.slow
def test_toy_boundaries(script, tmp_path):
    """What it says is what the runs say, and a second call makes no run again."""
    said = script("toy_boundaries.py", "--quick", "--output=toy")
    assert (tmp_path / "toy.png").stat().st_size > 10_000
    assert re.findall(r"moons \| (.*?), d = 4, r = 2 \| (\d+)", said) == [("tensor train", "62"), ("equal cores", "46")]
    assert script("toy_boundaries.py", "--quick", "--output=toy") == said
    found = json.loads((tmp_path / "toy.json").read_text())
    results = [json.loads(file.read_text()) for file in tmp_path.glob("runs/toy_moons_*/*/result.json")]
    assert len(results) == 2
    assert {row["weights_sha256"]: row["test_accuracy"] for row in found.values()} == {
        result["weights_sha256"]: result["metrics"]["test/acc"] for result in results
    }


@pytest.mark.nightly
@pytest.mark.slow
def test_optimization_study(script):
    """Two changes on few digits: a row each, of the runs' own numbers; the second call makes no run."""
    said = script("optimization_study.py", "--quick", "--output=study")
    assert Path("study.md").read_text() == said
    rows = json.loads(Path("study.json").read_text())["rows"]["mnist5k"]
    assert list(rows) == ["the recipe", "rows, then columns"]
    hashes = [Run(run).result["weights_sha256"] for run in sorted(Path("runs").glob("*/*"))]
    assert {h for row in rows.values() for h in row["weights_sha256"]} == set(hashes)
    for row in rows.values():
        assert f"{100 * row['val'][0]:.2f}" in said
    assert script("optimization_study.py", "--quick", "--output=study") == said
    assert len(list(Path("runs").glob("*/*"))) == 2


def test_a_change_whose_loss_is_not_finite_is_a_result(monkeypatch, tmp_path, capsys):
    """And any other fault ends the study without a table."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("optimization_study")
    monkeypatch.setattr("sys.argv", ["x", "--only", "Gaussian cores", f"--output={tmp_path / 'study'}"])
    faults = iter(("ttlightning: the training loss is nan by step 4", "ttlightning: no data"))
    monkeypatch.setattr(script, "make_runs", lambda jobs, _: [Outcome(jobs[0], None, next(faults))])
    script.main()
    assert "| Gaussian cores |  | not finite |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no data"):
        script.main()


@pytest.mark.parametrize("kind", [TensorTrain, EqualCoreTensorTrain])
@pytest.mark.parametrize("sites", [2, 3, 7])
def test_a_grown_chain_has_the_same_scores(kind, sites, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("rank_growth")
    chain = kind(sites, 4, 3, rank=2, initialization="gaussian").double()
    wide = script.grown(chain, 7, seed=1).double()
    features = torch.randn(9, sites, 4, dtype=torch.float64)
    assert wide.rank == 7
    torch.testing.assert_close(wide(features), chain(features), rtol=1e-5, atol=0)
    wide(features).square().sum().backward()
    columns = wide.last.grad.flatten(0, 1) if sites == 2 else wide.interior.grad.flatten(0, 2)
    assert (
        len({tuple(column.tolist()) for column in columns.T}) == columns.shape[1]
    )  # every copy has a gradient of its own
    assert torch.equal(script.grown(chain, 2, seed=1).interior, chain.interior.float())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--from_rank=33", "--from_rank is 33, it must be from 1 to 32"),
        ("--from_rank=0", "--from_rank is 0, it must be from 1 to 32"),
        ("--epochs 0 2", "--epochs is 0 2, both must be at least 1"),
    ],
)
def test_a_growth_that_is_none_is_refused_before_anything_runs(words, message, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("rank_growth")
    monkeypatch.setattr("sys.argv", ["x", *words.split(), f"--output={tmp_path / 'growth'}"])
    monkeypatch.delattr(script, "make_runs")
    with pytest.raises(UserError, match=message):
        script.main()


@pytest.mark.slow
@pytest.mark.nightly
def test_rank_growth(script):
    """Three ways, of the runs' own numbers; the second call makes no run."""
    said = script("rank_growth.py", "--quick", "--output=growth")
    rows = json.loads(Path("growth.json").read_text())["rows"]
    assert [row["way"] for row in rows] == [
        "rank 4, 2 epochs",
        "rank 4, 1 epochs, then 1",
        "rank 2, 1 epochs; rank 4, 1",
    ]
    assert all(f"| {row['way']} | {100 * row['val'][0]:.2f} |" in said for row in rows)
    runs = {run.result["weights_sha256"] for run in map(Run, Path("runs").glob("*/*"))}
    assert {sha for row in rows for sha in row["weights_sha256"]} <= runs
    count = len(list(Path("runs").glob("*/*")))
    assert script("rank_growth.py", "--quick", "--output=growth") == said
    assert len(list(Path("runs").glob("*/*"))) == count


def test_scale_finds_the_line_of_its_times(monkeypatch):
    """Of times that are a + b B; and the model's speed is what the formula says."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    scale = importlib.import_module("scale")
    found = {f"t({b})": [0.0, 1.5 + 0.02 * b, 9.0] for b in scale.BATCHES}
    assert scale.line(found) == pytest.approx((1.5, 0.02))
    assert scale.exchange(4, 1000, latency=1e-3, bandwidth=1e6) == pytest.approx(4 + 6)  # 2 log2(4), 3/2 of 4,000 bytes
    found |= {name: [0.0, 2.0, 9.0] for w in scale.WORLDS for name in (f"T({w}), B = 64", f"T({w}), B = 512")}
    lines = list(scale.report(found, 1000, latency=0.0, bandwidth=1e30))
    speeds = next(line for line in lines if "speed, B = 64" in line).split()
    assert float(speeds[-1]) == pytest.approx((1.5 + 0.02 * 64) / (1.5 + 0.02), abs=0.005)


def test_a_step_of_stacked_networks_is_theirs(monkeypatch):
    """That which scale.py measures: each network's gradient, by its own batch."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    scale = importlib.import_module("scale")
    stacked = scale.Stacked(3, samples=4)
    gradients = stacked.gradients(stacked.weights, stacked.buffers, stacked.patches, stacked.labels)
    for seed in range(3):
        alone = scale.network(seed)
        torch.nn.functional.cross_entropy(alone(stacked.patches[seed]), stacked.labels[seed]).backward()
        for name, parameter in alone.named_parameters():
            assert torch.allclose(gradients[name][seed], parameter.grad, rtol=1e-3, atol=1e-5), name


def test_the_files_of_larger_than_memory(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = importlib.import_module("larger_than_memory")
    script.write_idx(tmp_path, 300)
    train = read_dataset("mnist", tmp_path).train
    rows = train.images.float().mean((1, 3)).argmax(1)
    assert (((rows - 4) // 2) == train.labels).float().mean() > 0.9  # the bar is where the label says
    found = []
    for size in (2**20, 2**26):  # a process of its own: what this one holds depends on the tests before
        code = f"held = bytearray(b'x' * {size}); print(len(held), flush=True); input()"
        with subprocess.Popen((sys.executable, "-c", code), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            found.append(script.anonymous(child.pid) * 1024)
            child.communicate(b"\n")
    assert 2**26 - 2**22 < found[1] - found[0] < 2**26 + 2**25
    assert script.anonymous(2**22 + 1) == 0


def test_compare_scale(script):
    """On few runs; the memory is that of compare, which imports no torch."""
    said = script("compare_scale.py", "--runs=100", "--epochs=2", "--repetitions=1")
    found = re.search(r"^\| table \| 100 \| ([\d.]+) \(.*\) \| ([\d.]+) \(.*\) \| (\d+) \|$", said, re.M)
    assert found, said
    assert float(found[2]) > 0
    assert int(found[3]) < 150
