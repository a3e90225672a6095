"""``python -m ttlightning``."""

from ttlightning.cli import main

if __name__ == "__main__":
    main()
