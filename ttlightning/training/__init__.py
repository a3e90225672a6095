"""Training: all that stands on Lightning."""
