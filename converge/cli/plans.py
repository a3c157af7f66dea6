"""What a command would do, in words: the command ``plan``, and the questions before ``up --plan``
and ``down``.

The functions that render are pure; the others ask, and print.
"""

from __future__ import annotations

import difflib
import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from converge.cli import EXIT_COMPLETE, EXIT_FAILED
from converge.cli.database import is_there, readable
from converge.cli.output import shown, write_json
from converge.errors import BadInput
from converge.escaping import escape, prose
from converge.inspection.planning import as_json
from converge.protocol.preview import Verb
from converge.template.keys import STACK
from converge.template.nesting import TEMPLATE

if TYPE_CHECKING:
    from converge.cli.wanted import WantedStack
    from converge.inspection.planning import Preview, Read
    from converge.protocol.differences import Difference
    from converge.protocol.preview import Change

#: With ``--exit-code``: there are changes.
EXIT_CHANGES = 3
#: A value of more characters is shown by its lines, and only those that differ.
_LINE = 72
#: The most lines of one value.
_LINES = 40

_SIGNS: Mapping[Verb, str] = {
    Verb.CREATE: "+",
    Verb.UPDATE: "~",
    Verb.REPLACE: "-/+",
    Verb.DELETE: "-",
    Verb.LEAVE: "-",
    Verb.USE: "=",
    Verb.MOVE: ">",
    Verb.NOTE: "=",
    Verb.FAIL: "!",
}
_WORDS: Mapping[str, str] = {
    "create": "to create",
    "update": "to update",
    "replace": "to replace",
    "delete": "to delete",
    "leave": "left in place",
    "use": "to use",
    "move": "to move",
    "note": "to note",
    "fail": "that cannot be done",
    "may update": "may be updated",
    "may replace": "may be replaced",
    "unchanged": "unchanged",
    "left": "left as they are",
}


def render(preview: Preview) -> Iterator[str]:
    """A preview in lines: what is read of other stacks, each change with what differs, and a
    summary."""
    for read in preview.reads:
        yield from _read(read)
    yield from _changes(preview, "")
    yield summary(preview)


def _changes(preview: Preview, within: str) -> Iterator[str]:
    """Each change with what differs; below a nested stack what changes in it.

    :param within: the names of the nested stacks that it is in, each with a slash.
    """
    for one in preview.changes:
        yield _head(one, within)
        for difference in one.differences:
            yield from _difference(one, difference)
        if one.name in preview.nested:
            yield from _changes(preview.nested[one.name], f"{within}{one.name}/")
        elif one.type == STACK and one.waits_for and one.verb is not Verb.FAIL:
            after = ", ".join(map(escape, one.waits_for))
            yield f"      what changes in it is known after {after}"


def summary(preview: Preview) -> str:
    """``stack 'shop': 1 to create, 2 to update, 12 unchanged``."""
    counts = preview.counts
    words = [f"{count} {_WORDS[what]}" for what, count in counts.items() if count]
    name = escape(repr(preview.stack))
    if not preview:
        return f"stack {name}: nothing to do" + (f", {words[0]}" if words else "")
    if inner := _count_nested(preview):
        words.append("nested: " + ", ".join(f"{n} {_WORDS[what]}" for what, n in inner.items()))
    busy = f"; its {preview.busy}, which is running, would be superseded" if preview.busy else ""
    return f"stack {name}: {', '.join(words)}{busy}"


def _count_nested(preview: Preview) -> Counter[str]:
    """How many resources of nested stacks are to be created, updated, and so on."""
    found: Counter[str] = Counter()
    for one in preview.nested.values():
        found.update({what: n for what, n in one.counts.items() if n and what != "unchanged"})
        found.update(_count_nested(one))
    return found


def _read(one: Read) -> Iterator[str]:
    what = f"output {one.output} of stack {one.stack!r}"
    if one.before is not None and one.before != one.after:
        yield from differing(what, one.before, one.after, indent=2)
        return
    line = shown(one.after)
    more = f"... ({len(line)} characters)" if len(line) > _LINE else ""
    yield f"  {escape(what)}: {line[:_LINE]}{more}"


