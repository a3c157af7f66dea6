"""What engines do, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from converge.cli.output import duration
from converge.escaping import escape

if TYPE_CHECKING:
    from converge.pipeline.pruning import PrunedNotifications
    from converge.protocol.prune import Pruned
    from converge.protocol.recover import Sweep

#: How many of an engine's nodes the table names.
NAMED = 3


def lease(engine: Mapping[str, Any]) -> str:
    """How much longer an engine's lease lasts: ``12 s left``, ``ended 3.0 s ago``."""
    if engine["state"] == "STOPPED":
        return ""
    left = float(engine["lease_seconds"])
    return f"{duration(left)} left" if left > 0 else f"ended {duration(-left)} ago"


def holds(engine: Mapping[str, Any]) -> str:
    """What an engine holds: ``shop/db for 12 s, shop/web (cleanup) for 3.0 s, 5 more``."""
    words = [_held(node) for node in engine["holds"][:NAMED]]
    more = engine["nodes"] - len(words)
    if more > 0:
        words.append(f"{more} more")
    return ", ".join(words)


def _held(node: Mapping[str, Any]) -> str:
    what = {"update": "", "cleanup": " (cleanup)"}.get(node["kind"], "")
    name = "(its end)" if node["resource"] is None else node["resource"]
    return f"{escape(node['stack'])}/{escape(name)}{what} for {duration(node['since_seconds'])}"


def grouped(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The messages of answers; of those that differ in the resource alone, one."""
    groups: dict[tuple[object, str], list[Mapping[str, Any]]] = {}
    for number, one in enumerate(answers):
        named = repr(one["resource"])
        message = str(one["message"])
        # what does not name its resource once is like no other
        same = message.replace(named, "", 1) if message.count(named) == 1 else f"{number}"
        groups.setdefault((one["stack"], same), []).append(one)
    return [_grouped(alike) for alike in groups.values()]


def _grouped(alike: Sequence[Mapping[str, Any]]) -> str:
    message = str(alike[0]["message"])
    others = [repr(one["resource"]) for one in alike[1:]]
    if not others:
        return message
    more = [f"{len(others) - NAMED} more"] if len(others) > NAMED else []
    return f"{message} (the same: {', '.join([*others[:NAMED], *more])})"


def recovered(done: Sweep) -> list[str]:
    """What a recovery did, a line for each kind."""
    lines = []
    if done.engines:
        lines.append(f"{_count(done.engines, 'dead engine')} found")
    if done.nodes:
        lines.append(f"{_count(done.nodes, 'node')} of dead engines made ready for others")
    if done.unblocked:
        lines.append(f"{_count(done.unblocked, 'node')} unblocked, as the resource was free")
    if done.overdue:
        lines.append(f"{_count(done.overdue, 'traversal')} timed out")
    if done.leftovers:
        lines.append(f"{_count(done.leftovers, 'node')} of ended traversals removed")
    if done.scopes:
        lines.append(f"{_count(done.scopes, 'scope')} of finished work removed")
    if not lines:
        lines.append("nothing to recover")
    if done.ready:
        are = "waits" if done.ready == 1 else "wait"
        lines.append(f"{_count(done.ready, 'node')} {are} for an engine")
    return lines


def queues(engine: Mapping[str, Any]) -> str:
    """The queues that an engine serves."""
    return ", ".join(engine["queues"] or [])


def pruned(done: Pruned, *, dry_run: bool) -> str:
    """What was pruned, or would be: ``pruned 1 deleted stack, 12 traversals, 310 events``."""
    kinds = {
        "deleted stack": done.stacks,
        "traversal": done.traversals,
        "event": done.events,
        "version": done.templates,
    }
    return _pruned(kinds, dry_run)


def pruned_notifications(done: PrunedNotifications, *, dry_run: bool) -> str:
    """What was pruned, or would be, of notifications: ``pruned 310 events, 12 samples``."""
    return _pruned({"event": done.events, "sample": done.samples}, dry_run)


def _pruned(kinds: Mapping[str, int], dry_run: bool) -> str:
    found = ", ".join(_count(number, what) for what, number in kinds.items() if number)
    if not found:
        return "nothing to prune"
    return f"would prune {found}" if dry_run else f"pruned {found}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
