"""The functions of values alone, by name."""

from __future__ import annotations

from collections.abc import Mapping

from converge.template import lists, maps, texts
from converge.template.forms import Pure

FUNCTIONS: Mapping[str, Pure] = {**texts.FUNCTIONS, **lists.FUNCTIONS, **maps.FUNCTIONS}
