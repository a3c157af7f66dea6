"""How Sphinx builds the documentation: ``tox -e docs``."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "converge"
author = "the converge authors"
copyright = author
version = release = version_of("converge")

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
nitpicky = False

html_theme = "alabaster"
html_theme_options = {"description": "A graph of things, brought into a desired state"}
html_show_copyright = False

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
