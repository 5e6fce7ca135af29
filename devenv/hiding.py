"""Hide passwords in texts that others read: messages, artifacts, the log of a CI job.

devenv's own passwords are long and random. Those of attached services are their owners': "devenv", "h".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HIDDEN = "***"
# A password with fewer characters than this is likely to be a part of other words.
_FEWEST = 8


def is_long(password: str) -> bool:
    """Return whether a password is long enough to be hidden wherever its characters stand."""
    return len(password) >= _FEWEST


def hide(text: str, passwords: Iterable[str], names: Iterable[str] = ()) -> str:
    """Return the text with *** in place of passwords; a short one is hidden only where it is a word of its own.

    A password that is one of the `names`, of users, services or databases, protects nothing: texts keep it.
    """
    # The longest first, since one may be a part of another.
    for password in sorted({*passwords} - {*names, ""}, key=len, reverse=True):
        if is_long(password):
            text = text.replace(password, HIDDEN)
        else:
            text = re.sub(rf"(?<!\w){re.escape(password)}(?!\w)", HIDDEN, text)
    return text
