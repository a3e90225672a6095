"""Execute the notebooks of ``notebooks/``, each in an empty folder, and keep their outputs in the files.

    make notebooks

nbclient and ipykernel are in the dependency group ``notebooks``. ``tests/test_notebooks.py`` runs the same
cells in a plain process, which needs neither.
"""

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from ttlightning.system.output import run_script

ROOT = Path(__file__).parents[1]


def execute(file: Path) -> str:
    """Run the cells and write the file with what they print and draw; seconds of the clock and of all processors."""
    notebook = nbformat.read(file, as_version=4)
    began, used = time.perf_counter(), processor_seconds()
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}})
        client.execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # the seconds of each cell
        if cell.cell_type == "code":
            cell.outputs = merged(cell.outputs)
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    nbformat.write(notebook, file)
    return f"{time.perf_counter() - began:6.1f} s, {processor_seconds() - used:6.1f} s of processors"


def processor_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def merged(outputs: list) -> list:
    """What a cell printed as one output, without what went to stderr; pictures as they are."""
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    kept = [output for output in outputs if output.output_type != "stream"]
    return [*([nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []), *kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=sorted((ROOT / "notebooks").glob("*.ipynb")))
    os.environ.update(WANDB_MODE="disabled", PYTHONPATH=str(ROOT))
    for file in parser.parse_args().files:
        print(f"{file.name:32} {execute(file)}", flush=True)


if __name__ == "__main__":
    run_script(main)
