"""Drawings: of graphs, as text, dot, mermaid and SVG, and of states."""
