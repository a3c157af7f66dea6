"""What the documentation shows is run, and must come out as it is shown.

Of ``README.md`` and the documents named below, these blocks are taken:

``console``
    Each line that starts with ``$`` is run by /bin/sh, in a folder of its own that has a copy
    of ``examples/`` and no database. Its output (both streams) must be the lines below it. A
    line ``...`` stands for any number of lines.
``python``
    The blocks of one document are executed in order, in one namespace.
any whose first line is a comment with nothing but a file name
    is written to that file, for the blocks after it.

What differs from run to run is made equal first: see :data:`PATTERNS`. Lines of events that
follow each other are compared in any order, as resources that do not depend on each other
come about in any order; not so where ``...`` stands among them. The port of the examples is
replaced by a free one.

``python -m tests.doc.test_documentation FOLDER [PAGE...]`` runs the console blocks in that folder,
and writes what it saw into the documents, where it is not equal to what they show.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from converge import Journal, Machine, Template
from converge.resources import load_types

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TUTORIAL = ROOT / "doc" / "tutorial.rst"
EMBEDDING = ROOT / "doc" / "embedding.rst"
JOURNAL = ROOT / "doc" / "journal.rst"
POOLS = ROOT / "doc" / "pools.rst"
TEMPLATES = ROOT / "doc" / "templates.rst"
FUNCTIONS = ROOT / "doc" / "functions.rst"
NOTIFICATIONS = ROOT / "doc" / "notifications.rst"
TUTORIAL_NOTIFICATIONS = ROOT / "doc" / "tutorial_notifications.rst"
PLANNING = ROOT / "doc" / "planning.rst"
KEEPING = ROOT / "doc" / "keeping.rst"
MENDING = ROOT / "doc" / "mending.rst"
TROUBLESHOOTING = ROOT / "doc" / "troubleshooting.rst"
#: Where the documents say that they are.
FOLDER = "/home/me/converge"
PORT = "18423"
#: Seconds that one command may take on a busy machine.
TIMEOUT = 120

#: What is said of a resource that is slow, where the machine is busy; it is left out on both sides.
SLOW = r"\.\.\. .+ (started|still IN_PROGRESS after .+)"
#: What is replaced on both sides before they are compared.
PATTERNS = (
    # times, and the seconds that something took
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
    (r"\b\d+ min \d\d s\b|\b\d+(\.\d+)? s\b", "SECONDS"),
    # tokens and process ids
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "TOKEN"),
    (r"\bpid = \d+", "pid = PID"),
    # what `date +%s%N` prints
    (r"\b\d{19}\b", "NANOSECONDS"),
    # the live view: how far it is, and what runs at that moment
    (r"\b\d+ of (\d+) done, \d+ running", r"N of \1 done, N running"),
    (r"[━─]+", "BAR"),
    (r"^  \S+ +SECONDS$", "  RESOURCE SECONDS"),
    # the widths of columns, which depend on the folder's name
    (r" {2,}", "  "),
)


@dataclass(frozen=True)
class Block:
    """:ivar first: the index of its first line in the document.
    :ivar indent: what stands before each of its lines.
    """

    language: str
    lines: list[str]
    first: int
    indent: str = ""

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    @property
    def file(self) -> str | None:
        """The name in its first line, if it is a file."""
        match = re.fullmatch(r"# ([\w./-]+\.\w+)", self.lines[0]) if self.lines else None
        return match[1] if match else None


@dataclass(frozen=True)
class Command:
    """:ivar first: the index of the first line of its output in the document."""

    line: str
    output: list[str]
    first: int
    indent: str


def blocks(path: Path) -> Iterator[Block]:
    """The blocks of code in a document, in order."""
    lines = path.read_text(encoding="utf-8").split("\n")
    number = 0
    while number < len(lines):
        fence = re.fullmatch(r"```(\w+)", lines[number])
        directive = re.fullmatch(r"( *)\.\. code-block:: (\w+)", lines[number])
        number += 1
        if fence:
            end = lines.index("```", number)
            yield Block(fence[1], lines[number:end], number)
            number = end + 1
        elif directive:
            while lines[number].strip():  # options
                number += 1
            number += 1
            indent = directive[1] + "   "
            end = number
            while end < len(lines) and (lines[end].startswith(indent) or not lines[end].strip()):
                end += 1
            while not lines[end - 1].strip():
                end -= 1
            held = [line.removeprefix(indent) for line in lines[number:end]]
            yield Block(directive[2], held, number, indent)
            number = end


def commands(path: Path) -> list[Command]:
    """The commands in the console blocks of a document."""
    found = []
    for block in blocks(path):
        if block.language != "console":
            continue
        starts = [n for n, line in enumerate(block.lines) if line.startswith("$ ")]
        assert starts[0] == 0, f"{path.name}:{block.first}: a console block starts with a command"
        for start, end in zip(starts, [*starts[1:], len(block.lines)], strict=True):
            output = block.lines[start + 1 : end]
            first = block.first + start + 1
            found.append(Command(block.lines[start][2:], output, first, block.indent))
    return found


def normal(lines: list[str], *, in_order: bool = False) -> list[str]:
    """The lines with what differs from run to run replaced, events in the order of their text.

    :param in_order: leave events in their own order.
    """
    result: list[str] = []
    events: list[str] = []
    for line in lines:
        if re.fullmatch(SLOW, line):
            continue
        for pattern, replacement in PATTERNS:
            line = re.sub(pattern, replacement, line)
        if line.startswith("TIME ") and not in_order:
            events.append(line.rstrip())
        else:
            result += [*sorted(events), line.rstrip()]
            events = []
    return result + sorted(events)


def equal(shown: list[str], seen: list[str]) -> bool:
    """Whether a command's output is as shown: what stands between ``...`` is found in it in
    order, the first lines at its start and the last ones at its end."""
    in_order = "..." in shown
    rest = normal(seen, in_order=in_order)
    parts: list[list[str]] = [[]]
    for line in shown:
        if line == "...":
            parts.append([])
        else:
            parts[-1].append(line)
    for number, part in enumerate(normal(each, in_order=in_order) for each in parts):
        places = range(len(rest) - len(part) + 1)
        if number == 0:
            places = places[:1]
        if number == len(parts) - 1:
            places = places[-1:]
            if number == 0 and len(rest) != len(part):
                return False
        place = next((n for n in places if rest[n : n + len(part)] == part), None)
        if place is None:
            return False
        rest = rest[place + len(part) :]
    return True


class Shell:
    """Runs commands in a folder.

    :param terminal: they see a terminal of 80 columns.
    """

    def __init__(self, folder: Path, *, terminal: bool = False) -> None:
        self.folder = folder
        self.terminal = terminal
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = str(found.getsockname()[1])
        examples = folder / "examples"
        examples.mkdir()
        for path in (ROOT / "examples").glob("*.yaml"):
            text = path.read_text(encoding="utf-8").replace(PORT, self.port)
            (examples / path.name).write_text(text, encoding="utf-8")
        (examples / "notifications").symlink_to(ROOT / "examples" / "notifications")

    def run(self, line: str) -> list[str]:
        """The output of a command, with the folder and the port that the documents show."""
        # the example's script installs converge, which is there already
        line = re.sub(r"^python3 examples/run.py$", "converge up examples/webapp.yaml", line)
        line = re.sub(r"^python3 examples/run.py ", "converge ", line)
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith("CONVERGE_")
        }
        programs = os.path.dirname(os.path.abspath(sys.executable))
        environment |= {
            "PATH": f"{programs}{os.pathsep}{environment['PATH']}",
            "TERM": "xterm",
            "NO_COLOR": "1",
            "CONVERGE_ACTOR": "me@home",
            "PYTHONIOENCODING": "utf-8",
        }
        run = self._on_terminal if self.terminal else self._piped
        output = run(line.replace(PORT, self.port), environment)
        output = output.replace(os.path.realpath(self.folder), FOLDER)
        output = output.replace(str(self.folder), FOLDER).replace(self.port, PORT)
        return [line.rstrip() for line in output.split("\n")][:-1]

    def _piped(self, line: str, environment: dict[str, str]) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
        )
        return done.stdout.decode()

    def _on_terminal(self, line: str, environment: dict[str, str]) -> str:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
        process = subprocess.Popen(
            ["/bin/sh", "-c", line],
            cwd=self.folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        data = b""
        try:
            while part := os.read(ours, 65536):
                data += part
        except OSError:  # Linux says so when nobody writes any more
            pass
        os.close(ours)
        process.wait(TIMEOUT)
        # without colours; where the cursor is moved, a line ends
        text = re.sub(r"\x1b\[[0-9;]*m", "", data.decode())
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\r", text)
        return re.sub(r"[\r\n]+", "\n", text).lstrip("\n")

    def close(self) -> None:
        """Stop the example's server, wherever its story ended."""
        if (self.folder / "webapp").exists():
            self.terminal = False
            self.run("converge down webapp")


