#!/usr/bin/env python3
"""Record what ``kill -9`` does to converge, as an animated SVG.

Two terminals are really there. In the first one ``converge up`` is typed; the second one kills
it with ``kill -9`` in the middle; ``converge up`` is typed again, and goes on. What they print,
and when, is what the picture shows::

    .venv/bin/python tools/record.py

That writes kill.svg and, with the last screens as text, kill.txt into doc/images/, and has
``converge graph`` draw graph.svg there. It needs bash, and pyte, which is in the extra ``test``.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pyte

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "doc" / "images"
#: What ``converge graph`` is asked to draw.
DRAWN = "examples/site.yaml"

WIDTH = 88
TEMPLATE = "examples/webapp.yaml"
PORT = 18423
UP = f"converge up {TEMPLATE}"
#: Each completion with its time, in two columns.
PROOF = "converge events webapp | grep COMPLETE | cut -c 12- | pr -2 -t -w 88"
PROMPT = "$ "
#: It is killed as soon as it says that so many of its resources are done.
DONE_BEFORE = 11
#: Seconds that any step may take on a busy machine.
LIMIT = 60.0
#: Screens that are closer than this, in seconds, are shown as one.
BLINK = 0.04
#: Longer pauses, as when a program starts on a busy machine, are shortened to that many seconds.
IDLE = 0.6
#: Seconds for which the last screen stays.
HOLD = 5.0


class Run(NamedTuple):
    """Characters beside each other that look the same.

    :ivar colour: the terminal's name of it, or six hexadecimal digits.
    """

    column: int
    text: str
    colour: str
    bold: bool


Row = tuple[Run, ...]


class Frame(NamedTuple):
    """:ivar at: seconds since the recording began."""

    at: float
    rows: tuple[Row, ...]


@dataclass
class Terminal:
    """A shell in a terminal of its own.

    :ivar title: what is written above it.
    :ivar frames: what it has shown.
    """

    title: str
    lines: int
    frames: list[Frame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.screen = pyte.Screen(WIDTH, self.lines)
        self.stream = pyte.ByteStream(self.screen)
        self.process: subprocess.Popen[bytes] | None = None
        self.master = -1

    def open(self, folder: Path) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", self.lines, WIDTH, 0, 0))
        known = ("LANG", "LC_ALL", "TMPDIR")
        environment = {key: os.environ[key] for key in known if key in os.environ}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "TERM": "xterm-256color",
            "COLORTERM": "",
            "PS1": PROMPT,
            "PYTHONIOENCODING": "utf-8",
            "TERMINAL": os.ttyname(slave),
        }
        # the leader of a session that opens a terminal has it as its own, with control of jobs
        shell = 'exec bash --noprofile --norc -i <"$TERMINAL" >"$TERMINAL" 2>&1'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", shell], cwd=folder, env=environment, start_new_session=True
        )
        os.close(slave)

    def close(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)
            os.close(self.master)
            self.process.wait(LIMIT)

    def read(self, at: float) -> None:
        """Take what has been printed."""
        try:
            self.stream.feed(os.read(self.master, 65536))
        except OSError:  # nobody has it open any more
            return
        rows = tuple(self._row(number) for number in range(self.lines))
        if self.frames and (rows == self.frames[-1].rows or at - self.frames[-1].at < BLINK):
            at = self.frames.pop().at
        self.frames.append(Frame(at, rows))

    def _row(self, number: int) -> Row:
        runs: list[Run] = []
        for column in range(WIDTH):
            cell = self.screen.buffer[number][column]
            before = runs[-1] if runs else None
            if before is not None and (before.colour, before.bold) == (cell.fg, cell.bold):
                runs[-1] = before._replace(text=before.text + cell.data)
            else:
                runs.append(Run(column, cell.data, cell.fg, cell.bold))
        if runs:
            runs[-1] = runs[-1]._replace(text=runs[-1].text.rstrip())
        return tuple(run for run in runs if run.text.strip())

    @property
    def text(self) -> list[str]:
        """What it shows now, without the empty lines at the end."""
        lines = [line.rstrip() for line in self.screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def foreground(self) -> int:
        """The id of the process that it runs now."""
        return os.tcgetpgrp(self.master)


class Stage:
    """The terminals, and the clock of the recording.

    :param typing: seconds from one key to the next.
    """

    def __init__(self, terminals: Sequence[Terminal], typing: float) -> None:
        self.terminals = terminals
        self.typing = typing
        self.start = time.monotonic()

    @property
    def now(self) -> float:
        return time.monotonic() - self.start

    def wait(self, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let the terminals print until something is so, or time is over.

        :returns: whether it is so.
        """
        end = self.now + seconds
        while not done():
            left = end - self.now
            if left <= 0:
                return False
            by_file = {terminal.master: terminal for terminal in self.terminals}
            for ready in select.select(list(by_file), [], [], min(left, 0.05))[0]:
                by_file[ready].read(self.now)
        return True

    @contextmanager
    def aside(self) -> Iterator[None]:
        """The clock of the recording stands still: nobody types, and nothing runs."""
        before = self.now
        yield
        self.start += self.now - before

    def need(self, what: str, done: Callable[[], bool]) -> None:
        if not self.wait(LIMIT, done):
            shown = "\n".join("\n".join(terminal.text) for terminal in self.terminals)
            raise SystemExit(f"record: {what} did not come within {LIMIT:g} s:\n{shown}")

    def type(self, terminal: Terminal, text: str) -> None:
        """Press the keys of a text, not yet Enter."""
        for key in text:
            os.write(terminal.master, key.encode())
            self.wait(self.typing)

    def enter(self, terminal: Terminal) -> None:
        """Press Enter once what was typed is seen, so that the next bare prompt is a new one."""
        self.need("what was typed", lambda: terminal.text[-1:] != [PROMPT.rstrip()])
        os.write(terminal.master, b"\n")

    def prompt(self, terminal: Terminal, what: str) -> None:
        """Wait for the shell to be ready again."""
        self.need(what, lambda: terminal.text[-1:] == [PROMPT.rstrip()])