def _head(change: Change, within: str) -> str:
    name = escape(f"{within}{change.name}")
    line = f"{_SIGNS[change.verb]:>3} {name} ({escape(change.type)})"
    said = []
    if change.moved_from is not None:
        said.append(f"moved from {escape(change.moved_from)}")
    if not change.sure:
        said.append("perhaps")
    if change.verb is Verb.REPLACE:
        said.append("the old one is deleted first" * change.deletes_first)
    if change.verb is Verb.UPDATE and change.may_replace:
        said.append("or replaced, if its type asks for it")
    if change.leaves_old:
        said.append(f"the old one is left in place: {escape(str(change.physical_id))}")
    if change.verb is Verb.NOTE:
        said.append("nothing is called, its new properties are stored")
    if change.verb is Verb.LEAVE:
        said.append("left in place")
    if change.verb is Verb.USE:
        said.append("used as it is")
    if change.verb in (Verb.DELETE, Verb.LEAVE, Verb.USE) and change.physical_id is not None:
        said.append(escape(change.physical_id))
    if change.reason:
        said.append(prose(change.reason))
    rest = ", ".join(filter(None, said))
    return f"{line}: {rest}" if rest else line


def _difference(change: Change, one: Difference) -> Iterator[str]:
    if change.type == STACK and one.name == TEMPLATE:
        # what that means, is shown
        if change.verb is not Verb.CREATE:
            yield f"      {TEMPLATE}: changed"
        return
    name = escape(one.name)
    if change.verb is Verb.CREATE:
        line = shown(as_json(one.after))
        more = f"... ({len(line)} characters)" if len(line) > _LINE else ""
        yield f"      {name}: {line[:_LINE]}{more}"
        return
    yield from differing(one.name, one.before, as_json(one.after))


def differing(key: str, one: Any, other: Any, indent: int = 6) -> Iterator[str]:
    """A property with two values, JSON, None for none: both, or the lines that differ."""
    name, before, after = " " * indent + escape(key), _text(one), _text(other)
    if before == after == "***":
        yield f"{name}: *** (another secret value)"
    elif max(map(len, (before, after))) > _LINE or "\n" in before + after:
        yield f"{name}:"
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")
        found = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
        inner = " " * (indent + 2)
        yield from (f"{inner}{escape(line)}" for line in found[:_LINES])
        if len(found) > _LINES:
            yield f"{inner}... {len(found) - _LINES} more lines"
    else:
        old = "(none)" if one is None else escape(before)
        new = "(none)" if other is None else escape(after)
        yield f"{name}: {old} → {new}"


def _text(value: Any) -> str:
    """A value as text; what is long, in lines."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    line = json.dumps(value, ensure_ascii=False, default=str)
    return line if len(line) <= _LINE else json.dumps(value, ensure_ascii=False, indent=2)


def write(preview: Preview, stream: IO[str]) -> None:
    """Print a preview."""
    for line in render(preview):
        stream.write(line + "\n")
    stream.flush()


def plan(arguments: Namespace) -> int:
    """Print what ``up`` would do."""
    from converge.cli.wanted import read_wanted

    wanted = read_wanted(arguments)
    if arguments.refresh:
        from converge.cli.stacks import LOOKED, look_first

        looked = look_first(arguments, wanted.name)
        if looked not in LOOKED:
            return looked
    preview = make_preview(arguments, wanted)
    if arguments.json:
        write_json(preview.to_dict(), sys.stdout)
    else:
        write(preview, sys.stdout)
    if preview.failures:
        return EXIT_FAILED
    return EXIT_CHANGES if preview and arguments.exit_code else EXIT_COMPLETE


def make_preview(arguments: Namespace, wanted: WantedStack) -> Preview:
    """What ``up`` would do."""
    from converge.inspection.planning import preview_new

    if not is_there(arguments):
        # to look makes no database
        return preview_new(
            wanted.name,
            wanted.template,
            parameters=wanted.parameters,
            types=wanted.types,
            replace=arguments.replace,
            target=arguments.target,
        )
    with readable(arguments) as reads:
        return reads.plan(
            wanted.name,
            wanted.template,
            parameters=wanted.parameters,
            types=wanted.types,
            keep_parameters=arguments.keep_params,
            unprotect=arguments.unprotect,
            replace=arguments.replace,
            target=arguments.target,
        )


def confirm(question: str) -> bool:
    """Ask at the terminal. Whatever is not a yes, is a no."""
    print(f"{question} [y/N] ", end="", flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print()
    return answer.strip().lower() in ("y", "yes")


def can_ask(arguments: Namespace) -> bool:
    """Whether there is somebody at a terminal to ask."""
    return not arguments.json and sys.stdin.isatty() and sys.stdout.isatty()


def check_can_ask(arguments: Namespace) -> None:
    """:raises BadInput: ``--plan`` asks, and there is nobody to answer."""
    if not arguments.yes and not can_ask(arguments):
        raise BadInput(
            "--plan asks before it goes on, and there is no terminal to answer at: "
            "add --yes to go on, or use `converge plan` to look only"
        )
