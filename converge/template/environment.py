"""Environment files: values for the parameters of a template, in the syntax of Heat's."""

from __future__ import annotations

import os
from collections.abc import Mapping

from converge.errors import BadInput
from converge.model import Json
from converge.template.keys import ENVIRONMENT
from converge.template.parameters import Parameter, misread_values
from converge.template.reading import read
from converge.template.values import Document, Spot, hint, show


def read_environment(
    path: str | os.PathLike[str], parameters: Mapping[str, Parameter]
) -> tuple[dict[str, Json], dict[str, Json]]:
    """What a file gives to the parameters of a template.

    :returns: the values of ``parameters``, and those of ``parameter_defaults``, of which what the
        template does not have is left out.
    :raises TemplateError: if the file cannot be read, has anything else, or has a value that does
        not fit.
    """
    document = read(path)
    body = ENVIRONMENT.check(document, document.value, document.spot, "an environment")
    for problem in document.problems:
        raise problem
    for key in ENVIRONMENT.foreign:
        if body.get(key):
            spot = document.spot.child(key)
            raise ENVIRONMENT.unsupported(document, key, spot, "an environment")
    return (
        _values(document, body, "parameters", parameters, strict=True),
        _values(document, body, "parameter_defaults", parameters, strict=False),
    )


def _values(
    document: Document,
    body: Mapping[str, Json],
    section: str,
    parameters: Mapping[str, Parameter],
    *,
    strict: bool,
) -> dict[str, Json]:
    place = document.spot.child(section)
    found = {}
    for name, value in document.mapping(
        body.get(section), place, f"the section {section!r}"
    ).items():
        spot = place.child(name)
        if name in parameters:
            found[name] = _value(document, parameters[name], value, spot)
        elif strict:
            message = f"the template has no parameter {show(name)}{hint(name, parameters)}"
            raise document.error(message, spot)
    return found


def _value(document: Document, parameter: Parameter, value: Json, spot: Spot) -> Json:
    for wrong, found in misread_values(parameter.type, value, spot):
        raise document.error(f"parameter {show(parameter.name)}: {wrong}", found)
    try:
        return parameter.value(value)
    except BadInput as error:
        raise document.error(str(error), spot) from None
