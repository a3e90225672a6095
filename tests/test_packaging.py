"""What is installed is what is declared, everywhere the same."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_says_what_pyproject_says():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    assert f"python{PROJECT['requires-python']}" in conda
    assert sorted(pip["pip"]) == sorted([*PROJECT["dependencies"], "--editable ."])


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
