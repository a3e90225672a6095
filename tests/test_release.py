"""The files of a release say the same: version, address, classifiers; the workflows call what exists."""

import re
import subprocess
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml
from trove_classifiers import classifiers

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
WORKFLOWS = {file.stem: yaml.safe_load(file.read_text()) for file in (ROOT / ".github/workflows").glob("*.yml")}
FORMS = sorted(set((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")) - {ROOT / ".github/ISSUE_TEMPLATE/config.yml"})
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")


def test_one_version_everywhere():
    versions = re.findall(r"^## \[([0-9.]+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    days = [date.fromisoformat(day) for _, day in versions]
    assert versions[0] == (PROJECT["version"], CITATION["date-released"].isoformat())
    assert CITATION["version"] == PROJECT["version"]
    assert days == sorted(days, reverse=True)
    for number, _ in versions:
        assert (
            f"[{number}]: {PROJECT['urls']['Repository']}/releases/tag/v{number}" in (ROOT / "CHANGELOG.md").read_text()
        )


def test_the_changelog_keeps_to_its_format():
    sections = re.findall(r"^### (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_one_address_everywhere():
    """Every address at GitHub in the files of a release is in the project's own repository."""
    repository = PROJECT["urls"]["Repository"]
    assert CITATION["repository-code"] == repository
    owner = repository.split("/")[3]
    assert PROJECT["urls"]["Documentation"].startswith(f"https://{owner}.github.io/")
    files = [*(ROOT / page for page in PAGES), *FORMS, ROOT / ".github/ISSUE_TEMPLATE/config.yml"]
    for file in files:
        for address in re.findall(r"https://github\.com/[^\s)\"']+", file.read_text()):
            assert address.startswith(f"{repository}/"), file


def test_the_citation_names_package_and_both_papers():
    assert (CITATION["type"], CITATION["license"]) == ("software", PROJECT["license"])
    assert CITATION["authors"] == PROJECT["authors"]
    papers = [(p["authors"][0]["family-names"], p["year"]) for p in CITATION["references"]]
    assert papers == [("Khrulkov", 2018), ("Alkin", 2024)]


def test_the_classifiers_exist():
    assert set(PROJECT["classifiers"]) <= classifiers
    assert PROJECT["classifiers"] == sorted(set(PROJECT["classifiers"]), key=PROJECT["classifiers"].index)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page):
    """Files and folders in backticks, links and targets of make."""
    text = (ROOT / page).read_text()
    paths = re.findall(r"`((?:ttlightning|tests|docs|scripts|configs|results)/[\w./-]*)`", text)
    paths += [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    missing = [path for path in paths if not (ROOT / path).exists() and path != "ttlightning/formats/product.py"]
    assert not missing
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^    make ([a-z-]+)", text, re.M)) <= targets


def test_the_format_in_ten_minutes_keeps_every_law():
    """The page's code runs: it ends with ``check_format``, which fails for a class that forgets a site."""
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    assert code.splitlines()[-1].startswith("check_format(Product)")
    exec(code, {"__name__": "page"})
    broken = code.replace("range(self.sites)", "range(1, self.sites)")
    assert broken != code
    with pytest.raises(AssertionError):
        exec(broken, {"__name__": "page"})


@pytest.mark.parametrize("file", FORMS, ids=lambda file: file.stem)
def test_an_issue_form_is_one_that_github_takes(file):
    form = yaml.safe_load(file.read_text())
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
    names = [field["id"] for field in fields]
    labels = [field["attributes"]["label"] for field in fields]
    assert len(set(names)) == len(names)
    assert len(set(labels)) == len(labels)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_workflows_try_every_python_system_and_choice_of_packages():
    """ci has the locked packages, weekly the newest and the oldest; every classified Python is among them."""
    assert set(WORKFLOWS) >= {"ci", "weekly", "wheels"}
    ci, weekly = (WORKFLOWS[name]["jobs"]["tests"] for name in ("ci", "weekly"))
    systems = ["ubuntu-latest", "macos-latest", "windows-latest"]
    for tests in (ci, weekly):
        assert tests["strategy"]["matrix"]["os"] == systems
        assert "bash .ci/run" in [step.get("run") for step in tests["steps"]]
    assert WORKFLOWS["wheels"]["jobs"]["smoke"]["strategy"]["matrix"]["os"] == systems
    assert [step["run"] for step in ci["steps"][-1:]] == ["make test-nightly"]
    assert ci["steps"][-1]["if"] == "github.event_name == 'schedule'"
    assert "PACKAGES" not in ci["env"]
    assert weekly["env"]["PACKAGES"] == "${{ matrix.packages }}"
    matrix = weekly["strategy"]["matrix"]
    assert set(matrix["packages"]) == {"newest", "oldest"}
    pythons = {*matrix["python"], *(job["python"] for job in matrix["include"])}
    classified = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert {"3.11", *classified} <= pythons


def test_the_workflows_call_what_exists():
    """Targets of make and scripts; ``True`` is how YAML 1.1 reads the key ``on``."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    called = 0
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}, name
        assert workflow[True], name
        for job in workflow["jobs"].values():
            assert job["runs-on"] in {"ubuntu-latest", "${{ matrix.os }}"}
            for step in job["steps"]:
                words = step.get("run", "").split()
                if words[:1] == ["make"]:
                    assert words[1] in targets
                    called += 1
                called += len([(ROOT / word).stat() for word in words if word.startswith(".ci/")])
    assert called >= 5


def test_make_release_checks_and_uploads_nothing():
    """The steps in their order; twine uploads only in a line that is printed."""
    done = subprocess.run(["make", "--dry-run", "release"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = ["git status --porcelain", "tests/test_release.py", "rm -rf dist", "uv build", "check --strict",
             "check-wheel-contents", ".ci/smoke dist/", "Nothing was uploaded", "twine upload"]  # fmt: skip
    places = [done.stdout.index(step) for step in steps]
    assert places == sorted(places)
    [upload] = [line for line in done.stdout.splitlines() if "twine upload" in line]
    assert upload.strip().startswith("echo ")


def test_the_fresh_environments_script_is_valid_bash():
    subprocess.run(["bash", "-n", ".ci/smoke"], cwd=ROOT, check=True)
    refused = subprocess.run(["bash", ".ci/smoke", "missing/x.whl"], cwd=ROOT, capture_output=True, check=False)
    assert refused.returncode != 0
