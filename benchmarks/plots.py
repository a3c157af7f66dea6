"""Plots: lines over logarithmic axes, as SVG.

matplotlib draws them, in an environment of its own: this file is also the program that runs there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Points = Sequence[tuple[float, float]]


def draw(
    path: Path, environments: Path, *, title: str, x: str, y: str, series: Mapping[str, Points]
) -> None:
    """Draw a plot.

    :param environments: the folder of environments.
    :param x: what the axis is of; likewise ``y``.
    :param series: name → points.
    :raises NotInstalled: matplotlib could not be installed.
    """
    from benchmarks.environments import prepare

    python = prepare(environments, "plots")
    plot = {"path": str(path), "title": title, "x": x, "y": y, "series": series}
    # not beside our modules, whose names may be those of others
    subprocess.run([python, "-P", __file__], input=json.dumps(plot), text=True, check=True)


def main(plot: dict[str, Any]) -> None:
    """Draw one that standard input describes."""
    import matplotlib

    matplotlib.use("svg")
    # the same picture of the same figures, with text that can be read and searched
    matplotlib.rcParams.update({"svg.hashsalt": "converge", "svg.fonttype": "none"})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    markers = "osD^vP*X<>"
    for number, (name, points) in enumerate(plot["series"].items()):
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, marker=markers[number % len(markers)], label=name)
    axes.set(title=plot["title"], xlabel=plot["x"], ylabel=plot["y"], xscale="log", yscale="log")
    axes.grid(which="both", color="#ddd", linewidth=0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(plot["path"], metadata={"Date": None})


if __name__ == "__main__":
    main(json.load(sys.stdin))
