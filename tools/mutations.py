#!/usr/bin/env python3
"""Turn off one guard at a time, and see whether a test notices::

    python3 tools/mutations.py [NAME ...] [--quick] [--jobs N]

Each mutation of ``tools/mutations.yaml`` is applied to a copy of the working tree, and the
tests are run there: first those that are named for it, then, unless it is to be quick, all that
deal with the protocol, on SQLite and then on the servers, until one fails. The exit status is 1
if a mutation survives.

``--write`` writes the list into ``doc/proof.rst``.
"""

from __future__ import annotations

import argparse
import ast
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".yaml")
PAGE = ROOT / "doc" / "proof.rst"
#: What the list is between on the page.
BEGIN = ".. mutations: written by tools/mutations.py --write"
END = ".. end of mutations"

#: What is looked through when the named tests notice nothing, the fastest first.
SUITES = (
    "tests/unit/test_decide.py",
    "tests/unit/test_plan.py",
    "tests/unit/test_resource_type.py",
    "tests/store/test_concurrency.py",
    "tests/guards",
    "tests/scenarios",
    "tests/store",
    "tests/engine",
    "tests/invariants",
    "tests/properties",
    "tests/crash",
    "tests/trouble",
    "tests/simulation",
    "tests/acceptance",
)
SQLITE = "not postgresql and not mariadb"
SERVERS = "postgresql or mariadb or own_pgbouncer or own_galera"
#: Seconds that one test may take: a guard turned off can make it wait for ever.
TEST_LIMIT = 40
#: Seconds for one run of tests.
LIMIT = 900
_LEFT_OUT = (".*", "__pycache__", "*.egg-info", "*.pyc", "build", "dist")


class MutationError(Exception):
    """A mutation does not fit the source, or the tests do not pass without one."""


@dataclass(frozen=True)
class Edit:
    """A piece of a function to put another one in the place of.

    :ivar at: the file and the function, as ``converge/lease/lease.py::Lease.renew``; or a file.
    :ivar find: what must be in it once.
    :ivar put: what takes its place.
    """

    at: str
    find: str
    put: str

    @property
    def path(self) -> str:
        """The file."""
        return self.at.partition("::")[0]

    def apply(self, source: str) -> str:
        """The source with the edit made.

        :raises MutationError: there is no such function, or not exactly one such piece.
        """
        first, last = self._range(source)
        part = source[first:last]
        count = part.count(self.find)
        if count != 1:
            raise MutationError(f"{self.at}: {self.find!r} is there {count} times, not once")
        changed = source[:first] + part.replace(self.find, self.put) + source[last:]
        try:
            ast.parse(changed)
        except SyntaxError as error:
            raise MutationError(f"{self.at}: with {self.put!r} it is no Python: {error}") from None
        return changed

    def _range(self, source: str) -> tuple[int, int]:
        """Where the function begins and ends, in characters."""
        name = self.at.partition("::")[2]
        if not name:
            return 0, len(source)
        node: ast.AST = ast.parse(source)
        for part in name.split("."):
            inner = {
                one.name: one
                for one in ast.iter_child_nodes(node)
                if isinstance(one, ast.FunctionDef | ast.ClassDef)
            }
            if part not in inner:
                raise MutationError(f"{self.at}: there is no {part}")
            node = inner[part]
        assert isinstance(node, ast.FunctionDef | ast.ClassDef)
        lines = source.splitlines(keepends=True)
        first = sum(map(len, lines[: node.lineno - 1]))
        return first, first + sum(map(len, lines[node.lineno - 1 : node.end_lineno]))


