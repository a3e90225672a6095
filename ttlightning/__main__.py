"""``python -m ttlightning``."""

from ttlightning import signals

signals.listen(importing=True)  # the next line takes seconds

from ttlightning.cli import main  # noqa: E402

if __name__ == "__main__":
    main()
