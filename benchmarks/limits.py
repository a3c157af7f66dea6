"""The engine beside two limits, in turns: a hand-written loop, and its own row writes alone.

Part of ``engine.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import mean, median

from sqlalchemy.engine import URL

from benchmarks.costs import Cost, Meter, per_node, print_costs
from benchmarks.graphs import Requires
from benchmarks.handwritten import Handwritten
from benchmarks.measuring import verdict
from benchmarks.replay import Recording
from benchmarks.runs import STACK, Bench, Run, make_template
from benchmarks.tables import list_table
from converge.sql.transaction import Transaction
from converge.stack import Stack

#: Of how many nodes one changes in an update.
CHANGED = 100

Start = Callable[[Transaction | None], Stack]


class Limits:
    """:param requires: the graph that both do."""

    def __init__(self, bench: Bench, url: URL, requires: Requires) -> None:
        self._bench = bench
        self._url = url
        self._requires = requires
        template, other = make_template(requires), make_template(requires, CHANGED)
        store = bench.store
        #: What is done to a stack, one after the other.
        self.starts: dict[str, Start] = {
            "create": lambda tx: store.create_stack(STACK, template, transaction=tx),
            "unchanged": lambda tx: store.update_stack(STACK, template, transaction=tx),
            "changed": lambda tx: store.update_stack(STACK, other, transaction=tx),
            "delete": lambda tx: store.delete_stack(STACK, transaction=tx),
        }
        self._meter = Meter(url, "converge_", self._bench.store.database.close)
        self._recordings: dict[str, Recording] = {}
        self._record()
        self._handwritten = Handwritten(url, self._group)
        self._handwritten_meter = Meter(url, "plain_", self._reconnect)

    def close(self) -> None:
        """Disconnect."""
        self._meter.close()
        self._handwritten_meter.close()
        self._handwritten.close()

    def _reconnect(self) -> None:
        self._handwritten.close()
        self._handwritten.connect()

    def _record(self) -> None:
        """Let the engine do all of it once, unmeasured."""
        with self._bench.engine():
            for name, start in self.starts.items():
                recording = self._recordings[name] = Recording(name)

                def begin(start: Start = start, recording: Recording = recording) -> Stack:
                    with self._bench.store.transaction() as tx:
                        stack = start(tx)
                        recording.keep_rows(tx)
                    return stack

                with recording.of(self._bench.store):
                    run = self._bench.measure(len(self._requires), begin)
                if name == "create":
                    # as many nodes at once as the engine has
                    self._group = max(1, round(run.nodes / max(1, run.counts.commits)))

    def _measure_handwritten(self) -> tuple[float, Cost]:
        meter = self._handwritten_meter
        meter.prepare()
        self._handwritten.start(self._requires)
        meter.begin()
        seconds = self._handwritten.run()
        return seconds, meter.end()

    def measure(self, rounds: int) -> list[str]:
        """Let them take turns, and print what came out.

        :returns: a table of it, for the documentation.
        """
        nodes = len(self._requires)
        runs: dict[str, list[Run]] = {name: [] for name in self.starts}
        by_hand: dict[str, list[float]] = {name: [] for name in self.starts}
        by_rows: dict[str, list[float]] = {name: [] for name in self.starts}
        costs: list[Cost] = []
        for number in range(1, rounds + 1):
            before, cost = self._measure_handwritten()
            costs.append(cost)
            with self._bench.engine():
                for name, start in self.starts.items():
                    run = self._bench.measure(nodes, partial(start, None), self._meter)
                    runs[name].append(run)
            after, cost = self._measure_handwritten()
            costs.append(cost)
            hand = nodes / mean((before, after))
            shown = []
            for name, recording in self._recordings.items():
                rate = runs[name][-1].rate
                rows = nodes / recording.replay(self._url)
                by_hand[name].append(rate / hand)
                by_rows[name].append(rate / rows)
                shown.append(f"{name} {rate:,.0f} (its rows {rows:,.0f})")
            print(f"round {number}: nodes/s: by hand {hand:,.0f}; {', '.join(shown)}", flush=True)
        for name in self.starts:
            least = 2.0 if name == "create" else 0.0
            verdict(f"ratio {name} / by hand", by_hand[name], least=least)
        for name in self.starts:
            least = 0.6 if name == "create" else 0.0
            verdict(f"ratio {name} / its row writes alone", by_rows[name], least=least)
        print(f"a node costs, medians (by hand in groups of {self._group}):")
        measured = {"by hand": costs}
        for name, several in runs.items():
            measured[name] = [run.cost for run in several if run.cost is not None]
        for name, several_costs in measured.items():
            print_costs(name, nodes, several_costs)
        columns = [per_node(nodes, one) for one in measured.values()]
        lines = [
            ["nodes/s by those by hand", "1", *(f"{median(one):.2f}" for one in by_hand.values())],
            ["by its row writes alone", "", *(f"{median(one):.2f}" for one in by_rows.values())],
            *([what, *(column[what] for column in columns)] for what in columns[0]),
        ]
        return list_table(f"A node of {nodes:,}", ["", *measured], lines)
