"""What a file and its options want of a stack: for ``up`` and ``plan``."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converge.cli.database import is_there
from converge.cli.engine import built_in_types
from converge.cli.options.stacks import STDIN
from converge.errors import BadInput

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
    if arguments.file == STDIN:
        text = sys.stdin.buffer.read()
        template = Template.parse(text, "<stdin>", directory=os.curdir)
    else:
        template = Template.load(arguments.file)
    try:
        check_name("stack", name)
    except BadInput as error:
        hint = "" if arguments.stack is not None else "; give another one with --stack"
        raise BadInput(f"{error}{hint}") from error
    parameters = template.read_parameters(*arguments.environment) | dict(arguments.param)
    types = built_in_types(arguments)
    template.validate({**load_types(), **types}, arguments.elsewhere)
    if not (arguments.keep_params and is_there(arguments)):
        template.resolve_parameters(parameters)
    return WantedStack(name, template, parameters, types)
