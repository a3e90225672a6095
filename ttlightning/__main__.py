"""``python -m ttlightning``."""

from ttlightning.system import signals

signals.listen(importing=True)  # the next imports can take seconds

from ttlightning.system.output import drop_unread_output  # noqa: E402
from ttlightning.system.paths import make_do_without_home  # noqa: E402

drop_unread_output()
make_do_without_home()

from ttlightning.commands.main import main  # noqa: E402, libraries look for a home folder at import

if __name__ == "__main__":
    main()
