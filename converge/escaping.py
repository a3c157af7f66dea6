"""Foreign text, made safe to print.

Whatever it contains, it cannot move the cursor, add a line, or reverse the text that follows.
"""

from __future__ import annotations

import unicodedata

#: Unicode categories that have no glyph of their own, or that end a line.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Cn", "Zl", "Zp"})
#: Controls of the direction of writing: they can make a name look like another.
_DIRECTION = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))


def escape(text: object) -> str:
    """The text in one line, with unprintable characters as in Python's ``repr``."""
    line = str(text)
    if line.isascii() and line.isprintable():
        return line
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if character in _DIRECTION or unicodedata.category(character) in _UNPRINTABLE
        else character
        for character in line
    )


def prose(text: object) -> str:
    """A reason or message, which may have several lines, in one."""
    lines = (line.strip() for line in str(text).split("\n"))
    return escape(" | ".join(line for line in lines if line))


def lines(text: str) -> str:
    """A text in its lines, each of them escaped."""
    return "\n".join(map(escape, text.split("\n")))


def quoted(name: str) -> str:
    """A name as part of a list: in double quotes if it could be misread there."""
    plain = escape(name)
    if plain and not any(character in " ,\"'()[]" for character in plain):
        return plain
    return '"' + plain.replace('"', '\\"') + '"'
