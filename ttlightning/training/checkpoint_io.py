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


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's, but a process that dies while it writes leaves the older file, and a changed byte is noticed.

    Nothing is unpickled.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_checkpoint(Path(path), checkpoint)

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