@dataclass(frozen=True)
class Recording:
    """:ivar terminals: with all their frames.
    :ivar seconds: how long it took, without :data:`HOLD`.
    :ivar events: what converge says happened, as ``converge events --json`` prints it.
    :ivar before: resources that were complete when it was killed.
    """

    terminals: Sequence[Terminal]
    seconds: float
    events: list[dict[str, object]]
    before: set[str]


def record(folder: Path, *, typing: float = 0.045, port: int = PORT) -> Recording:
    """Play the story in an empty folder.

    :param typing: seconds from one key to the next; with 0 nothing is done for the eye only.
    :param port: where the application of the example is to listen.
    :raises SystemExit: it did not go as it should, and there is nothing to show.
    """
    (folder / "examples").mkdir()
    text = (ROOT / TEMPLATE).read_text(encoding="utf-8").replace(str(PORT), str(port))
    (folder / TEMPLATE).write_text(text, encoding="utf-8")
    first, second = Terminal("terminal 1", 29), Terminal("terminal 2", 2)
    stage = Stage([first, second], typing)
    pause = 20 * typing
    try:
        for terminal in stage.terminals:
            terminal.open(folder)
        for terminal in stage.terminals:
            stage.prompt(terminal, "a shell")
        stage.start = time.monotonic()
        for terminal in stage.terminals:
            terminal.frames = [Frame(0.0, terminal.frames[-1].rows)]
        stage.wait(pause)
        stage.type(first, UP)
        shell = first.foreground
        stage.enter(first)
        stage.need("converge up", lambda: first.foreground != shell)
        victim = first.foreground
        stage.type(second, f"kill -9 {victim}")
        stage.need(f"{DONE_BEFORE} done resources", lambda: done_of(first) >= DONE_BEFORE)
        stage.enter(second)
        stage.prompt(first, "the end of what was killed")
        with stage.aside():
            before = completed(events(folder))
        if not DONE_BEFORE <= len(before) <= 20:
            raise SystemExit(f"record: it was killed when {len(before)} of 21 were done; again?")
        stage.wait(2 * pause)
        for command in (UP, PROOF):
            stage.type(first, command)
            stage.enter(first)
            stage.wait(pause)
            stage.prompt(first, f"the end of {command}")
            stage.wait(pause)
        story = events(folder)
        return Recording(stage.terminals, stage.now, story, set(before))
    finally:
        for terminal in stage.terminals:
            terminal.close()
        if (folder / "converge.db").exists():
            converge("down", "webapp", folder=folder)


