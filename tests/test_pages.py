"""The pages: their links lead somewhere, their code runs, their commands do what they say."""

import importlib
import json
import re
import shlex
import shutil
import statistics
import unicodedata
from pathlib import Path

import pytest
import yaml

from ttlightning.commands import WITH_TRAINER
from ttlightning.commands.parser import parser_of
from ttlightning.commands.studies import percent

ROOT = Path(__file__).parents[1]
ANY = "best/any.yaml"
"""One recipe for all data sets."""
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
FENCE = re.compile(r"```.*?```|^ {4}.*?$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
ELSEWHERE = {"docs/python.md", "README.md", "CONTRIBUTING.md"}
"""Pages whose code other tests run."""
WITH_CODE = [
    page.relative_to(ROOT).as_posix()
    for page in PAGES
    if "```python" in page.read_text() and page.relative_to(ROOT).as_posix() not in ELSEWHERE
]
WALKS = ["docs/index.md"] + [f"docs/howto/{name}.md" for name in ("compare", "resume", "callback", "data")]
"""Pages whose commands follow each other, from an empty folder."""


def slug(title: str) -> str:
    """The anchor of a heading, as the site and GitHub make it."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", lambda found: found[1] or "", title)
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def anchors(page: Path) -> set[str]:
    return {slug(title) for title in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    text = FENCE.sub("", page.read_text())
    for target, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[^)\s]*)?\)", text):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{page.name} has a link to {target}"
        assert file.is_relative_to(ROOT), target
        if anchor:
            assert anchor[1:] in anchors(file), f"{page.name} has a link to {target}{anchor}"


def test_every_page_is_in_the_navigation_once():
    text = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"^ +- .*: (\S+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(
        page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")
    )
    assert yaml.safe_load(text)["strict"]


def test_names_in_the_reference_exist():
    """``::: name`` is resolved without importing mkdocs; so are the members that are listed."""
    for page in (ROOT / "docs/api").glob("*.md"):
        found = re.findall(r"^::: (\S+)(?:\n    options: \{members: \[([^\]]*)\]\})?", page.read_text(), re.MULTILINE)
        assert found, page
        for name, members in found:
            thing = resolved(name)
            assert thing.__doc__, name
            for member in filter(None, re.split(r", *", members)):
                assert getattr(thing, member).__doc__, f"{name}.{member}"


def resolved(name: str):
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            thing = getattr(thing, part)
        return thing
    raise AssertionError(name)


def test_accuracies_of_the_pages_are_those_of_the_files():
    """Mean and interval of every recipe over seeds, in README and on the pages, from the records of the runs."""
    best = json.loads((ROOT / "results/best.json").read_text())["rows"]
    runs = json.loads((ROOT / "results/table.json").read_text())["runs"]
    found = {row["config"]: row["test"] for row in best}
    for config in ("eq.yaml", "tt.yaml", "paper/a24_eq.yaml", "paper/a24_tt.yaml"):
        found[config] = [run["metrics"]["test/acc"] for run in runs if run["config"] == config]
    pages = {name: (ROOT / name).read_text() for name in ("README.md", "docs/results.md", "docs/baselines.md")}
    recipes = [config for config in found if config.startswith("best/") and config != ANY]
    for config in (*recipes, "paper/a24_eq.yaml", "paper/a24_tt.yaml"):
        assert percent(found[config]) in pages["README.md"], config
    for config in (*recipes, "eq.yaml", "tt.yaml", "paper/a24_eq.yaml", "paper/a24_tt.yaml"):
        [line] = [row for row in pages["docs/results.md"].splitlines() if f"| {config} |" in row]
        assert percent(found[config]) in line
        assert f"({', '.join(f'{100 * value:.2f}' for value in found[config])})" in line
    for row in best:
        if row["config"] in {ANY, "baselines/cnn.yaml", "baselines/shallow.yaml"}:
            assert percent(row["test"]) in pages["README.md"], row["config"]
        if row["config"] == ANY:
            assert percent(row["test"]) in pages["docs/results.md"], row["data"]
    titles = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
    for row in best:
        begin = f"| {titles.get(row['data'], row['data'])} | {row['config']} |"
        [line] = [line for line in pages["docs/baselines.md"].splitlines() if line.startswith(begin)]
        assert f"| {percent(row['test'])} | {statistics.median(row['seconds']):,.0f} |" in line
        assert f"| {row['images_per_second']:,.0f} |" in line
    by_data = {(row["data"], row["config"]): row for row in best}
    ratios = [
        by_data[data, "baselines/mlp.yaml"]["images_per_second"] / row["images_per_second"]
        for (data, config), row in by_data.items()
        if config.startswith("best/")
    ]
    prose = " ".join(pages["docs/baselines.md"].split())
    assert f"has {min(ratios):.0f} to {max(ratios):.0f} times the images a second" in prose
    speeds = [f"{by_data[data, 'baselines/shallow.yaml']['images_per_second']:,.0f}" for data in titles]
    assert f"has {' and '.join(speeds)}, so that a ratio below two" in prose
    behind = [
        100
        * (
            statistics.mean(by_data[data, recipe]["test"])
            - statistics.mean(by_data[data, "baselines/cnn.yaml"]["test"])
        )
        for data, recipe in (("fashion_mnist", "best/fashion_tt.yaml"), ("CIFAR-10 (JPEG)", "best/cifar_tt.yaml"))
    ]
    assert f"it has {behind[0]:.1f} and {behind[1]:.1f} points less than different cores" in prose
    page = (ROOT / "docs/optimization.md").read_text()
    plain = json.loads((ROOT / "results/best_plain.json").read_text())["rows"]
    for row in plain:
        if row["config"].startswith("best/"):
            assert f"`{row['config'].removesuffix('.yaml')}` had {percent(row['test'])}" in page, row["config"]
    for name in ("tree", "cnn", "lstm", "mlp"):
        one, two, three = (percent(row["test"]) for row in plain if row["config"] == f"baselines/{name}.yaml")
        assert f"{one}, {two} and {three}" in prose, name
    for row in best:
        if row["config"] == ANY:
            begin = f"| {titles.get(row['data'], row['data'])} | {row['parameters']:,} | {len(row['seeds'])} |"
            assert f"{begin} {percent(row['test'])} (" in page


@pytest.mark.parametrize(
    ("page", "name"),
    [("optimization", "optimization_study"), ("optimization", "rank_growth"), ("optimization", "core_steps"),
     ("sequences", "time_series"), ("sequences", "languages"), ("compression", "compression")],
)  # fmt: skip
def test_tables_of_studies_are_those_of_the_files(page, name):
    assert (ROOT / f"results/{name}.md").read_text().strip() in (ROOT / f"docs/{page}.md").read_text()


def test_accuracies_of_released_weights_are_those_of_their_cards():
    page = (ROOT / "docs/weights.md").read_text()
    for card in (ROOT / "ttlightning/weights").rglob("*.md"):
        [accuracy] = re.findall(r"^\| test \| ([0-9.]+) \|$", card.read_text(), re.MULTILINE)
        name = card.relative_to(ROOT / "ttlightning/weights").with_suffix("").as_posix()
        [line] = [line for line in page.splitlines() if line.startswith("|") and f"`{name}`" in line]
        assert accuracy in line, name


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """All blocks of a page, one after the other, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names: dict = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        exec(compile(block, page, "exec"), names)


def commands(page: Path) -> list[list[str]]:
    """The words of each line ``ttlightning ...`` of a page, without its comment."""
    text = page.read_text().replace("\\\n", " ")
    lines = re.findall(r"^ {4}(?:python -m )?ttlightning ((?:[^\n#]|(?<! )#)*)", text, re.MULTILINE)
    return [shlex.split(line) for line in lines if "..." not in line]


def write_modules(page: Path, folder: Path) -> None:
    """Blocks of a page that begin with the name of a file, as that file."""
    for name, block in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page.read_text(), re.DOTALL):
        (folder / name).write_text(block)


