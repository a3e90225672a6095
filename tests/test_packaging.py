"""What is installed is what is declared, everywhere the same."""

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


def test_the_readmes_code_runs():
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_type_checker_sees_the_public_face(tmp_path):
    """mypy, strict, accepts a user's program over every public name, and reports every mistake of another one."""
    programs = {name: ROOT / "tests" / "typing" / f"{name}.py" for name in ("right", "wrong")}
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\nstrict = true\nfollow_imports = silent\ncache_dir = {tmp_path}\n")
    check = [sys.executable, "-m", "mypy", f"--config-file={config}", *map(str, programs.values())]
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
