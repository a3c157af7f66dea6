#!/usr/bin/env python3
"""Compare what converge makes of templates with what Heat makes of them::

    python tools/heat_values.py FILE... [--list]

Each file is evaluated by converge, and by Heat's own evaluator: the functions and conditions in
the properties of its resources and in its outputs, with the defaults of its parameters, and for
those that have none with a value of their type. References to resources stand for themselves, as
none is made; where Heat cannot evaluate that, as a function wants a list or a mapping, they are
null. Heat (``benchmarks/requirements/heat.txt``) is installed into an environment of its
own, ``.cache/environments/heat``, when the tool first runs.

Prints the differences, the files that only one of the two takes, and how many of each there are;
with ``--list`` also the files that both refuse. The exit status is 1 if a value differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# It runs from a source tree too in which nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import environments
from converge.errors import BadInput
from converge.model import Physical
from converge.template import Template, resolve
from converge.template.functions import function_of
from converge.template.parameters import Parameter
from converge.template.reading import read
from converge.template.values import LITERAL

CHILD = Path(__file__).with_name("heat_values_child.py")
#: The values of parameters without a default, by type.
_VALUES: Mapping[str, Any] = {
    "string": "text",
    "number": 5,
    "boolean": True,
    "json": {"key": "value"},
    "comma_delimited_list": ["one", "two"],
}
_NAME = "stack"


def choose(parameter: Parameter) -> Any:
    """A value for a parameter that has no default."""
    for constraint in parameter.constraints:
        if constraint.kind == "allowed_values":
            allowed = constraint.argument[0]
            return [allowed] if parameter.type == "comma_delimited_list" else allowed
        if constraint.kind == "range":
            return constraint.argument.get("min", constraint.argument.get("max"))
        if constraint.kind == "length" and parameter.type == "string":
            return "x" * constraint.argument.get("min", constraint.argument.get("max", 4))
    return _VALUES[parameter.type]


def stand_in(value: Any, *, null: bool) -> Any:
    """A value in which each reference to a resource is its own words, or null."""
    if isinstance(value, list):
        return [stand_in(part, null=null) for part in value]
    if not isinstance(value, dict):
        return value
    function = function_of(value)
    if function is not None and function[0] in ("get_resource", "get_attr"):
        if null:
            return None
        name, argument = function
        # keys within an attribute can be functions, too
        words = {name: resolve(stand_in(argument, null=null), _nothing)}
        return "<" + json.dumps(words, sort_keys=True) + ">"
    if function is not None and function[0] == LITERAL:
        return value
    return {key: stand_in(part, null=null) for key, part in value.items()}


def _nothing(name: str) -> Physical:
    raise BadInput(f"resource {name!r} is none")


def evaluate(
    template: Template, parameters: Mapping[str, Any], *, null: bool = False
) -> dict[str, Any]:
    """What converge makes of a template: the properties of its resources, and its outputs.

    :param null: references to resources are null.
    :raises BadInput: if it refuses it.
    """
    values = template.resolve_parameters(parameters)
    made = template.definitions(values, _NAME)
    return {
        "resources": {
            name: resolve(stand_in(dict(one.properties), null=null), _nothing)
            for name, one in made.items()
        },
        "outputs": {
            name: resolve(stand_in(value, null=null), _nothing)
            for name, value in template.output_values(values, _NAME).items()
        },
    }


def differences(ours: Any, theirs: Any, place: str = "") -> Iterator[str]:
    """Where two results differ, in words."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted({*ours, *theirs}):
            where = f"{place}.{key}" if place else key
            if key not in theirs:
                yield f"{where}: only converge has it: {_short(ours[key])}"
            elif key not in ours:
                yield f"{where}: only Heat has it: {_short(theirs[key])}"
            else:
                yield from differences(ours[key], theirs[key], where)
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{place}[{number}]")
    elif type(ours) is not type(theirs) or ours != theirs:
        yield f"{place}: converge {_short(ours)}, Heat {_short(theirs)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."


class Heat:
    """Heat's evaluator, in a process of its own.

    :param python: of an environment that has Heat.
    """

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [python, str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def evaluate(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """What Heat makes of a template."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise SystemExit("heat_values: Heat's process has ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def _files(value: Any, folder: Path) -> dict[str, str]:
    """The files that a template names, as Heat's client would send them."""
    found: dict[str, str] = {}
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            name = one.get("get_file")
            if isinstance(name, str) and (folder / name).is_file():
                found[name] = (folder / name).read_text(errors="replace")
            todo += one.values()
        elif isinstance(one, list):
            todo += one
    return found


def compare(path: Path, heat: Heat) -> tuple[str, list[str]]:
    """What becomes of a file.

    :returns: one of ``same``, ``different``, ``only Heat``, ``only converge``, ``neither``; and
        what there is to say.
    """
    try:
        document = read(path)
        drawn = Template.load(path, for_drawing=True)
    except BadInput as error:
        return "neither", [f"cannot be read: {error}"]
    given = {name: choose(one) for name, one in drawn.parameters.items() if not one.has_default}
    job = {
        "body": document.value,
        "files": _files(document.value, path.parent),
        "parameters": given,
        "null": False,
    }
    theirs = heat.evaluate(job)
    if "refused" in theirs:
        job["null"] = True
        again = heat.evaluate(job)
        job["null"] = "refused" not in again
        theirs = again if job["null"] else theirs
    try:
        ours = evaluate(Template.load(path), given, null=job["null"])
    except BadInput as error:
        if "refused" in theirs:
            return "neither", [f"converge: {error}", f"Heat: {theirs['refused']}"]
        return "only Heat", [str(error)]
    if "refused" in theirs:
        return "only converge", [theirs["refused"]]
    # through JSON, as Heat's are
    found = list(differences(json.loads(json.dumps(ours)), theirs))
    return ("different" if found else "same"), found


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the files that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("::")[0])
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path)
    parser.add_argument("--list", action="store_true", help="also the files that both refuse")
    given = parser.parse_args(arguments)
    try:
        python = environments.prepare(environments.FOLDER, "heat")
    except environments.NotInstalled as error:
        raise SystemExit(f"heat_values: Heat cannot be installed: {error}") from error
    heat = Heat(python)
    counts: Counter[str] = Counter()
    for path in given.files:
        result, said = compare(path, heat)
        counts[result] += 1
        if result == "same" or (result == "neither" and not given.list):
            continue
        print(f"{os.path.relpath(path)}: {result}")
        for line in said:
            print(f"  {line}")
    heat.close()
    print(", ".join(f"{counts[each]} {each}" for each in sorted(counts)))
    return 1 if counts["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
