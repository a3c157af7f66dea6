"""What a large stack costs a small one beside it: python -m benchmarks fairness [--smaller]

One engine with eight workers in a process of its own, on a PostgreSQL server as ``engine.py`` needs
it, or at ``--url`` on any database. A large stack of nodes that do not depend on each other is
running; a small one of ten is created, and the time until whoever waits hears that it is COMPLETE
is compared with that of the same stack while the engine has nothing else to do. Small stacks are
wide (ten nodes at once) or deep (ten after each other), and handlers take no time, or as long as a
call of a service. Both have handlers of the same length.

Runs with and without the large stack take turns; the median of the ratios counts. The target is at
most 3. A handler that takes no time is the hardest case: the engine holds as many nodes as it can
do in a quarter of a second, and writes hundreds of outcomes with each commit, which makes it fast,
and what is alone on it, faster still. With ``--update``, the large stack is layered and there
already, and ten of its resources change, so that most of its nodes are passed over.
"""

from __future__ import annotations

import argparse
import os
import time
from statistics import median

import converge
from benchmarks import graphs
from benchmarks.databases import any_database
from benchmarks.engine_process import EngineProcess
from benchmarks.measuring import DEFAULT_URL, VARIABLE, listed, load, verdict
from benchmarks.runs import make_template
from converge import Store, Template

#: Seconds that a handler takes.
HANDLERS = (0.0, 0.02, 0.2)
SIZE = 10
#: Resources of the large stack that change in an update.
CHANGED = 10
WORKERS = 8
BUS = "database://"
#: Seconds without a stack before a small one comes: hints that follow each other are held back.
PAUSE = 0.5
LIMIT = 600.0
MOST = 3.0
#: Seconds for which the large stack runs before a small one comes.
UNDER_WAY = 1.0


def make(count: int, seconds: float, *, deep: bool = False) -> Template:
    """A template of so many nodes."""
    properties = {"seconds": seconds}
    body = {"type": "noop", "properties": properties}
    return Template.from_dict(
        {
            "resources": {
                f"n{number}": body | ({"depends_on": f"n{number - 1}"} if deep and number else {})
                for number in range(count)
            }
        }
    )


def take(store: Store, name: str, small: Template) -> float:
    """Milliseconds from the start of a stack to its end."""
    time.sleep(PAUSE)
    start = time.monotonic()
    store.create_stack(name, small).wait(timeout=LIMIT)
    return 1000 * (time.monotonic() - start)


class Creating:
    """A large stack that is created in each round."""

    def __init__(self, store: Store, large: int, seconds: float) -> None:
        self._store, self._big = store, make(large, seconds)

    def begin(self, name: str) -> converge.Stack:
        """Start."""
        return self._store.create_stack(name, self._big)


class Updating:
    """A large stack of which ten resources change in each round."""

    def __init__(self, store: Store, large: int) -> None:
        requires = graphs.layered(large, max(1, large // 20))
        every = max(1, large // CHANGED)
        self._templates = [make_template(requires, changed) for changed in (0, every)]
        self._stack = store.create_stack("large", self._templates[0])
        self._stack.wait(timeout=LIMIT)
        self._store, self._updates = store, 0

    def begin(self, name: str) -> converge.Stack:
        """Start."""
        self._updates += 1
        return self._store.update_stack("large", self._templates[self._updates % 2])


def measure(
    store: Store, url: str, seconds: float, large: int, rounds: int, *, updates: bool = False
) -> None:
    """Print the ratios for handlers of one length."""
    smalls = {"wide": make(SIZE, seconds), "deep": make(SIZE, seconds, deep=True)}
    label = f"{1000 * seconds:g} ms"
    alone: dict[str, list[float]] = {shape: [] for shape in smalls}
    beside: dict[str, list[float]] = {shape: [] for shape in smalls}
    with EngineProcess(url, BUS, workers=WORKERS):
        other = Updating(store, large) if updates else Creating(store, large, seconds)
        for number in range(rounds):
            for shape, small in smalls.items():
                alone[shape].append(take(store, f"alone-{label}-{shape}-{number}", small))
            stack = other.begin(f"large-{label}-{number}")
            time.sleep(UNDER_WAY)
            for shape, small in smalls.items():
                beside[shape].append(take(store, f"beside-{label}-{shape}-{number}", small))
            is_running = stack.refresh().status == "IN_PROGRESS"
            store.cancel_stack(stack.name) if is_running and not updates else None
            stack.wait(timeout=LIMIT)
            if not is_running:
                print(f"  the large stack ended too early in round {number}")
    for shape in smalls:
        pairs = zip(beside[shape], alone[shape], strict=True)
        verdict(
            f"handlers of {label}, {shape}: beside a large stack / alone",
            [one / other for one, other in pairs],
            most=MOST,
        )
        print(
            f"  ms alone {listed(alone[shape], 0)}; beside {listed(beside[shape], 0)}; "
            f"medians {median(alone[shape]):.0f} and {median(beside[shape]):.0f}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks fairness", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--smaller", action="store_true", help="a smaller stack, fewer rounds")
    parser.add_argument("--large", type=int, default=100_000, help="nodes of the large stack")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--handlers", type=float, nargs="+", default=HANDLERS, metavar="S", help="seconds of each"
    )
    parser.add_argument("--update", action="store_true", help="beside an update, without handlers")
    parser.add_argument("--url", default=os.environ.get(VARIABLE, DEFAULT_URL))
    arguments = parser.parse_args()
    large, rounds = arguments.large, arguments.rounds
    if arguments.smaller:
        large, rounds = min(large, 10_000), min(rounds, 3)
    with (
        any_database(arguments.url) as url,
        converge.connect(url, create_schema=True, bus=BUS) as store,
    ):
        text = url.render_as_string(hide_password=False)
        print(f"a large stack of {large} nodes, small ones of {SIZE}, {WORKERS} workers; {load()}")
        for seconds in (0.0,) if arguments.update else arguments.handlers:
            measure(store, text, seconds, large, rounds, updates=arguments.update)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
