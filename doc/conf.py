"""How Sphinx builds the documentation: ``tox -e docs``."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tools"))

import pictures  # noqa: E402

# a library of the theme turns on the log of everything at INFO
logging.getLogger("alembic").setLevel(logging.WARNING)

# drawn from the code before anything is read
pictures.write(HERE / "_generated")

project = "converge"
author = "the converge authors"
copyright = author
version = release = version_of("converge")

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build", "_generated"]
nitpicky = False

html_theme = "furo"
html_title = f"converge {release}"
html_theme_options = {"navigation_with_keys": True}
html_show_copyright = False

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
