"""What is installed is what is declared, everywhere the same."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import ttlightning

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_says_what_pyproject_says():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert f"python{PROJECT['requires-python']}" in conda
    assert sorted(pip["pip"]) == sorted(
        [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["train"], "--editable ."]
    )


def test_the_lock_has_every_dependency_with_hashes_and_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|file:|index-url|--find-links| @ ", lock)
    locked = re.findall(
        r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?==[^ \n]+(?: ;[^\n\\]*)? \\\n    --hash=sha256:[0-9a-f]{64}", lock, re.M
    )
    assert len(locked) == len(re.findall(r"^\S+==", lock, re.M))
    extras = [name for group in PROJECT["optional-dependencies"].values() for name in group]
    wanted = {re.match(r"[A-Za-z0-9._-]+", d)[0].lower() for d in [*PROJECT["dependencies"], *extras]}
    assert wanted <= set(locked)


def test_the_wheel_has_configs_and_template_inside(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        inside = set(wheel.namelist())
    configs = {f"ttlightning/configs/{f.relative_to(ROOT / 'configs')}" for f in (ROOT / "configs").rglob("*.yaml")}
    code = {str(f.relative_to(ROOT)) for end in ("py", "jinja") for f in (ROOT / "ttlightning").rglob(f"*.{end}")}
    assert configs
    assert "ttlightning/comparison/page.html.jinja" in code
    assert configs | code <= inside
    index = ROOT / "ttlightning" / "weights" / "index.json"
    released = json.loads(index.read_text()) if index.is_file() else {}
    files = {entry["file"] for entry in released.values()}
    files |= {file.replace(".safetensors", ".md") for file in files} | ({"index.json"} if released else set())
    assert {f"ttlightning/weights/{file}" for file in files} <= inside


def test_the_readmes_code_runs():
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_type_checker_sees_the_public_face():
    """mypy, strict, accepts a user's program over every public name, and reports every mistake of another one.

    With the options and the cache of `make lint`, which has read torch already.
    """
    programs = {name: ROOT / "tests" / "typing" / f"{name}.py" for name in ("right", "wrong")}
    check = [sys.executable, "-m", "mypy", *map(str, programs.values())]
    said = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    reported = re.findall(r"(\w+)\.py:(\d+): error", said)
    lines = enumerate(programs["wrong"].read_text().splitlines(), start=1)
    marked = [("wrong", str(number)) for number, line in lines if line.endswith("# mistake")]
    assert sorted(set(reported)) == sorted(marked), said
    assert len(marked) >= 10
    right = programs["right"].read_text()
    assert all(re.search(rf"\b{name}\b", right) for name in ttlightning.__all__)


def test_the_public_names_for_type_checkers_are_those_at_run_time():
    """The imports under ``TYPE_CHECKING`` and the lazy tables; ``py.typed`` says that the types are for users."""
    assert (ROOT / "ttlightning" / "py.typed").is_file()
    for module in (ttlightning, ttlightning.formats):
        source = Path(module.__file__).read_text()
        typed = set(re.findall(r"^    from [\w.]+ import (\w+) as \1$", source, re.M))
        assert typed == set(module.FILES)


def test_the_console_script_is_the_same_command(tmp_path):
    """``[project.scripts]`` names the function that ``python -m`` calls, and the wheel has the script."""
    module, _, function = PROJECT["scripts"]["ttlightning"].partition(":")
    code = f"import sys; from {module} import {function}; sys.argv[0] = 'ttlightning'; sys.exit({function}())"
    for words in (["--help"], ["rank", "--mode_size=3"], ["nonsense"]):
        script, module_run = (
            subprocess.run([sys.executable, *start, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
            for start in (["-c", code], ["-m", "ttlightning"])
        )
        assert script.stdout == module_run.stdout
        assert script.stderr == module_run.stderr
        assert script.returncode == module_run.returncode == (2 if words == ["nonsense"] else 0)


def test_pre_commit_runs_what_make_lint_runs():
    """With the same programs of the same environment; hooks that name files give them to ruff."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    [repository] = config["repos"]
    assert repository["repo"] == "local"
    hooks = [hook["entry"] for hook in repository["hooks"]]
    lint = re.findall(r"^\t\$\(IN_VENV\) -m (.*)$", (ROOT / "Makefile").read_text().partition("lint:")[2], re.M)[:3]
    for hook, command in zip(hooks, lint, strict=True):
        words = command.replace(" --check", "").removesuffix(" .")
        assert hook.removesuffix(" --force-exclude") == f".venv/bin/python -m {words}"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}


def test_the_environment_can_be_made_from_the_ranges(tmp_path):
    """What ``make environment`` would run for each choice of packages; another word is refused before anything."""
    (tmp_path / "venv").mkdir()
    for packages, wanted in {
        "locked": "uv pip sync --quiet --compile-bytecode --require-hashes",
        "newest": "--editable '.[train,export,report,slurm,dev,bench]'",
        "oldest": "--resolution lowest-direct",
        "cpu": "--no-deps --torch-backend cpu",
    }.items():
        shown = make(tmp_path, "--dry-run", f"PACKAGES={packages}")
        assert shown.returncode == 0, shown.stderr
        assert wanted in shown.stdout
    refused = make(tmp_path, "PACKAGES=old")
    assert refused.returncode == 2
    assert "PACKAGES is old, it must be locked, cpu, newest or oldest" in refused.stdout
    assert not any((tmp_path / "venv").iterdir())


def test_the_environment_for_the_cpu_has_the_locked_packages_without_those_of_cuda(tmp_path):
    """The recipe's own filters, run on requirements.lock: torch and torchvision apart, the rest with its hashes."""
    (tmp_path / "venv").mkdir()
    lines = make(tmp_path, "--dry-run", "PACKAGES=cpu").stdout.splitlines()
    filters = [line for line in lines if line.startswith(("awk", "sed")) and "uv.lock" not in line]
    for line in filters:
        subprocess.run(line, shell=True, cwd=ROOT, check=True)
    names = re.compile(r"^(\S+)==", re.M)
    locked = set(names.findall((ROOT / "requirements.lock").read_text()))
    kept = (tmp_path / "venv/cpu.lock").read_text()
    left_out = locked - set(names.findall(kept))
    assert {name for name in left_out if not name.startswith(("nvidia-", "cuda-"))} == {
        "torch",
        "torchvision",
        "triton",
    }
    assert not re.search(r"^(nvidia|cuda)-", kept, re.M)
    assert len(names.findall(kept)) == len(re.findall(r"^\S+==.*\\\n    --hash=sha256:", kept, re.M)) > 50
    pins = (tmp_path / "venv/torch.txt").read_text().splitlines()
    assert [pin.partition("==")[0] for pin in pins] == ["torch", "torchvision"]
    assert all(f"\n{pin} " in (ROOT / "requirements.lock").read_text() for pin in pins)


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``make environment`` for a new folder."""
    command = ["make", "environment", f"VENV={folder / 'venv'}", f"PYTHON={sys.executable}", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
