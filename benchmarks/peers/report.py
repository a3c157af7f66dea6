"""What is kept, printed and drawn of a comparison of peers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import plots, tables
from benchmarks.peers.running import Result
from benchmarks.tables import DOC, MEASURED, list_table

#: The results as they were measured.
RESULTS = MEASURED / "peers.json"

Kept = dict[str, Any]
#: Of a figure that could not be taken.
NONE = "no"


def keep(result: Result, raw: float) -> Kept:
    """A result as it is kept.

    :param raw: the raw limit, commits/s.
    """
    return {**asdict(result), "raw": raw}


def multiple(case: Kept) -> float:
    """Nodes/s as a multiple of the raw limit."""
    rate: float = case["nodes"] / case["seconds"] / case["raw"]
    return rate


def tell(name: str, case: Kept) -> str:
    """A result in words."""
    if case.get("reason"):
        return str(case["reason"])
    if name == "recovery":
        return (
            f"{case['seconds']:.2f} s until the next node, {case['all_seconds']:.2f} s until all"
            f" was done, {case['redone']} handlers called twice"
        )
    return (
        f"{case['nodes'] / case['seconds']:,.1f} nodes/s ({case['seconds']:.2f} s),"
        f" raw {case['raw']:,.0f}/s, multiple {multiple(case):.3f};"
        f" {case['memory']:.0f} MB"
    )


def tell_library(one: Kept) -> str:
    """The result of a library for graphs in words."""
    if one.get("reason"):
        return str(one["reason"])
    return f"{one['edges']:,} edges in {one['seconds']:.2f} s, {one['memory']:.0f} MB"


def _significant(value: float) -> str:
    """Two digits that mean something."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _name(peer: Kept) -> str:
    return f"{peer['name']} {peer['version']}".strip()


def table(found: Kept) -> list[str]:
    """The tables, as reStructuredText."""
    peers = found["peers"]
    limits = [one["raw"] for peer in peers for one in peer["cases"].values() if "raw" in one]
    raw = f" Raw: {min(limits):,.0f} to {max(limits):,.0f} commits/s." if limits else ""
    lines = [f"{found['date']}; {found['where']}.{raw}", ""]
    names = list(peers[0]["cases"]) if peers else []
    speeds = [name for name in names if name != "recovery"]
    reasons: list[str] = []

    def cell(peer: Kept, name: str, text: str) -> str:
        reason = peer["cases"][name].get("reason")
        if not reason:
            return text
        reasons.append(f"- {peer['name']}: {name}: {reason}")
        return NONE

    if speeds:
        rows = [
            [_name(peer)]
            + [
                cell(peer, name, "")
                or f"{_significant(multiple(peer['cases'][name]))}"
                f" ({peer['cases'][name]['nodes'] / peer['cases'][name]['seconds']:,.0f}/s)"
                for name in speeds
            ]
            for peer in peers
        ]
        lines += list_table("Nodes/s by raw commits/s", ["", *speeds], rows)
        rows = [
            [_name(peer)]
            + [
                NONE
                if peer["cases"][name].get("reason")
                else f"{peer['cases'][name]['memory']:,.0f}"
                for name in speeds
            ]
            for peer in peers
        ]
        lines += list_table("Memory of all its processes, MB", ["", *speeds], rows)
    if "recovery" in names:
        rows = []
        for peer in peers:
            case = peer["cases"]["recovery"]
            failed = cell(peer, "recovery", "")
            rows.append(
                [_name(peer), failed, failed, failed]
                if failed
                else [
                    _name(peer),
                    f"{case['seconds']:.1f}",
                    f"{case['all_seconds']:.1f}",
                    str(case["redone"]),
                ]
            )
        head = ["", "s until the next node", "s until all is done", "handlers called twice"]
        lines += list_table("After SIGKILL", head, rows)
    if found["libraries"]:
        rows = [
            [
                _name(one),
                *(
                    (NONE, one["reason"])
                    if one.get("reason")
                    else (f"{one['seconds']:.2f}", f"{one['memory']:.0f}")
                ),
            ]
            for one in found["libraries"]
        ]
        title = f"Build and order of {found['libraries'][0]['edges']:,} edges"
        lines += list_table(title, ["", "s", "MB"], rows)
    if reasons:
        lines += ["What could not be done:", "", *reasons, ""]
    return lines


def write(found: Kept, environments: Path) -> None:
    """Keep the results, and draw them."""
    tables.keep("peers.inc", table(found))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    for kind, label in (("fan-in", "nodes into one"), ("layered", "nodes in 20 layers")):
        series = {
            peer["name"]: [
                (case["nodes"], multiple(case))
                for name, case in peer["cases"].items()
                if name.startswith(kind) and not case.get("reason")
            ]
            for peer in found["peers"]
        }
        plots.draw(
            DOC / "images" / f"peers-{kind}.svg",
            environments,
            title=f"{label.capitalize()}: nodes/s by raw commits/s",
            x=label,
            y="multiple of the raw limit",
            series={name: points for name, points in series.items() if points},
        )
