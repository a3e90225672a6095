"""The Dockerfile and the recipe of Apptainer make the same image."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def section(name: str) -> str:
    """The lines of a section of ttlightning.def."""
    return re.search(rf"^%{name}\n((?:    .*\n)+)", (ROOT / "ttlightning.def").read_text(), re.M)[1]


def installs(text: str) -> list[str]:
    """The commands that install something."""
    commands = (
        " ".join(part.split()) for line in text.splitlines() for part in line.removeprefix("RUN ").split(" && ")
    )
    return [command for command in commands if re.match(r"apt-get|pip|python -m venv", command)]


def test_both_images_install_the_same():
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert installs(dockerfile) == installs(section("post"))
    assert re.search(r"^FROM \$\{BASE_IMAGE\}$", dockerfile, re.M)
    base = re.search(r"^ARG BASE_IMAGE=(\S+)$", dockerfile, re.M)[1]
    assert f"\nBootstrap: docker\nFrom: {base}\n" in (ROOT / "ttlightning.def").read_text()


def test_both_images_have_the_same_files():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]}
    files = {name for line in section("files").splitlines() for name in line.split()[:-1]}
    assert copied == files
    assert all((ROOT / name).exists() for name in files)
