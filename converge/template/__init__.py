"""Templates: from a text to definitions, each step a module.

``reading`` makes a document of YAML or JSON, plain values with the line of each (``values``);
``structure`` finds in it what the language has (``keys``, ``parameters``, ``functions``), and the
graph; ``support`` refuses what converge would ignore, and what a type does not declare
(``properties``); ``template`` is the face of all that, and fills in the parameters.
"""

from converge.template.definitions import Definitions
from converge.template.evaluate import resolve, resolve_properties
from converge.template.properties import check_properties, with_defaults
from converge.template.template import Template

__all__ = [
    "Definitions",
    "Template",
    "check_properties",
    "resolve",
    "resolve_properties",
    "with_defaults",
]
