"""The names of the scopes of work on resources, which are reserved."""

from __future__ import annotations

import re

_WORK = re.compile(r"resource \d+ (?:create|update|delete|check|read)(?: (\d+))?")


def work_scope_name(resource_id: int, verb: str, traversal_id: int | None) -> str:
    """The name of the scope of work on a resource.

    :param verb: the operation, such as ``create``.
    :param traversal_id: None for work that is resumed in later traversals.
    """
    name = f"resource {resource_id} {verb}"
    return name if traversal_id is None else f"{name} {traversal_id}"


def is_work_scope(name: str) -> bool:
    """Whether a name has the form of :func:`work_scope_name`."""
    return _WORK.fullmatch(name) is not None


def find_traversal(name: str) -> int | None:
    """The traversal in a name of :func:`work_scope_name`; None if there is none."""
    found = _WORK.fullmatch(name)
    return None if found is None or found[1] is None else int(found[1])
