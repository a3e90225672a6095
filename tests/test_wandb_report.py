"""scripts/wandb_report.py, with W&B's own client, against a local stand-in for its server."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import clean_environment, read_wandb
from wandb_stub import WandbStub

from ttlightning.comparison.tables import NUMBERS

ROOT = Path(__file__).parents[1]
VIEWER = {
    "viewer": {
        "id": "VXNlcjox",
        "entity": "lab",
        "username": "ada",
        "email": "ada@lab",
        "flags": "{}",
        "teams": {"edges": [{"node": {"name": "lab"}}]},
    }
}
PROJECT = {"id": "UHJvamVjdDox", "name": "ttlightning", "entityName": "lab"}
PROJECTS = {
    "models": {
        "pageInfo": {"endCursor": "c", "hasNextPage": False},
        "edges": [{"node": PROJECT | {"createdAt": "2026-11-28T00:00:00Z", "isBenchmark": False, "user": None}}],
    }
}


def saved(variables: dict[str, Any]) -> dict[str, Any]:
    """W&B's answer to a report: what was sent, with identifiers and dates."""
    texts = {name: variables[name] for name in ("type", "name", "displayName", "description", "spec")}
    dates = dict.fromkeys(("createdAt", "updatedAt"), "2026-11-28T00:00:00Z")
    return {"upsertView": {"view": {"id": "Vmlldzox", "project": PROJECT, **texts, **dates}, "inserted": True}}


ANSWERS = {
    "Viewer": VIEWER,
    "ProjectInternalId": {"project": {"id": PROJECT["id"], "internalId": "UHJvamVjdEludGVybmFsSWQ6MQ=="}},
    "GetProjects": PROJECTS,
    "upsertView": saved,
    "UpsertView2": lambda asked: {"upsertView": {"view": {"id": "Vmlldzoy", "name": asked["name"]}, "inserted": True}},
}
"""Operation: the response of W&B's API, with the fields that its client reads."""


@pytest.fixture
def server():
    stub = WandbStub(dict(ANSWERS))
    yield stub
    stub.close()


def call(server: WandbStub, folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own, whose W&B is the stub and whose home is an empty folder."""
    pytest.importorskip("wandb_workspaces")
    account = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "a" * 40, "HOME": str(folder)} | variables
    command = [sys.executable, str(ROOT / "scripts/wandb_report.py"), *words]
    environment = clean_environment(OMP_NUM_THREADS="1", **account)
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def metrics_of(content: Any) -> set[str]:
    """Every text in a specification."""
    if isinstance(content, dict):
        return set().union(*map(metrics_of, content.values()))
    if isinstance(content, list):
        return set().union(*map(metrics_of, content))
    return {content} if isinstance(content, str) else set()


def test_report_and_workspace_are_saved(server, tmp_path):
    done = call(server, tmp_path, "lab/ttlightning")
    assert done.returncode == 0, done.stderr
    report, workspace = ((name, asked) for name, asked in server.asked if name.lower().startswith("upsertview"))
    lines = [line for line in done.stdout.splitlines() if not line.startswith("wandb")]
    assert [line.split()[0] for line in lines] == ["report", "workspace"]
    assert all(f"{server.url}/lab/ttlightning" in line for line in lines)
    for name, asked in (report, workspace):
        assert (asked["entityName"], asked["projectName"]) == ("lab", "ttlightning")
        assert asked["displayName"] == "Tensor-train networks, side by side"
        assert not asked.get("id"), f"{name} would change a view that exists"
    assert (report[1]["type"], workspace[1]["type"]) == ("runs", "project-view")
    blocks = json.loads(report[1]["spec"])["blocks"]
    grids = [block for block in blocks if block["type"] == "panel-grid"]
    assert [len(block["metadata"]["panelBankSectionConfig"]["panels"]) for block in grids] == [3, 4, 2, 2]
    for grid in grids:
        [runs] = grid["metadata"]["runSets"]
        assert [group["name"] for group in runs["grouping"]] == ["group"]
    sections = json.loads(workspace[1]["spec"])["section"]["panelBankConfig"]["sections"]
    assert {"Training": 4, "Results": 3, "Sweep": 1}.items() <= {s["name"]: len(s["panels"]) for s in sections}.items()


@pytest.mark.slow
def test_every_chart_is_of_something_that_a_run_records(server, tmp_path, command):
    """Of a run's offline record, by W&B's own reader, and of the shipped sweeps."""
    call(server, tmp_path, "lab/ttlightning", "--only=report")
    [spec] = [asked["spec"] for name, asked in server.asked if name == "upsertView"]
    shown = metrics_of(json.loads(spec))
    charts = {text for text in shown if re.fullmatch(r"(train|val|test|rank|trainer)/\w+|epoch", text)}
    run = command.finished("--config=debug.yaml", "--wandb.mode=offline")
    [log] = run.glob("wandb/offline-run-*/*.wandb")
    summary, records = read_wandb(log)
    recorded = json.dumps([summary, records])
    assert len(charts) >= 8
    assert [name for name in charts if f'"{name}"' not in recorded] == []
    assert '"parameters"' in recorded
    sweeps = [yaml.safe_load(file.read_text())["parameters"] for file in (ROOT / "configs/sweeps").glob("*.yaml")]
    swept = {text.removeprefix("c::").removeprefix("config:") for text in shown if "init_args" in text}
    assert swept
    assert {name.removesuffix(".value").replace(".value.", ".") for name in swept} <= set().union(*sweeps)


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        (["ttlightning"], {}, "the project is 'ttlightning', it must be entity/project"),
        (["lab/ttlightning"], {"WANDB_API_KEY": ""}, "W&B did not take the report for lab/ttlightning: "),
        (["lab/ttlightning"], {"WANDB_API_KEY": "b" * 39}, "W&B did not take the report for lab/ttlightning: "),
    ],
)
def test_a_mistake_is_one_line_and_sends_nothing(server, tmp_path, words, variables, message):
    done = call(server, tmp_path, *words, **variables)
    assert done.returncode == 2
    assert f"wandb_report: {message}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not [name for name, _ in server.asked if name.lower().startswith("upsertview")]


def test_a_server_that_refuses_is_one_line(server, tmp_path):
    """The report is refused, and the workspace is not tried."""
    del server.answers["upsertView"]
    done = call(server, tmp_path, "lab/ttlightning")
    assert done.returncode == 2
    assert "W&B did not take the report for lab/ttlightning" in done.stderr.splitlines()[-1]
    assert "UpsertView2" not in [name for name, _ in server.asked]


def test_the_table_of_the_page_has_the_titles_of_compare():
    page = (ROOT / "docs/howto/compare.md").read_text()
    [head] = re.findall(r"^\| name \| format \|(.*)\|$", page, re.M)
    assert {title.strip() for title in head.split("|")} <= set(NUMBERS)
