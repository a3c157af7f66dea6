"""The section ``moved``: which names resources had before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from converge.model import Json
from converge.template.values import Spot, kind, show

MOVED = "moved"


def moved_problems(
    moved: Json, is_resource: Callable[[str], bool], spot: Spot
) -> Iterator[tuple[str, Spot]]:
    """What is wrong with it: messages with their places.

    :param is_resource: whether the template has a resource of that name.
    """
    if moved is None:
        return
    if not isinstance(moved, dict):
        yield f"moved must be a mapping of old names to new ones, not {kind(moved)}", spot
        return
    targets = Counter(new for new in moved.values() if isinstance(new, str))
    for old, new in moved.items():
        place, known = spot.child(old), f"moved says that {show(old)} is called {show(new)} now"
        if not isinstance(new, str):
            yield f"moved.{old} must be the new name, not {kind(new)}", place
            continue
        if is_resource(old):
            remedy = f"remove it from resources, or {show(old)} from moved"
            yield f"{known}, but there still is a resource {show(old)}; {remedy}", place
        if targets[new] > 1:
            yield f"{known}, and so it says of another one; one of them can be it", place
        last = final_name(moved, old)
        if last is None:
            yield f"{known}, and so on in a circle; remove the older of the lines", place
        elif new not in moved and not is_resource(new):
            remedy = f"if it went, too, remove {show(old)} from moved"
            yield f"{known}, but there is no resource {show(new)}; {remedy}", place


def final_name(moved: Mapping[str, Json], old: str) -> str | None:
    """The newest name of what once had this one; None if they go in a circle."""
    seen = {old}
    name: Json = moved[old]
    while name in moved:
        if name in seen:
            return None
        seen.add(name)
        name = moved[name]
    return str(name)


def final_names(moved: Json) -> dict[str, str]:
    """The newest name by each old one; what is wrong is left out."""
    if not isinstance(moved, dict):
        return {}
    found = {old: final_name(moved, old) for old, new in moved.items() if isinstance(new, str)}
    return {old: new for old, new in found.items() if new is not None}
