"""Whether the processes that SLURM starts are those of the trainer, said before one waits for others in vain.

Lightning takes its processes from SLURM where ``SLURM_NTASKS`` is set and torchrun is not at work; in a shell of
``salloc`` (job names ``bash`` and ``interactive``) it does not.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from ttlightning.errors import UserError


def _number(name: str) -> int | None:
    """The number in an environment variable, None where it is not set."""
    value = os.environ.get(name)
    if value is None:
        return None
    if not value.isascii() or not value.isdigit():
        raise UserError(f"{name} is {value!r}, it must be a number; SLURM sets it, leave it as it is")
    return int(value)


def _is_at_work() -> bool:
    interactive = SLURMEnvironment.job_name() in ("bash", "interactive")
    return "SLURM_NTASKS" in os.environ and not interactive and not TorchElasticEnvironment.detect()


def check_variables() -> None:
    """Raise ``UserError`` where SLURM has several tasks and does not say how many of them a node has."""
    if not _is_at_work():
        return
    tasks = _number("SLURM_NTASKS")
    if tasks > 1 and _number("SLURM_NTASKS_PER_NODE") is None:
        raise UserError(
            f"SLURM has {tasks} tasks (SLURM_NTASKS) and not so many for each node: submit with --ntasks-per-node "
            "instead of --ntasks; with --ntasks=1 --cpus-per-task where one process is meant to have several cores"
        )


def check_tasks(devices: int, nodes: int) -> None:
    """Raise ``UserError`` where SLURM's tasks are not ``devices`` on each of ``nodes``.

    One process that a batch script starts without srun is one, however many tasks the job may have.
    """
    if not _is_at_work():
        return
    processes = devices * nodes
    by_srun = "SLURM_STEP_ID" in os.environ or "SLURM_STEPID" in os.environ
    if processes == 1 and not by_srun:
        return
    tasks = _number("SLURM_NTASKS")
    per_node, nodes_there = _number("SLURM_NTASKS_PER_NODE"), _number("SLURM_NNODES")
    elsewhere = processes > 1 and (per_node not in (None, devices) or nodes_there not in (None, nodes))
    if tasks != processes or elsewhere:
        found = {"tasks": tasks, "on each node": per_node, "nodes": nodes_there}
        words = ", ".join(f"{name}: {number}" for name, number in found.items() if number is not None)
        raise UserError(
            f"SLURM has another number of processes ({words}) than the trainer, {devices} on each of {nodes} nodes: "
            f"submit with --nodes={nodes} --ntasks-per-node={devices}, or set --trainer.devices and --trainer.num_nodes"
        )


@contextlib.contextmanager
def said_in_one_line() -> Iterator[None]:
    """Raise ``UserError`` where a variable is missing that srun gives each of several processes."""
    try:
        yield
    except KeyError as fault:
        [name] = fault.args
        if not str(name).startswith("SLURM_"):
            raise
        raise UserError(f"{name} is not set: several processes under SLURM must be started by srun") from fault


def check_requeue(plugins: Any) -> None:
    """Raise ``UserError`` where the user's own plugin asks Lightning to queue jobs again."""
    for plugin in plugins if isinstance(plugins, Iterable) else [plugins]:
        if isinstance(plugin, SLURMEnvironment) and plugin.auto_requeue:
            raise UserError(
                "trainer.plugins has a SLURMEnvironment with auto_requeue, which starts from whatever checkpoint lies "
                "in the working directory: set its auto_requeue to false; the job's script queues it again"
            )
