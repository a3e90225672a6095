"""``python -m ttlightning``."""

from ttlightning.system import signals

signals.listen(importing=True)  # what is imported next takes seconds

from ttlightning.system.output import drop_unread_output  # noqa: E402
from ttlightning.system.paths import make_do_without_home  # noqa: E402

drop_unread_output()
make_do_without_home()

from ttlightning.commands.main import main  # noqa: E402, its libraries look for a home as they are imported

if __name__ == "__main__":
    main()
