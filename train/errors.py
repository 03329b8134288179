"""The one exception of this package that is the user's to mend."""


class InputError(Exception):
    """What the user gave cannot be used. The message is one sentence that names the offending value."""


def one_line(text: object) -> str:
    """Collapses every run of white space, line breaks included, to one space."""
    return " ".join(str(text).split())
