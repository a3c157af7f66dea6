"""The pictures in ``doc/images`` show what converge prints and draws today."""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
import record

from tests.doc.test_documentation import normal

ROOT = Path(__file__).resolve().parents[2]
KILL = record.IMAGES / "kill.svg"
SVG = "{http://www.w3.org/2000/svg}"
#: "10:20:31Z place CREATE COMPLETE"
COMPLETION = re.compile(r"\d\d:\d\d:\d\dZ (\S+) CREATE COMPLETE")
#: The live view at the moment of the kill: how far it was, and the resources that ran.
LIVE = re.compile(r"^  \S+ +(SECONDS|\S+ sKilled|RESOURCE.*)$|^webapp +CREATE|^BAR|^Killed$|^\$$")


def last_screen(picture: str) -> list[str]:
    """The lines of the first terminal at the end of a recording."""
    lines: dict[float, str] = {}
    for group in ElementTree.fromstring(picture).iter(f"{SVG}g"):
        if "last" not in group.get("class", "").split():
            continue
        for text in group.iter(f"{SVG}text"):
            y = float(text.get("y", "0"))
            column = round((float(text.get("x", "0")) - record.PADDING) / record.CHARACTER)
            lines[y] = lines.get(y, "").ljust(column) + (text.text or "")
    found = [lines[y] for y in sorted(lines)]
    # the second terminal is below
    return found[: next(n for n, line in enumerate(found) if line.startswith("$ kill"))]


def told(lines: Sequence[str], port: int) -> tuple[list[str], list[str]]:
    """What is the same in each recording: the lines, and the names of what completed, sorted."""
    completions = [name for line in lines for name in COMPLETION.findall(line)]
    # those of the second run are named in the order in which they completed
    rest = [
        re.sub(r"/\S*?(?=/webapp)|(?<=created )\d+: .*", "SOME", line).replace(str(port), "PORT")
        for line in lines
        if not COMPLETION.search(line)
    ]
    return [line for line in normal(rest) if not LIVE.match(line)], sorted(completions)


@pytest.mark.timeout(300)
def test_the_recording_shows_what_is_printed_today() -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    # in the terminal's width there is no room for the path of pytest's folder
    with tempfile.TemporaryDirectory(prefix="") as folder:
        recording = record.record(Path(folder), typing=0, port=port)
    # nothing that completed is done again
    completed = record.completed(recording.events)
    assert len(completed) == len(set(completed)) == 21
    assert recording.before < set(completed)
    # today's is one of the same text
    today = record.draw(recording.terminals, recording.seconds, "today")
    kept = KILL.read_text(encoding="utf-8")
    seen = told(last_screen(today), port)
    assert told(last_screen(kept), record.PORT) == seen
    assert seen[0][0] == f"$ {record.UP}"
    assert len(seen[1]) == 22


def test_the_text_of_the_recording_is_its_last_screen() -> None:
    text = KILL.with_suffix(".txt").read_text(encoding="utf-8").split("\n")
    shown = last_screen(KILL.read_text(encoding="utf-8"))
    # lines of the progress bar are drawn, not written
    written = [line for line in text[1 : text.index("--- terminal 2") - 1] if "━" not in line]
    assert written == shown


def test_the_recording_needs_nothing_else() -> None:
    picture = KILL.read_text(encoding="utf-8")
    names = {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(picture).iter()}
    assert names == {"svg", "title", "style", "rect", "circle", "text", "g", "path"}
    assert not re.findall(r"url\(|href|@import", picture)
    assert len(picture) < 150_000


def test_the_graph_is_what_is_drawn_today(tmp_path: Path) -> None:
    target = tmp_path / "graph.svg"
    record.converge("graph", record.DRAWN, "-o", str(target), folder=ROOT)
    kept = (record.IMAGES / "graph.svg").read_text(encoding="utf-8")
    assert target.read_text(encoding="utf-8") == kept


def run(text: str) -> record.Row:
    return (record.Run(0, text, "default", False),)


def test_a_row_is_shown_for_as_long_as_it_stays() -> None:
    frames = [
        record.Frame(0.0, (run("a"), ())),
        record.Frame(1.0, (run("a"), run("b"))),
        record.Frame(2.0, ((), run("b"))),
    ]
    assert record.spans(frames, 5.0) == [
        record.Span(0, run("a"), 0.0, 2.0),
        record.Span(1, run("b"), 1.0, 5.0),
    ]


def test_long_pauses_are_shortened_in_both_terminals() -> None:
    one, two = record.Terminal("one", 1), record.Terminal("two", 1)
    one.frames = [record.Frame(0.0, ((),)), record.Frame(10.0, (run("a"),))]
    two.frames = [record.Frame(0.0, ((),)), record.Frame(10.25, (run("b"),))]
    at = record.shortened([one, two], 10.5)
    assert [at(t) for t in (0.0, 10.0, 10.25, 10.5)] == [
        0.0,
        record.IDLE,
        record.IDLE + 0.25,
        record.IDLE + 0.5,
    ]
