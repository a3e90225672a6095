r"""The shared library of the compiled kernel: built for this processor, cached, checked and loaded.

The compiler is ``CC``, or the first of cc, gcc and clang on the path. The cache is ``$XDG_CACHE_HOME/ttlightning``,
else ``~/.cache/ttlightning``. A file's name is a hash of sources, compiler, options and processor. The SHA-256 of the
content is appended to each file, so a truncated or damaged library is built again and never run. If the cache cannot be
used (no home, not writable, not executable), the process builds a library in a temporary folder.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Final

from ttlightning.errors import UserError

SOURCES: Final = tuple(
    Path(__file__).with_name(name) for name in ("chain_kernel.c", "chain_blocks.h", "chain_kernel.h", "tree_kernel.h")
)
OPENMP: Final = "-fopenmp"  # if the compiler has it; otherwise the kernel starts POSIX threads
FLAGS: Final = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread")
UNSAFE: Final = (
    *("-Ofast", "-ffast-math", "-funsafe-math-optimizations", "-ffinite-math-only", "-fassociative-math"),
    *("-freciprocal-math", "-fno-signed-zeros", "-fno-honor-nans", "-fno-honor-infinities", "-mdaz-ftz"),
    *("-fapprox-func", "-ffp-model=fast", "-ffp-model=aggressive"),
)
"""Options that let a compiler reorder sums, or change NaN, inf and subnormal numbers."""
DIGEST: Final = hashlib.sha256().digest_size


def compiler_command() -> list[str] | None:
    """The C compiler and the user's options; None if there is no compiler."""
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError as fault:
        raise UserError(f"CC is {os.environ['CC']!r}, which is no command: {fault}") from fault
    if named:
        return named
    return next(([path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def command(compiler: list[str], openmp: bool) -> list[str]:
    """The compiler and all options, without file names."""
    return [*compiler, *FLAGS, *([OPENMP] if openmp else [])]


@functools.cache
def version(compiler: tuple[str, ...]) -> str:
    """First line of the output of ``--version``."""
    try:
        output = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as fault:
        raise UserError(f"the C compiler {shlex.join(compiler)} does not run: {fault}") from fault
    return output.partition("\n")[0].strip()


def load(compiler: list[str]) -> ctypes.CDLL:
    """The library, from the cache or newly compiled.

    Raises:
        UserError: if the compiler does not run or does not compile, or has an option in ``UNSAFE``.
        OSError: if no folder allows a library to be written and loaded.
    """
    if unsafe := [option for option in compiler if option in UNSAFE]:
        raise UserError(f"CC asks for {unsafe[0]}, which changes sums, NaN and inf: remove it from CC")
    name = file_name(compiler)
    kept, reason = cache_folder(), "there is no home folder to keep it in"
    if kept is not None:
        try:
            kept.mkdir(parents=True, exist_ok=True)
            library = kept / name
            if not is_whole(library):
                build(compiler, library)
            return ctypes.CDLL(str(library))
        except OSError as fault:  # not writable, not executable, no folder at all
            reason = f"{kept} cannot keep it ({fault})"
    warnings.warn(f"the chain kernel is compiled for this process alone: {reason}", stacklevel=4)
    with tempfile.TemporaryDirectory(prefix="ttlightning-") as private:  # a loaded library outlives its file
        library = Path(private) / name
        build(compiler, library)
        return ctypes.CDLL(str(library))


def cache_folder() -> Path | None:
    """The cache folder; None if the user has no home."""
    for variable, below in (("XDG_CACHE_HOME", "ttlightning"), ("HOME", ".cache/ttlightning")):
        if (given := os.environ.get(variable)) and Path(given).is_absolute():
            return Path(given) / below
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and no entry for the user
        return None
    return home / ".cache/ttlightning" if home.is_absolute() else None


def file_name(compiler: list[str]) -> str:
    """A name that is different for every compiler, option, source and processor."""
    path = shutil.which(compiler[0])
    binary = str(Path(path).resolve()) if path else ""
    identity = [version(tuple(compiler)), binary, *compiler, "", *FLAGS, _processor()]
    identity += [source.read_text() for source in SOURCES]
    text = "".join(f"{len(part)}:{part}" for part in identity)
    return f"chain-{hashlib.sha256(text.encode()).hexdigest()[:20]}.so"


def is_whole(library: Path) -> bool:
    """Whether the file ends with the SHA-256 of its content."""
    if not library.is_file():
        return False
    content = library.read_bytes()
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def build(compiler: list[str], library: Path) -> None:
    """Compile, then move to ``library`` in one step: several processes at once always see a complete file."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        target = Path(folder) / library.name
        for openmp in (True, False):
            line = [*command(compiler, openmp), "-o", str(target), str(SOURCES[0]), "-lm"]
            built = subprocess.run(line, capture_output=True, text=True, check=False)
            if built.returncode == 0 and target.is_file():
                break
        else:
            reason = next((line for line in built.stderr.splitlines() if "error" in line), built.stderr.strip()[:200])
            raise UserError(
                f"{shlex.join(compiler)} cannot compile the chain kernel: {reason} (TTLIGHTNING_KERNEL=torch)"
            )
        content = target.read_bytes()
        with target.open("ab") as file:
            file.write(hashlib.sha256(content).digest())
        target.replace(library)


def _processor() -> str:
    """The processor, on which -march=native depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    features = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "\n".join([platform.machine(), platform.processor(), *sorted(features)])