@pytest.mark.slow
@pytest.mark.parametrize("page", WALKS)
@pytest.mark.usefixtures("rerun_in_this_process")
def test_the_commands_of_a_page_run_in_order(page, command, monkeypatch, write_pictures):
    """Every line but those for minutes of MNIST, which tests/test_recipes.py runs for fewer epochs."""
    write_modules(ROOT / page, command.folder)
    write_pictures(command.folder / "pictures", ("cat", "dog"))
    shutil.copytree(command.folder / "pictures/test/dog", command.folder / "new_pictures")
    monkeypatch.syspath_prepend(command.folder)
    short = [words for words in commands(ROOT / page) if "image_folder" in words or "eq.yaml" not in words]
    assert len(short) >= 2
    for words in short:
        command(*words)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.stem)
def test_every_command_of_every_page_is_understood(page, command, monkeypatch):
    """Verbs, options and values are read as the command line does; verbs with a trainer print their config."""
    run = command.finished("--config=debug.yaml")
    for experiment in ("eq", "norms", "longer", "pictures", "text"):
        shutil.copytree(run, command.folder / "runs" / experiment / "0")
    shutil.copy(run / "checkpoints/last.ckpt", command.folder / "x.ckpt")
    (command.folder / "mine.yaml").write_text("trainer: {max_epochs: 1}\n")
    (command.folder / "other").mkdir()
    for module, name in {"mypackage": "MyFormat", "my": "Format", "other/module": "Format"}.items():
        formats = f"from ttlightning import TensorTrain as {name}, CanonicalPolyadic as Product\n"
        (command.folder / f"{module}.py").write_text(formats)
    write_modules(ROOT / "docs/howto/callback.md", command.folder)
    monkeypatch.syspath_prepend(command.folder)
    for verb, *words in commands(page):
        if verb in WITH_TRAINER:
            command(verb, *words, "--print_config")
        elif verb != "completion":  # its parser is that of the others
            parser_of(importlib.import_module(f"ttlightning.commands.{verb}").main).parse_args(words)


def test_the_commands_are_found():
    assert len({tuple(words) for page in PAGES for words in commands(page)}) > 50
