"""What a user did wrong, said in one line."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Raise for a mistake that a user can mend: one plain line that names the file or setting.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that is not known, with the nearest known one and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return UserError(f"unknown {kind} {name!r}: {hint}known are {', '.join(names) or 'none'}")
