r"""The library of the compiled kernel: built by the machine's C compiler for its processor, kept, checked, loaded.

The compiler is ``CC``, or cc, gcc, clang on the path. A library is kept in ``$XDG_CACHE_HOME/ttlightning``, else in
``~/.cache/ttlightning``, under a hash of all that makes it: source, compiler, every option, processor. The SHA-256 of
its content is written behind it, so that one that is cut short or damaged is built anew instead of being run. Where the
folder does not serve (no home, not writable, not executable), the process builds one in a temporary folder of its own.
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
    Path(__file__).with_name(name) for name in ("chain_kernel.c", "chain_blocks.h", "chain_kernel.h")
)
OPENMP: Final = "-fopenmp"  # where the compiler has it; else threads of the kernel's own
FLAGS: Final = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread")
UNSAFE: Final = (
    *("-Ofast", "-ffast-math", "-funsafe-math-optimizations", "-ffinite-math-only", "-fassociative-math"),
    *("-freciprocal-math", "-fno-signed-zeros", "-fno-honor-nans", "-fno-honor-infinities", "-mdaz-ftz"),
    *("-fapprox-func", "-ffp-model=fast", "-ffp-model=aggressive"),
)
"""Options that let a compiler order the sums anew, or take NaN, inf and the smallest numbers for something else."""
DIGEST: Final = hashlib.sha256().digest_size


def compiler_command() -> list[str] | None:
    """The C compiler with the user's options; None where there is none."""
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError as fault:
        raise UserError(f"CC is {os.environ['CC']!r}, which is no command: {fault}") from fault
    if named:
        return named
    return next(([found] for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def command(compiler: list[str], openmp: bool) -> list[str]:
    """The compiler with all options, without its files."""
    return [*compiler, *FLAGS, *([OPENMP] if openmp else [])]


@functools.cache
def version(compiler: tuple[str, ...]) -> str:
    """First line of what the compiler says of itself."""
    try:
        said = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as fault:
        raise UserError(f"the C compiler {shlex.join(compiler)} does not run: {fault}") from fault
    return said.partition("\n")[0].strip()


def load(compiler: list[str]) -> ctypes.CDLL:
    """The library, compiled unless a whole one is kept.

    Raises:
        UserError: where the compiler does not run or does not compile, or one of its options is ``UNSAFE``.
        OSError: where no folder lets a library be written and loaded.
    """
    if broken := [word for word in compiler if word in UNSAFE]:
        raise UserError(
            f"CC asks for {broken[0]}, which makes sums, NaN and inf other than they should be: take it out of CC"
        )
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
    with tempfile.TemporaryDirectory(prefix="ttlightning-") as private:  # what is loaded stays when its file is gone
        library = Path(private) / name
        build(compiler, library)
        return ctypes.CDLL(str(library))


def cache_folder() -> Path | None:
    """Where libraries are kept; None where the user has no home."""
    for variable, below in (("XDG_CACHE_HOME", "ttlightning"), ("HOME", ".cache/ttlightning")):
        if (given := os.environ.get(variable)) and Path(given).is_absolute():
            return Path(given) / below
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and nobody knows the user
        return None
    return home / ".cache/ttlightning" if home.is_absolute() else None


def file_name(compiler: list[str]) -> str:
    """Another one for every compiler, option, source and processor."""
    found = shutil.which(compiler[0])
    binary = str(Path(found).resolve()) if found else ""
    identity = [version(tuple(compiler)), binary, *compiler, "", *FLAGS, _processor()]
    identity += [source.read_text() for source in SOURCES]
    told = "".join(f"{len(part)}:{part}" for part in identity)
    return f"chain-{hashlib.sha256(told.encode()).hexdigest()[:20]}.so"


def is_whole(library: Path) -> bool:
    """Whether the file ends with the SHA-256 of what comes before."""
    if not library.is_file():
        return False
    content = library.read_bytes()
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def build(compiler: list[str], library: Path) -> None:
    """Compile into ``library``, all at once: whoever comes first or last, everyone finds a whole file."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        target = Path(folder) / library.name
        for openmp in (True, False):
            words = [*command(compiler, openmp), "-o", str(target), str(SOURCES[0]), "-lm"]
            built = subprocess.run(words, capture_output=True, text=True, check=False)
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
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "\n".join([platform.machine(), platform.processor(), *sorted(told)])