def write_files(path: Path, folder: Path) -> None:
    """Write the files that a document shows."""
    for block in blocks(path):
        if block.file is not None:
            (folder / block.file).write_text(block.text, encoding="utf-8")


def check_commands(path: Path, shell: Shell) -> int:
    """Run the commands of a document.

    :returns: how many there were.
    """
    found = commands(path)
    for command in found:
        seen = shell.run(command.line)
        if not equal(command.output, seen):
            shown = "\n".join(command.output)
            pytest.fail(
                f"{path.name}:{command.first}: $ {command.line}\n"
                f"--- shown:\n{shown}\n--- seen:\n" + "\n".join(seen),
                pytrace=False,
            )
    return len(found)


@pytest.mark.timeout(600)
def test_readme_commands(tmp_path: Path) -> None:
    shell = Shell(tmp_path, terminal=True)
    try:
        assert check_commands(README, shell) >= 1
    finally:
        shell.close()


@pytest.mark.timeout(600)
def test_tutorial_commands(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    try:
        assert check_commands(TUTORIAL, shell) >= 8
    finally:
        shell.close()
    left = sorted(path.name for path in tmp_path.iterdir() if "converge.db" not in path.name)
    assert left == ["examples"], "the tutorial ends with everything deleted"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("path", "least"),
    [
        (FUNCTIONS, 6),
        (KEEPING, 3),
        (MENDING, 3),
        (NOTIFICATIONS, 6),
        (PLANNING, 6),
        (TEMPLATES, 5),
        (TUTORIAL_NOTIFICATIONS, 20),
        (TROUBLESHOOTING, 40),
    ],
)
def test_commands_on_files_of_the_page(path: Path, least: int, tmp_path: Path) -> None:
    write_files(path, tmp_path)
    assert check_commands(path, Shell(tmp_path)) >= least


