"""The format of what a stack's rows say: so that a converge that does not understand them leaves
them alone.

It is about what is read as a text or a code: templates, definitions, settings, edges, and what a
node is to do. A revision that writes something of which the one before would make something else,
or nothing, has a higher :data:`KNOWN`, and writes it with that format. Columns are not meant: they
have the version of the schema; and states are moved, and locks released, alike by all.
"""

from __future__ import annotations

from typing import Final

from converge.errors import SchemaError

#: The format of all that there was before there were others.
FIRST: Final = 1
#: Resources of it run although others have failed: ``runs: always``.
ALWAYS: Final = 2
#: It reads outputs of other stacks: its template has ``get_output``.
OUTPUTS: Final = 3
#: It belongs to a resource of another stack, and whoever ends its traversal tells that one.
NESTED: Final = 4
#: The highest format that this converge understands.
KNOWN = 4
#: The format of what this converge writes, where nothing needs a higher one.
WRITTEN = 1


def check_format(stack: str, format_: int) -> None:
    """Check that this converge understands the rows of a stack.

    :raises SchemaError: they are of a newer one.
    """
    if format_ > KNOWN:
        raise SchemaError(
            f"stack {stack!r} was written by a newer converge (format {format_}); this one knows "
            f"formats up to {KNOWN}: upgrade it"
        )
