"""The shared library of the compiled kernel: which one is loaded, and what happens where it cannot be kept."""

import subprocess
import sys
from pathlib import Path

import pytest

from ttlightning.errors import UserError
from ttlightning.formats.kernels import native, native_library
from ttlightning.formats.kernels.native_library import build, compiler_command, file_name, is_whole, load

SCRIPT = """
import torch, warnings
from ttlightning import TensorTrain, UserError
from ttlightning.formats.kernels import native
try:
    TensorTrain(4, 3, 2)(torch.ones(5, 4, 3))
except UserError as fault:
    print("UserError", fault)
else:
    print(native.kernel_name())
"""


def fresh_process(tmp_path, **environment):
    """What a new process with an empty cache says."""
    environment = {"PATH": "", "HOME": str(tmp_path), **environment}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr


def test_without_a_compiler(tmp_path):
    said, warned = fresh_process(tmp_path)
    assert said == "torch"
    assert "no C compiler" in warned
    said, warned = fresh_process(tmp_path, TTLIGHTNING_KERNEL="native")
    assert said.startswith("UserError TTLIGHTNING_KERNEL is native, but this machine has no C compiler")
    assert fresh_process(tmp_path, TTLIGHTNING_KERNEL="torch") == ("torch", "")
    assert fresh_process(tmp_path, TTLIGHTNING_KERNEL="fast")[0].startswith("UserError TTLIGHTNING_KERNEL is 'fast'")


def test_compilers_that_do_not_work(tmp_path):
    assert "does not run" in fresh_process(tmp_path, CC="no-such-compiler")[0]
    fake = tmp_path / "fake"
    says = "import sys\nsys.exit(0 if sys.argv[1:] == ['--version'] else 'error: out of order')\n"
    fake.write_text(f"#!{sys.executable}\n{says}")
    fake.chmod(0o755)
    said = fresh_process(tmp_path, CC=str(fake))[0]
    assert said.startswith("UserError")
    assert "error: out of order" in said
    assert not list((tmp_path / ".cache" / "ttlightning").iterdir())


NOT_OPTIMIZED = tuple("-O0" if flag == "-O3" else flag for flag in native_library.FLAGS)
"""Which library is loaded does not depend on how fast it is; it is built in a tenth of the time."""


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """The machine's, which does not optimize, and an empty cache."""
    found = compiler_command()
    if found is None:
        pytest.skip("this machine has no C compiler")
    monkeypatch.setattr(native_library, "FLAGS", NOT_OPTIMIZED)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return found


def test_the_library_is_compiled_once(compiler, tmp_path):
    load(compiler)
    [first] = (tmp_path / "ttlightning").iterdir()
    written = first.stat().st_mtime_ns
    load(compiler)
    assert [*first.parent.iterdir()] == [first]
    assert first.stat().st_mtime_ns == written
    assert is_whole(first)


def test_a_damaged_library_is_never_loaded(compiler, tmp_path):
    """One that is cut short would end the process with SIGBUS."""
    script = (
        "from ttlightning.formats.kernels import native, native_library\n"
        f"native_library.FLAGS = {NOT_OPTIMIZED}\n"
        "print(native.kernel_name())"
    )
    library = tmp_path / "ttlightning" / file_name(compiler)
    library.parent.mkdir()
    build(compiler, library)
    content = library.read_bytes()
    for broken in (content[:5000] + bytes([content[5000] ^ 1]) + content[5001:], b"", content[:6000]):
        library.write_bytes(broken)
        assert not is_whole(library)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("native")
    assert library.read_bytes() == content
    library.unlink()
    (library / "inside").mkdir(parents=True)
    with pytest.warns(UserWarning, match="for this process alone"):
        load(compiler)


def test_a_cache_folder_that_cannot_be_used(compiler, tmp_path, monkeypatch):
    """No folder, not executable: a private library, which leaves nothing behind; then the torch path, or one line."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="for this process alone: .*file"):
        assert load(compiler).chain_forward_float32
    assert not [*scratch.iterdir()]

    def not_executable(path: str) -> None:
        raise OSError(f"{path}: failed to map segment from shared object")

    monkeypatch.setattr("ctypes.CDLL", not_executable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TTLIGHTNING_KERNEL", raising=False)
    with pytest.warns(UserWarning, match=r"no folder to load a compiled kernel from .*failed to map"):
        assert native.kernel.__wrapped__() is None
    monkeypatch.setenv("TTLIGHTNING_KERNEL", "native")
    with (
        pytest.warns(UserWarning, match="for this process alone"),
        pytest.raises(UserError, match=r"is native, but .*failed to map"),
    ):
        native.kernel.__wrapped__()


def test_no_home_folder_and_an_unknown_user(compiler, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", unknown)
    with pytest.warns(UserWarning, match="there is no home folder"):
        assert load(compiler).chain_forward_float64
    monkeypatch.setenv("XDG_CACHE_HOME", "here")  # relative: as if it were not there
    assert native_library.cache_folder() is None
    monkeypatch.setenv("HOME", "/somewhere")
    assert native_library.cache_folder() == Path("/somewhere/.cache/ttlightning")


def test_every_option_and_processor_has_a_library_of_its_own(compiler, monkeypatch):
    names = {file_name([*compiler, *options]) for options in ((), ("-O0",), ("-O1",), ("-g", "-O0"), ("-g -O0",))}
    monkeypatch.setattr(native_library, "_processor", lambda: "another")
    names.add(file_name(compiler))
    assert len(names) == 6


@pytest.mark.parametrize("option", ["-ffast-math", "-Ofast", "-fassociative-math"])
def test_options_that_break_arithmetic_are_refused(compiler, option, tmp_path):
    with pytest.raises(UserError, match=f"CC asks for {option}, "):
        load([*compiler, "-O0", option])
    assert not (tmp_path / "ttlightning").exists()
    hidden = tmp_path / "wrapper"
    hidden.write_text(f'#!/bin/sh\nexec {compiler[0]} "$@" {option}\n')
    hidden.chmod(0o755)
    if option == "-ffast-math":
        with pytest.raises(UserError, match=r"cannot compile the chain kernel: .*error"):
            load([str(hidden)])


def test_the_description_names_the_command_and_its_version(compiler, monkeypatch):
    monkeypatch.delenv("TTLIGHTNING_KERNEL", raising=False)
    monkeypatch.setenv("CC", " ".join([*compiler, "-O0 -DNOTHING='a b'"]))
    library = load(compiler_command())
    monkeypatch.setattr(native, "kernel", lambda: library)
    described = native.compiler_description()
    assert described.startswith(native_library.version(tuple(compiler_command())))
    assert f"{compiler[0]} -O0 '-DNOTHING=a b' {' '.join(native_library.FLAGS)}" in described
    monkeypatch.setattr(native, "kernel", lambda: None)
    assert native.compiler_description() is None


def test_an_unknown_compiler_is_named(monkeypatch):
    with pytest.raises(UserError, match="no-such-compiler --flag does not run"):
        load(["no-such-compiler", "--flag"])
    monkeypatch.setenv("CC", "cc 'unfinished")
    with pytest.raises(UserError, match="which is no command"):
        compiler_command()
