"""Heat's side of ``heat_values.py``: it runs in an environment that has Heat, and not converge.

Reads jobs as JSON lines, ``{"body", "files", "parameters", "null"}``, and writes for each what Heat
makes of it: ``{"resources": {NAME: properties}, "outputs": {NAME: value}}``, or ``{"refused":
reason}``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from heat.common import identifier
from heat.engine import environment, function, template
from heat.engine.hot import functions


def stand_in(self: Any) -> str | None:
    """What a reference gives, as no resource exists: its own words, or null."""
    if self.stack.null or self.stack.is_absent(self):
        return None
    return "<" + json.dumps({self.fn_name: function.resolve(self.args)}, sort_keys=True) + ">"


for kind in (functions.GetResource, functions.GetAtt, functions.GetAttAllAttributes):
    kind.result = stand_in
    kind.validate = lambda self: None


class Stack:
    """What functions ask a stack for."""

    name = "stack"

    def __init__(self, job: dict[str, Any]) -> None:
        self.null = job["null"]
        env = environment.Environment({"parameters": job["parameters"]})
        self.t = template.Template(job["body"], files=job["files"], env=env)
        self.env = env
        where = identifier.HeatIdentifier("tenant", self.name, "id")
        self.parameters = self.t.parameters(where, env.params, env.param_defaults)
        self.parameters.set_stack_id(where)
        self.parameters.validate()
        self.defined = self.t.resource_definitions(self)

    def is_absent(self, reference: Any) -> bool:
        """Whether a reference is to a resource whose condition is false."""
        args = reference.args
        name = args if isinstance(args, str) else args[0]
        return name in self.t.t.get("resources", {}) and name not in self.defined

    def __contains__(self, name: str) -> bool:
        return name in self.defined


def evaluate(job: dict[str, Any]) -> dict[str, Any]:
    """What Heat makes of a template."""
    stack = Stack(job)
    return {
        "resources": {
            name: function.resolve(one._properties) or {} for name, one in stack.defined.items()
        },
        "outputs": {
            name: function.resolve(one._value) for name, one in stack.t.outputs(stack).items()
        },
    }


def main() -> None:
    """Evaluate what is read, one job after the other."""
    for line in sys.stdin:
        try:
            found = evaluate(json.loads(line))
            text = json.dumps(found)
        except Exception as error:
            text = json.dumps({"refused": f"{type(error).__name__}: {error}"})
        print(text, flush=True)


if __name__ == "__main__":
    main()
