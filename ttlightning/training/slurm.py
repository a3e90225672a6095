"""Compare SLURM's processes with the trainer's, before one of them waits for others in vain.

Lightning takes its processes from SLURM if ``SLURM_NTASKS`` is set, except under torchrun and in a shell of ``salloc``
(job names ``bash`` and ``interactive``).
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from ttlightning.errors import UserError


def _number(name: str) -> int | None:
    """The number in an environment variable; None if it is not set."""
    value = os.environ.get(name)
    if value is not None and not (value.isascii() and value.isdigit()):
        raise UserError(f"{name} is {value!r}, it must be a number; SLURM sets it, leave it as it is")
    return None if value is None else int(value)


def _is_at_work() -> bool:
    interactive = SLURMEnvironment.job_name() in ("bash", "interactive")
    return "SLURM_NTASKS" in os.environ and not interactive and not TorchElasticEnvironment.detect()


def check_variables() -> None:
    """Raise ``UserError`` if SLURM has several tasks but no number of tasks per node."""
    if _is_at_work() and (tasks := _number("SLURM_NTASKS")) > 1 and _number("SLURM_NTASKS_PER_NODE") is None:
        raise UserError(
            f"SLURM has {tasks} tasks (SLURM_NTASKS) but no number per node: submit with --ntasks-per-node instead of "
            "--ntasks; with --ntasks=1 --cpus-per-task if one process shall have several cores"
        )


def check_tasks(devices: int, nodes: int) -> None:
    """Raise ``UserError`` if SLURM's tasks are not ``devices`` on each of ``nodes``.

    A process that a batch script starts without srun is alone, whatever the number of the job's tasks.
    """
    processes = devices * nodes
    by_srun = "SLURM_STEP_ID" in os.environ or "SLURM_STEPID" in os.environ
    if not _is_at_work() or (processes == 1 and not by_srun):
        return
    tasks = _number("SLURM_NTASKS")
    per_node, slurm_nodes = _number("SLURM_NTASKS_PER_NODE"), _number("SLURM_NNODES")
    differs = processes > 1 and (per_node not in (None, devices) or slurm_nodes not in (None, nodes))
    if tasks != processes or differs:
        numbers = {"tasks": tasks, "on each node": per_node, "nodes": slurm_nodes}
        text = ", ".join(f"{name}: {number}" for name, number in numbers.items() if number is not None)
        raise UserError(
            f"SLURM has another number of processes ({text}) than the trainer, {devices} on each of {nodes} nodes: "
            f"submit with --nodes={nodes} --ntasks-per-node={devices}, or set --trainer.devices and --trainer.num_nodes"
        )


@contextlib.contextmanager
def said_in_one_line() -> Iterator[None]:
    """Raise ``UserError`` if a variable is missing that srun sets for each of several processes."""
    try:
        yield
    except KeyError as fault:
        if not str(fault.args[0]).startswith("SLURM_"):
            raise
        raise UserError(f"{fault.args[0]} is not set: several processes under SLURM must be started by srun") from fault


def check_requeue(plugins: Any) -> None:
    """Raise ``UserError`` if a plugin of the user makes Lightning queue jobs again."""
    for plugin in plugins if isinstance(plugins, Iterable) else [plugins]:
        if isinstance(plugin, SLURMEnvironment) and plugin.auto_requeue:
            raise UserError(
                "trainer.plugins has a SLURMEnvironment with auto_requeue, which starts from whatever checkpoint lies "
                "in the working directory: set its auto_requeue to false; the job's script queues it again"
            )
