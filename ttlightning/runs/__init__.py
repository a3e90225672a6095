"""A run on the disk: its directory, configuration, checkpoints and provenance."""
