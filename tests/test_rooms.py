"""The package's rooms: imports go downwards, nothing imports in a circle, and Lightning stays in two places."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ttlightning"

FLOOR = {"errors", "randomness", "system"}
"""What every room may import; among these, ``system`` may import ``errors``."""

MAY_IMPORT = {
    "commands": {"training", "comparison", "runs", "networks", "data", "rank", "formats"},
    "training": {"runs", "networks", "data", "rank", "formats", "optim"},
    "comparison": {"runs", "networks", "data", "rank", "formats"},
    "runs": {"networks", "data", "rank", "formats"},
    "networks": {"data", "formats"},
    "data": set(),
    "optim": set(),
    "rank": {"formats"},
    "formats": set(),
    "testing": {"rank", "formats"},
    "__main__": {"commands"},
    "__init__": {"commands", "training", "networks", "data", "runs", "formats"},
}
"""Room, or file beside the rooms, and the rooms that it may import beside ``FLOOR``."""

FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = {".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}


def imported(file: Path) -> set[str]:
    """Full names of the modules that a file imports, inside functions, by ``import_module`` and for types too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import, which this test does not follow"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            found |= {name.value for name in node.args if isinstance(name, ast.Constant)}
    return found


def own(file: Path) -> set[str]:
    """Modules of this package that a file imports, by their names inside it."""
    found = set()
    for full in imported(file):
        package, _, name = full.partition(".")
        if package == "ttlightning":
            found.add(next((n for n in (name, name.rpartition(".")[0]) if n in NAMES), "__init__"))
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


IMPORTS = {module: own(file) for module, file in NAMES.items()}


def upward(imports: dict[str, set[str]]) -> set[str]:
    """Imports that go neither downwards nor stay in their room."""
    found = set()
    for module, others in imports.items():
        here = room(module)
        below = {"errors"} if here in FLOOR else FLOOR | MAY_IMPORT[here]
        found |= {f"{module} -> {other}" for other in others if room(other) != here and room(other) not in below}
        if module.startswith("formats.kernels"):
            found |= {f"{module} -> {other}" for other in others if room(other) == "formats" and "kernels" not in other}
        if module.startswith("rank.verifier"):
            found |= {f"{module} -> {other}" for other in others if other.startswith("rank.certificates")}
    return found


def test_every_room_is_known():
    rooms = {room(module) for module in NAMES}
    assert rooms - FLOOR <= set(MAY_IMPORT)
    assert {"training", "networks", "data", "formats", "rank", "runs", "comparison", "commands"} <= rooms


def test_imports_go_downwards():
    assert upward(IMPORTS) == set()


def test_modules_do_not_import_in_a_circle():
    """Inside a room neither; a package's ``__init__`` counts as a module of its own."""
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as fault:
        pytest.fail(" -> ".join(fault.args[1]))


def test_lightning_is_imported_by_training_and_the_command_line_only():
    packages = ("lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning")
    users = {module for module, file in NAMES.items() if any(name.split(".")[0] in packages for name in imported(file))}
    assert {module for module in users if room(module) != "training"} == {"commands.cli"}
    assert "training.classifier" in users


@pytest.mark.parametrize(
    ("source", "module", "arrow"),
    [
        ("def f():\n    from ttlightning.training.steps import is_whole_step\n", "rank.bounds", "training.steps"),
        ("import ttlightning.commands.cli\n", "training.steps", "commands.cli"),
        ("from ttlightning.formats import base\n", "formats.kernels.scales", "formats.base"),
        ("from ttlightning import formats\n", "errors", "formats"),
    ],
)
def test_an_import_upwards_is_noticed(tmp_path, source, module, arrow):
    (tmp_path / "module.py").write_text(source)
    assert upward({module: own(tmp_path / "module.py")}) == {f"{module} -> {arrow}"}
