"""The benchmarks compare the same networks, and docs/speed.md says what they measured."""

import importlib
import json
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
