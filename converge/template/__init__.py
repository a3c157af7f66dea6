"""Templates: from a text to definitions, each step a module.

``reading`` makes plain values of YAML or JSON; ``values`` keeps the line of each; ``keys`` has the
keys of the language; ``parameters`` and ``functions`` fill in; ``template`` puts it together; and
``properties`` compares with what a type declares.
"""

from converge.template.template import Template, check_properties, resolve, resolve_properties

__all__ = ["Template", "check_properties", "resolve", "resolve_properties"]
