"""Graphs of what requires what, and their bytes."""

from converge.graph.graph import Graph

__all__ = ["Graph"]