def done_of(terminal: Terminal) -> int:
    """How many resources are done, as the terminal shows it."""
    found = re.findall(r"(\d+) of \d+ done", "\n".join(terminal.text))
    return int(found[-1]) if found else 0


def converge(*words: str, folder: Path) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("converge"), *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return done.stdout


def events(folder: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(
        converge("events", "webapp", "--json", folder=folder)
    )
    return found


def completed(story: Sequence[dict[str, object]]) -> list[str]:
    """The resources that completed, each as often as it did."""
    return [
        str(event["resource"])
        for event in story
        if event["resource"] is not None and event["status"] == "COMPLETE"
    ]


# --- the picture ------------------------------------------------------------------------------

#: Pixels.
CHARACTER, LINE = 8.4, 19.0
PADDING, BAR = 14.0, 26.0
GAP = 10.0

_COLOURS = {
    "default": "#d1d7e0",
    "black": "#656c76",
    "red": "#ff7b72",
    "green": "#56d364",
    "brown": "#e3b341",
    "yellow": "#e3b341",
    "blue": "#6cb6ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
    "white": "#f0f6fc",
}

_STYLE = f"""\
text {{ font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace;
  fill: {_COLOURS["default"]} }}
.title {{ font-size: 12px; fill: #9198a1; text-anchor: middle }}
.b {{ font-weight: bold }}
.f {{ visibility: hidden; animation-timing-function: steps(1, end);
  animation-iteration-count: infinite }}
@media (prefers-reduced-motion: reduce) {{ .f {{ animation: none !important }}
  .last {{ visibility: visible }} }}"""


class Span(NamedTuple):
    """A row that is shown from one time to another, in seconds."""

    row: int
    runs: Row
    start: float
    end: float


def shortened(terminals: Sequence[Terminal], end: float) -> Callable[[float], float]:
    """What makes of a time of the recording one of the picture: without its long pauses."""
    moments = sorted({end, *(frame.at for each in terminals for frame in each.frames)})
    shown = dict.fromkeys(moments, 0.0)
    for before, after in pairwise(moments):
        shown[after] = shown[before] + min(after - before, IDLE)
    return shown.__getitem__


def spans(frames: Sequence[Frame], end: float) -> list[Span]:
    """For each row what it shows, and from when to when; empty ones are left out."""
    found = []
    for row in range(len(frames[0].rows)):
        shown, since = frames[0].rows[row], frames[0].at
        for frame in [*frames[1:], Frame(end, ())]:
            runs = frame.rows[row] if frame.rows else None
            if runs == shown:
                continue
            if shown:
                found.append(Span(row, shown, since, frame.at))
            if runs is not None:
                shown, since = runs, frame.at
    return found


def draw(terminals: Sequence[Terminal], seconds: float, title: str) -> str:
    """The recording as one SVG document, which needs nothing else and has no script.

    Each row of each moment is a group that keyframes make visible for its time. Who wants less
    motion sees the last screen.
    """
    at = shortened(terminals, seconds)
    whole = at(seconds) + HOLD
    width = WIDTH * CHARACTER + 2 * PADDING
    body: list[str] = []
    keyframes: dict[tuple[float, float], str] = {}
    top = 0.0
    for terminal in terminals:
        height = terminal.lines * LINE + BAR + PADDING
        body += [
            f'<rect y="{top:g}" width="{width:g}" height="{height:g}" rx="8" fill="#151b23"/>',
            *(
                f'<circle cx="{18 + 18 * number}" cy="{top + 14:g}" r="5" fill="#3d444d"/>'
                for number in range(3)
            ),
            f'<text class="title" x="{width / 2:g}" y="{top + 18:g}">{terminal.title}</text>',
        ]
        frames = [frame._replace(at=at(frame.at)) for frame in terminal.frames]
        for span in spans(frames, whole):
            key = (round(span.start / whole * 100, 2), round(span.end / whole * 100, 2))
            name = keyframes.setdefault(key, f"k{len(keyframes)}")
            last = " last" if span.end == whole else ""
            y = top + BAR + span.row * LINE + LINE * 0.74
            body.append(f'<g class="f {name}{last}">{_runs(span.runs, y)}</g>')
        top += height + GAP
    rules = [_rule(name, start, end, whole) for (start, end), name in keyframes.items()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:g}" '
            f'height="{top - GAP:g}" viewBox="0 0 {width:g} {top - GAP:g}">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}",
            *rules,
            "</style>",
            *body,
            "</svg>",
            "",
        ]
    )


