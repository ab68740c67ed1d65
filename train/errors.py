"""The error that scripts show as one clear message, without a traceback."""


class UserError(Exception):
    """Something that the person at the command line can mend; the message says how."""