@dataclass(frozen=True)
class Mutation:
    """One guard that is turned off.

    :ivar group: what it is about.
    :ivar guard: what is turned off.
    :ivar harm: what would go wrong.
    :ivar tests: what should notice, as pytest takes it.
    :ivar servers: it only matters on PostgreSQL and MariaDB.
    """

    name: str
    group: str
    guard: str
    harm: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    servers: bool = False

    def apply(self, folder: Path) -> dict[str, str]:
        """Make the edits in a tree.

        :returns: the sources as they were, by path.
        :raises MutationError: it does not fit.
        """
        before: dict[str, str] = {}
        after: dict[str, str] = {}
        for edit in self.edits:
            if edit.path not in after:
                before[edit.path] = (folder / edit.path).read_text(encoding="utf-8")
            after[edit.path] = edit.apply(after.get(edit.path, before.get(edit.path, "")))
        for path, source in after.items():
            write(folder / path, source)
        return before


def load(path: Path = LIST) -> list[Mutation]:
    """The mutations, in the order of the list.

    :raises MutationError: one is declared wrong.
    """
    mutations = []
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))
    entries = ((group, *entry) for group, inner in groups.items() for entry in inner.items())
    for group, name, entry in entries:
        tests = entry.pop("tests")
        edits = entry.pop("edits", None) or [{key: entry.pop(key) for key in ("at", "find", "put")}]
        try:
            mutations.append(
                Mutation(
                    name,
                    group,
                    edits=tuple(Edit(**edit) for edit in edits),
                    tests=tuple([tests] if isinstance(tests, str) else tests),
                    **entry,
                )
            )
        except TypeError as error:
            raise MutationError(f"{name}: {error}") from None
    return mutations