def _rule(name: str, start: float, end: float, whole: float) -> str:
    steps = [] if start == 0 else ["0%{visibility:hidden}"]
    steps.append(f"{start:g}%{{visibility:visible}}")
    steps.append("100%{visibility:visible}" if end >= 100 else f"{end:g}%{{visibility:hidden}}")
    if end < 100:
        steps.append("100%{visibility:hidden}")
    return (
        f".{name}{{animation-name:{name};animation-duration:{whole:.2f}s}}"
        f"@keyframes {name}{{{''.join(steps)}}}"
    )


def _runs(runs: Row, y: float) -> str:
    # by the words' columns, as a viewer may take several spaces for one
    return "".join(
        _words(run, run.column + match.start(), match[0], y)
        for run in runs
        for match in re.finditer(r"━+|─+|[^\s━─]+(?: [^\s━─]+)*", run.text)
    )


def _words(run: Run, column: int, text: str, y: float) -> str:
    x, length = PADDING + column * CHARACTER, len(text) * CHARACTER
    name = run.colour.removeprefix("bright")
    colour = _COLOURS.get(name, f"#{name}")
    if text[0] in "━─":  # as lines: fonts draw these with gaps
        width = 3 if text[0] == "━" else 1
        line = f"M{x:g} {y - 4.5:g}h{length:g}"
        return f'<path d="{line}" stroke="{colour}" stroke-width="{width}"/>'
    bold = ' class="b"' if run.bold else ""
    fill = "" if name == "default" else f' style="fill:{colour}"'
    return (
        f'<text x="{x:g}" y="{y:g}" textLength="{length:g}" lengthAdjust="spacingAndGlyphs"'
        f"{bold}{fill}>{escape(text, quote=False)}</text>"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=IMAGES, help="default: %(default)s")
    images: Path = parser.parse_args(arguments).folder
    images.mkdir(parents=True, exist_ok=True)
    converge("graph", DRAWN, "-o", str(images.resolve() / "graph.svg"), folder=ROOT)
    with tempfile.TemporaryDirectory(prefix="") as folder:
        recording = record(Path(folder))
    again = [name for name in recording.before if completed(recording.events).count(name) != 1]
    if again:
        raise SystemExit(f"record: redone, though it had completed: {', '.join(sorted(again))}")
    title = "converge up is killed with kill -9, and goes on where it was"
    picture = draw(recording.terminals, recording.seconds, title)
    (images / "kill.svg").write_text(picture, encoding="utf-8")
    screens = ["\n".join([f"--- {each.title}", *each.text]) for each in recording.terminals]
    (images / "kill.txt").write_text("\n\n".join(screens) + "\n", encoding="utf-8")
    print(f"kill.svg: {recording.seconds:.0f} s recorded")


if __name__ == "__main__":
    main()
