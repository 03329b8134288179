"""The exceptions of this package that end a run with one sentence."""


class InputError(Exception):
    """What the user gave cannot be used. The message is one sentence that names the offending value."""


class Diverged(Exception):
    """The training went wrong on its way. The message is one sentence that says where, and what to try."""


def one_line(text: object) -> str:
    """Collapses every run of white space, line breaks included, to one space."""
    return " ".join(str(text).split())