def write(path: Path, source: str) -> None:
    """Write a source file, so that no compiled form of an earlier one is taken for it."""
    path.write_text(source, encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


def table(mutations: Sequence[Mutation]) -> str:
    """The list as it stands in the documentation."""
    lines = []
    for group, some in groupby(mutations, lambda one: one.group):
        lines += [group, "-" * len(group), ""]
        for mutation in some:
            places = {edit.at.partition("::")[2] or edit.at for edit in mutation.edits}
            shown = ", ".join(f"``{place}``" for place in sorted(places))
            lines += [f"``{mutation.name}`` in {shown}"]
            lines += textwrap.wrap(
                f"{mutation.guard} {mutation.harm}",
                width=100,
                initial_indent="    ",
                subsequent_indent="    ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        lines.append("")
    return "\n".join(lines)


def documented(page: str) -> str:
    """The page with the list as it should be."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table(load())}\n{END}{tail}"


# -- running


@dataclass(frozen=True)
class Run:
    """What a run of tests came to.

    :ivar verdict: ``passed``, ``killed``, or why neither can be said.
    :ivar test: the first test that failed.
    """

    verdict: str
    test: str = ""


class Tree:
    """A copy of the working tree, to change and to run tests in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tree"
        ignore = shutil.ignore_patterns(*_LEFT_OUT)
        shutil.copytree(ROOT, self.folder, symlinks=True, ignore=ignore)
        self._environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        found = subprocess.run(
            [sys.executable, "-c", "import converge; print(converge.__file__)"],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        if not Path(found).is_relative_to(self.folder):
            raise MutationError(f"the tests would run on {found}, not on the copy")

    def test(self, arguments: Sequence[str], databases: str, limit: float = LIMIT) -> Run:
        """Run tests until the first one fails."""
        shutil.rmtree(self.folder / ".hypothesis", ignore_errors=True)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--tb=no"]
        command += ["-p", "no:cacheprovider", "-o", f"timeout={TEST_LIMIT}"]
        command += ["-m", databases, *arguments]
        environment = dict(self._environment)
        if databases == SQLITE:
            # so that nobody looks for the servers
            environment |= {"CONVERGE_TEST_POSTGRESQL": "none", "CONVERGE_TEST_MARIADB": "none"}
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            # asked politely, the tests drop their databases
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            return Run("killed", f"no end within {limit:g} s")
        failed = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", output, re.MULTILINE)
        if process.returncode == 1 and failed:
            return Run("killed", failed[1])
        if process.returncode == 1 and "Timeout" in output:
            return Run("killed", "a test hangs")
        if process.returncode in (0, 5):
            return Run("passed" if process.returncode == 0 else "no test")
        return Run("broken", output.strip().splitlines()[-1] if output.strip() else "no output")


def check(tree: Tree, mutation: Mutation, quick: bool, more: Sequence[str]) -> Run:
    """See whether a test notices the mutation."""
    before = mutation.apply(tree.folder)
    try:
        run = Run("passed")
        for arguments, databases in _stages(mutation, quick):
            run = tree.test([*arguments, *more], databases)
            if run.verdict != "passed":
                break
        return run
    finally:
        for path, source in before.items():
            write(tree.folder / path, source)


def _stages(mutation: Mutation, quick: bool) -> Iterator[tuple[Sequence[str], str]]:
    if mutation.tests:
        yield mutation.tests, SERVERS if mutation.servers else SQLITE
    if not quick:
        yield suites(), SQLITE
        yield suites(), SERVERS


def suites() -> list[str]:
    """Those of the suites that are there."""
    return [suite for suite in SUITES if (ROOT / suite).exists()]


def check_without(tree: Tree, chosen: Sequence[Mutation], quick: bool, more: Sequence[str]) -> None:
    """Run the same tests on the tree as it is.

    :raises MutationError: one fails: then nothing can be concluded from its failing.
    """
    stages = [
        (sorted({test for one in chosen if one.servers is servers for test in one.tests}), where)
        for servers, where in ((False, SQLITE), (True, SERVERS))
    ]
    if not quick:
        stages += [(suites(), SQLITE), (suites(), SERVERS)]
    for arguments, databases in stages:
        if arguments:
            run = tree.test([*arguments, *more], databases)
            if run.verdict != "passed":
                raise MutationError(f"without any mutation: {run.verdict} {run.test}")


def main() -> int:
    """Check the mutations that are asked for."""
    parser = argparse.ArgumentParser(description="Turn off one guard at a time.")
    parser.add_argument("names", nargs="*", help="names or patterns; all, if there are none")
    parser.add_argument("--quick", action="store_true", help="run only the tests that are named")
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time")
    parser.add_argument("--write", action="store_true", help="write the list into doc/proof.rst")
    parser.add_argument("--pytest", action="append", default=[], help="a further argument for it")
    options = parser.parse_args()
    mutations = load()
    if options.write:
        PAGE.write_text(documented(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    chosen = [
        one
        for one in mutations
        if not options.names or any(fnmatch(one.name, name) for name in options.names)
    ]
    if not chosen:
        parser.error("no mutation has such a name")
    with tempfile.TemporaryDirectory() as folder:
        trees: queue.SimpleQueue[Tree] = queue.SimpleQueue()
        for number in range(max(1, options.jobs)):
            trees.put(Tree(Path(folder) / str(number)))
        tree = trees.get()
        try:
            check_without(tree, chosen, options.quick, options.pytest)
        except MutationError as error:
            print(error)
            return 1
        trees.put(tree)
        width = max(len(one.name) for one in chosen)

        def one(mutation: Mutation) -> bool:
            tree = trees.get()
            start = time.monotonic()
            try:
                run = check(tree, mutation, options.quick, options.pytest)
            except MutationError as error:
                run = Run("broken", str(error))
            finally:
                trees.put(tree)
            verdict = "SURVIVED" if run.verdict == "passed" else run.verdict
            seconds = time.monotonic() - start
            print(f"{mutation.name:{width}}  {seconds:4.0f} s  {verdict:8}  {run.test}", flush=True)
            return run.verdict == "killed"

        with ThreadPoolExecutor(max(1, options.jobs)) as pool:
            killed = list(pool.map(one, chosen))
    print(f"{sum(killed)} of {len(killed)} mutations were noticed")
    return 0 if all(killed) else 1


if __name__ == "__main__":
    sys.exit(main())
