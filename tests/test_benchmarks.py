"""The benchmarks compare the same networks, and docs/speed.md says what they measured."""

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ttlightning.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def script(monkeypatch):
    """A script as a module; what JAX needs in the environment ends with the test."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize(
    ("kind", "sites", "way"),
    [("equal", 6, "outer"), ("different", 6, "matrix"), ("equal", 3, "matrix"), ("different", 2, "outer")],
)
def test_jax_trains_the_same_network(script, kind, sites, way):
    """The same scores, and after three steps of Adam the same parameters as torch."""
    pytest.importorskip("jax")
    benchmark, peer = script("benchmark"), script("benchmark_jax")
    assert way in peer.WAYS
    case = (3, 2, 4, sites)
    torch.manual_seed(0)
    network = benchmark.Network(3, benchmark.ours(case, kind))
    patches, labels = benchmark.batch_of(case)
    train, infer = peer.make_jax_steps(network, patches, labels, way)
    np.testing.assert_allclose(infer(), network(patches).detach(), rtol=1e-5, atol=1e-6)

    before = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.Adam(network.parameters(), lr=peer.ADAM["rate"])
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(network(patches), labels).backward()
        optimizer.step()
        values = train()
    moved = 0
    for (name, ours), old in zip(network.named_parameters(), before, strict=True):
        if ours.numel():
            change = (ours - old).detach()
            np.testing.assert_allclose(np.asarray(values[name.rpartition(".")[2]]) - old.numpy(), change, atol=2e-7)
            moved += int((change != 0).sum())
    assert moved > 10


@pytest.mark.slow
def test_a_benchmark_has_jax_on_one_thread(script, monkeypatch):
    """The fastest of the two programs, with the spread of its ratio; on two threads no JAX."""
    pytest.importorskip("tensorkrowch")
    pytest.importorskip("jax")
    benchmark = script("benchmark")
    monkeypatch.setattr(benchmark, "MODES_OF_PEER", [benchmark.DEFAULT_MODE])
    row = benchmark.measure("kind", [(3, 2, 4, 6)], ["equal"], 1, 5)[0]
    for what in ("step", "inference"):
        low, high = row[f"{what}_jax_ratio_quartiles"]
        assert 0 < low <= row[f"{what}_jax_ratio"] <= high
        assert row[f"{what}_jax_mode"] in ("jax outer", "jax matrix")
        assert row[f"{what}_peer_mode"] == str(benchmark.DEFAULT_MODE)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert "step_jax_ms" not in benchmark.compare((3, 2, 4, 6), "equal", 5)


@pytest.mark.slow
def test_networks_of_the_same_accuracy(script, monkeypatch, tmp_path):
    """Every network learns the digits; the table of the page has a line for each."""
    networks, page = script("benchmark_networks"), script("speed_page")
    words = [
        "--epochs=3",
        "--rounds=3",
        "--threads=1",
        "--dataset=mnist5k",
        f"--output={tmp_path / 'benchmark_networks'}",
    ]
    monkeypatch.setattr("sys.argv", ["benchmark_networks.py", *words])
    networks.main()
    report = json.loads((tmp_path / "benchmark_networks.json").read_text())
    assert [row["network"] for row in report["networks"]] == list(networks.NETWORKS)
    for row in report["networks"]:
        assert row["accuracy"] > 0.6
        for what in ("training", "inference"):
            low, high = row["threads_1"][f"{what}_quartiles"]
            assert 0 < low <= row["threads_1"][f"{what}_images_per_s"] <= high
    assert report["networks"][0]["threads_1"]["training_ratio"] == 1
    lines = page.made("networks", tmp_path).splitlines()
    assert len(lines) == 2 + len(networks.NETWORKS)
    assert "accuracy, mnist5k, 3 epochs" in lines[0]


def test_the_tables_of_the_page_are_those_of_the_files(script):
    page = script("speed_page")
    text = (ROOT / "docs/speed.md").read_text()
    assert page.page_with_tables(text, ROOT / "results") == text
    changed = text.replace("| 17, 16, 64, 16 |", "| 17, 16, 64, 17 |")
    assert changed != text
    assert page.page_with_tables(changed, ROOT / "results") == text
    with pytest.raises(UserError, match="<!-- trees -->"):
        page.page_with_tables(text.replace("<!-- trees -->", ""), ROOT / "results")


def gpu_script(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TTLIGHTNING_DATA"}
    command = [sys.executable, str(ROOT / "scripts" / "gpu.py"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.nightly
@pytest.mark.slow
def test_every_section_of_the_gpu_script_runs_dry(tmp_path):
    """On the CPU, in Triton's interpreter: all paths are exact and repeatable, all rivals are measured."""
    done = gpu_script("--dry_run", "--minutes=14", f"--output={tmp_path / 'gpu.json'}")
    assert done.returncode == 0, done.stdout + done.stderr
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert list(sections) == ["tests", "exactness", "rerun", "speed", "seeds"]
    assert re.match(r"\d+ passed, \d+ deselected", sections["tests"]["summary"])
    rows = sections["exactness"]["rows"]
    assert {(row["path"], row["kind"], row["dtype"]) for row in rows} == {
        (path, kind, dtype)
        for path in ("torch", "compiled", "triton")
        for kind in ("different", "equal")
        for dtype in ("torch.float32", "torch.float64")
    }
    assert all(row["within"] and row["same_bits_again"] and len(row["differences"]) == 6 for row in rows)
    for row in sections["speed"]["rows"]:
        assert {name.split()[0] for name in row["ms"]} == {"torch", "compiled", "triton", "tensorkrowch", "jax"}
    assert len({run["weights_sha256"] for run in sections["seeds"]["runs"]}) == 2


@pytest.mark.slow
def test_a_section_that_fails_is_recorded_and_the_others_run(tmp_path):
    """Here for want of time: exit code 1, and every section is in the file with its fault."""
    done = gpu_script("--dry_run", "--minutes=0", f"--output={tmp_path / 'gpu.json'}", "--sections", "speed", "seeds")
    assert done.returncode == 1
    sections = json.loads((tmp_path / "gpu.json").read_text())["sections"]
    assert list(sections) == ["speed", "seeds"]
    assert all("stopped after 1 s" in found["fault"] and not found["right"] for found in sections.values())
    assert "WRONG" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_gpu_script_without_a_gpu_is_one_line(tmp_path):
    done = gpu_script(f"--output={tmp_path / 'gpu.json'}")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "gpu: torch sees no GPU here; --dry_run runs every section on the CPU, at small sizes"
    )
    assert not (tmp_path / "gpu.json").exists()


def test_the_exactness_of_a_path_can_be_wrong(script, monkeypatch):
    """A path with other numbers is not within the limits."""
    pytest.importorskip("triton")
    chain = script("gpu_chain")
    monkeypatch.setattr(chain, "PATHS", ("torch",))
    assert chain.exactness([(3, 2, 4, 6)], torch.device("cpu"))["right"]
    right = chain.outcome

    def wrong(network, *rest):
        size = 1.001 if next(network.parameters()).dtype == torch.float32 else 1.0
        return {name: size * value for name, value in right(network, *rest).items()}

    monkeypatch.setattr(chain, "outcome", wrong)
    found = chain.exactness([(3, 2, 4, 6)], torch.device("cpu"))
    assert not found["right"]
    assert {row["dtype"] for row in found["rows"] if not row["within"]} == {"torch.float32"}
