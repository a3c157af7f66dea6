"""What a file and its options want of a stack: for ``up`` and ``plan``."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converge.cli.database import is_there
from converge.cli.engine import built_in_types
from converge.cli.mistakes import STDIN_NAME, find_mistakes, read_stdin
from converge.errors import BadInput, TemplateError

if TYPE_CHECKING:
    from converge.resources.resource_type import ResourceType
    from converge.template import Template


@dataclass(frozen=True, slots=True)
class WantedStack:
    """:ivar name: of the stack.
    :ivar parameters: those that are given.
    :ivar types: the built-in types, as configured.
    """

    name: str
    template: Template
    parameters: Mapping[str, Any]
    types: Mapping[str, ResourceType]


def read_wanted(arguments: Namespace) -> WantedStack:
    """Read the file, and check all that can be checked without the database: a mistake must not
    leave an empty one behind.

    :raises BadInput: something is wrong.
    """
    from converge.model import check_name
    from converge.resources import load_types
    from converge.template import Template

    name = arguments.stack if arguments.stack is not None else Path(arguments.file).stem
    text = read_stdin(arguments)
    types = built_in_types(arguments)
    known = {**load_types(), **types}
    try:
        if text is None:
            template = Template.load(arguments.file)
        else:
            template = Template.parse(text, STDIN_NAME, directory=os.curdir)
        template.validate(known, arguments.elsewhere)
    except TemplateError as error:
        error.errors = tuple(find_mistakes(arguments, known, text))
        raise
    try:
        check_name("stack", name)
    except BadInput as error:
        hint = "" if arguments.stack is not None else "; give another one with --stack"
        raise BadInput(f"{error}{hint}") from error
    parameters = template.read_parameters(*arguments.environment) | dict(arguments.param)
    if not (arguments.keep_params and is_there(arguments)):
        template.resolve_parameters(parameters)
    return WantedStack(name, template, parameters, types)
