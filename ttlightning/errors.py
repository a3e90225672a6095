"""The one error for a user's mistake."""


class UserError(ValueError):
    """A mistake in what the user asked for: a value out of range, a file that is not what it claims to be.

    Its message is one line that names the value, the limit and the way out. The command line prints that line and
    ends with exit code 2; library users catch it as a ``ValueError``.
    """
