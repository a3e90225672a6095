"""How Lightning writes and reads a checkpoint file: atomically, with a checksum, without pickled objects."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.plugins import AsyncCheckpointIO

from ttlightning.errors import UserError
from ttlightning.runs.checkpoints import read_checkpoint, write_checkpoint


def with_safe_checkpoints(plugins: Any) -> list[Any]:
    """The plugins of a trainer, with checkpoints written by ``SafeCheckpointIO``, in a thread if the user asks so.

    Raises:
        UserError: the user's own ``CheckpointIO``, whose files would have no checksum.
    """
    given = plugins if isinstance(plugins, list) else [] if plugins is None else [plugins]
    writers = [plugin for plugin in given if isinstance(plugin, CheckpointIO)]
    for plugin in writers:
        if not isinstance(plugin, AsyncCheckpointIO) or plugin.checkpoint_io is not None:
            raise UserError(
                f"trainer.plugins has {type(plugin).__name__}, but ttlightning writes the checkpoints of a run itself, "
                "with a checksum: leave it out, or take AsyncCheckpointIO without arguments"
            )
        plugin.checkpoint_io = SafeCheckpointIO()
    return given if writers else [*given, SafeCheckpointIO()]


def without_swa_function(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint without the function that SWALR of older torch has in its state, which no reader accepts.

    torch 2.6 to 2.9 have it, 2.11 does not. SWALR's constructor sets it again. Its state is among those of the
    trainer's schedulers and in that of the callback.
    """

    def plain(state: Any) -> Any:
        return {k: v for k, v in state.items() if k != "anneal_func"} if isinstance(state, dict) else state

    changed = dict(checkpoint)
    if "lr_schedulers" in changed:
        changed["lr_schedulers"] = [plain(state) for state in changed["lr_schedulers"]]
    if "callbacks" in changed:
        changed["callbacks"] = {
            name: state | {"scheduler_state": plain(state["scheduler_state"])}
            if isinstance(state, dict) and "scheduler_state" in state
            else state
            for name, state in changed["callbacks"].items()
        }
    return changed


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's, but a process that dies while it writes leaves the older file, and a changed byte is noticed.

    Nothing is unpickled.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_checkpoint(Path(path), without_swa_function(checkpoint))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Take away a checkpoint that another has replaced; ``UserError`` for anything else.

        Lightning takes the name from the state of ModelCheckpoint, so out of a file, and would take a folder as well.
        """
        file = Path(path)
        if file.is_dir() or file.is_symlink() or file.suffix != ".ckpt":
            raise UserError(f"{file} is no checkpoint of this run, though the state of its ModelCheckpoint says so")
        file.unlink(missing_ok=True)