def test_templates_are_accepted(tmp_path: Path) -> None:
    found = [
        block
        for path in (TEMPLATES, FUNCTIONS, KEEPING, MENDING, PLANNING, TROUBLESHOOTING)
        for block in blocks(path)
        if block.language == "yaml" and re.search("^(resources|outputs):", block.text, re.MULTILINE)
    ]
    for block in found:
        if block.file is None:
            Template.parse(block.text, f"line {block.first}").validate(load_types())
        else:
            # another one may name it
            target = tmp_path / block.file
            target.write_text(block.text, encoding="utf-8")
            Template.load(target).validate(load_types())
    assert len(found) >= 8


@pytest.mark.parametrize(
    "path",
    [README, EMBEDDING, JOURNAL, KEEPING, NOTIFICATIONS, PLANNING, POOLS],
    ids=lambda path: path.name,
)
def test_python_blocks(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONVERGE_DB", raising=False)
    space: dict[str, object] = {"__name__": "__main__"}
    executed = 0
    try:
        for block in blocks(path):
            if block.file is not None:
                target = tmp_path / block.file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                # the empty lines in front make a traceback name the document's line
                code = compile("\n" * block.first + block.text, str(path), "exec")
                exec(code, space)
                executed += 1
    finally:
        # their threads would go on beside other tests
        for value in space.values():
            if isinstance(value, Journal | Machine):
                value.close()
    assert executed


def test_the_reference_has_every_command_and_option() -> None:
    from converge.cli.parser import build_parser

    text = (ROOT / "doc" / "reference.rst").read_text(encoding="utf-8")
    parser, commands = build_parser()
    for name, command in commands.by_name.items():
        assert f"converge {name}" in text
        for option in {*command.options(), *parser.options()}:
            if option.startswith("--"):
                assert f"``{option}" in text, f"{option} of {name}"


def test_every_document_is_in_the_index_and_the_readme() -> None:
    index = (ROOT / "doc" / "index.rst").read_text(encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    for path in (ROOT / "doc").glob("*.rst"):
        if path.stem != "index":
            assert re.search(rf"^   {path.stem}$", index, re.MULTILINE)
            # the page of changes is the file
            assert f"](doc/{path.name})" in readme or path.stem == "changes"


def test_messages_to_troubleshoot_are_what_is_said() -> None:
    text = TROUBLESHOOTING.read_text(encoding="utf-8")
    # what is before it is run
    page = " ".join(text.partition("Nothing happens\n")[2].split())
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "converge").rglob("*.py"))
    # a message may be in several literals
    code = re.sub(r"""["']\s+f?["']""", "", " ".join(sources))
    quoted = re.findall(r'"([^"]{12,})"', page)
    assert len(quoted) > 20
    # what differs each time: numbers, names, paths
    differs = re.compile(
        r"'[^']*'|…|/[^ ,]+|(?:engine|attempt|retry|traversal|version)? ?\b[0-9]+\b|HOST|UPDATE|by "
        r"|create\b|KeyError.*|s \(|;|none|(?:is|are) alive|died|\d h \d.*|\d min ago"
    )
    for message in quoted:
        for words in differs.split(message):
            said = words.strip(" ;:,()")
            assert len(said) < 8 or said in code, f"{message!r}: nothing says {said!r}"


