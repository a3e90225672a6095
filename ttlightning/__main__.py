"""``python -m ttlightning``."""

from ttlightning.output import drop_unread_output
from ttlightning.paths import make_do_without_home

drop_unread_output()
make_do_without_home()

from ttlightning.cli import main  # noqa: E402, its libraries look for a home as they are imported

if __name__ == "__main__":
    main()
