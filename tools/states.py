"""The state diagrams of the documentation, from the tables that the store's updates go by.

Sphinx has them written when it begins; ``python tools/states.py FOLDER`` does so as well.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from converge import model
from converge.machine.drawing import draw_table


class Cycle(NamedTuple):
    """A life cycle.

    :ivar moves: state → the states that may follow.
    """

    title: str
    initial: Any
    moves: Mapping[Any, Any]


#: By the name of the file.
CYCLES: Mapping[str, Cycle] = {
    "stack": Cycle("a stack", model.Status.IN_PROGRESS, model.STACK_MOVES),
    "traversal": Cycle("a traversal", model.TraversalStatus.RUNNING, model.TRAVERSAL_MOVES),
    "sync_point": Cycle("a node", model.NodeState.WAITING, model.SYNC_POINT_MOVES),
    "engine": Cycle("an engine", model.EngineState.ALIVE, model.ENGINE_MOVES),
}


def write(folder: Path) -> None:
    """Write what ``.. include::`` takes, for each life cycle: a picture if Graphviz is there,
    otherwise the text that Mermaid draws one of."""
    folder.mkdir(parents=True, exist_ok=True)
    dot = shutil.which("dot")
    for name, cycle in CYCLES.items():
        text = draw_table(cycle.moves, cycle.initial, "mermaid", name=name)
        (folder / f"{name}.mmd").write_text(text, encoding="utf-8")
        lines = [".. code-block:: text", "", *(f"   {line}" for line in text.splitlines())]
        if dot is not None:
            picture = draw_table(cycle.moves, cycle.initial, "dot", name=name)
            path = folder / f"{name}.svg"
            subprocess.run([dot, "-Tsvg", "-o", path], input=picture, text=True, check=True)
            lines = [
                f".. image:: /{folder.name}/{name}.svg",
                f"   :alt: the states of {cycle.title}",
            ]
        (folder / f"{name}.inc").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