def test_links_of_the_readme_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link


@pytest.mark.parametrize(
    ("shown", "seen", "same"),
    [
        (["took 3.2 s"], ["took 11 s"], True),
        (["took 3.2 s"], ["took long"], False),
        (["a", "...", "z"], ["a", "b", "z"], True),
        (["a", "...", "z"], ["b", "a", "z"], False),
        (["a"], ["a", "b"], False),
        (
            ["2026-01-01T00:00:00Z a", "2026-01-01T00:00:00Z b"],
            ["2026-01-02T00:00:00Z b", "2026-01-02T00:00:00Z a"],
            True,
        ),
    ],
)
def test_comparison(shown: list[str], seen: list[str], same: bool) -> None:
    assert equal(shown, seen) is same


def record(path: Path, shell: Shell) -> None:
    """Write into a document what its commands print now, where that is not as shown."""
    lines = path.read_text(encoding="utf-8").split("\n")
    moved = 0
    for command in commands(path):
        seen = shell.run(command.line)
        if equal(command.output, seen):
            continue
        print(f"{path.name}:{command.first}: $ {command.line}")
        start = command.first + moved
        lines[start : start + len(command.output)] = [
            (command.indent + line).rstrip() for line in seen
        ]
        moved += len(seen) - len(command.output)
        path.write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    folder = Path(sys.argv[1])
    pages = (
        TUTORIAL,
        TEMPLATES,
        PLANNING,
        KEEPING,
        MENDING,
        TROUBLESHOOTING,
        TUTORIAL_NOTIFICATIONS,
    )
    for path in pages:
        if sys.argv[2:] and path.stem not in sys.argv[2:]:
            continue
        folder.mkdir()
        shell = Shell(folder)
        try:
            write_files(path, folder)
            record(path, shell)
        finally:
            shell.close()
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
