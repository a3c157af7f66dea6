"""How Sphinx builds the documentation: ``tox -e docs``."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tools"))

import states  # noqa: E402

# the diagrams are made from the code before anything is read
states.write(HERE / "_generated")

project = "converge"
author = "the converge authors"
copyright = author
version = release = version_of("converge")

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build", "_generated"]
nitpicky = False

html_theme = "alabaster"
html_theme_options = {"description": "A graph of things, brought into a desired state"}
html_show_copyright = False

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
