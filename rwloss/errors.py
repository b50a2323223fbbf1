"""The one error type of rwloss: what was expected, what came, and the fix."""


class RWLossError(ValueError):
    """Wrong input or wrong use. The message says what was expected, what came, and the fix.

    The command line prints it without a traceback and ends with exit code 2 (or names the case
    and continues, where other cases can still be done).
    """
