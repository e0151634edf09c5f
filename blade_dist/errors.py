"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """Bad input: the message says what is wrong, where, and what would be right.

    Commands print it as one line and exit with code 2; anything else is a bug and keeps its traceback.
    """
