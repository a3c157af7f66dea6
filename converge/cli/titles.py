"""What ``ps`` shows of a command: its words without the secrets in them.

Every user of a machine can read the command lines of all programs. So a command with a secret among
its words begins anew before it does anything: as the same process, with the words as they are
shown, and its own words in its environment, which only its user can read.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from converge.hiding import hide, learn_words

#: Has both, so that a program started by this one, which inherits it, does not take them for its
#: own.
_VARIABLE = "CONVERGE_WORDS"


def own_words(words: Sequence[str]) -> Sequence[str]:
    """The words that this process goes by; what is secret in them is hidden from now on.

    :param words: those after the program's name, as ``sys.argv`` has them.
    """
    found = _restored(words)
    learn_words(found)
    if found is words:
        _conceal(words)
    return found


def _restored(words: Sequence[str]) -> Sequence[str]:
    try:
        shown, own = json.loads(os.environ.get(_VARIABLE, "[[], []]"))
    except ValueError:
        return words
    return list(map(str, own)) if shown == list(words) else words


def _conceal(words: Sequence[str]) -> None:
    """Begin anew if one of the words has a secret."""
    shown = list(map(hide, words))
    # a program that has made words of its own may have others than its process
    line = sys.orig_argv[: len(sys.orig_argv) - len(words)]
    if shown == list(words) or [*line, *words] != sys.orig_argv:
        return
    environment = {**os.environ, _VARIABLE: json.dumps([shown, list(words)])}
    os.execve(sys.executable, [*line, *shown], environment)
