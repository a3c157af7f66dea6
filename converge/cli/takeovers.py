"""The commands that change whose a thing is: ``adopt``, ``move``, ``forget``."""

from __future__ import annotations

import sys
from argparse import Namespace

from converge.cli import EXIT_COMPLETE
from converge.cli.database import opened
from converge.cli.engine import built_in_types
from converge.cli.output import write_json
from converge.escaping import escape


def forget(arguments: Namespace) -> int:
    """Let a stack forget a resource."""
    from dataclasses import asdict

    with opened(arguments) as store:
        done = store.forget_resource(arguments.name, arguments.resource, id=arguments.id)
    if arguments.json:
        write_json(None if done is None else asdict(done), sys.stdout)
        return EXIT_COMPLETE
    who = f"stack {escape(repr(arguments.name))}"
    what = f"resource {escape(repr(arguments.resource))}"
    if done is None:
        print(f"{who} has already forgotten {what}")
        return EXIT_COMPLETE
    made = "no physical id is known" if done.physical_id is None else repr(done.physical_id)
    print(
        f"{who} has forgotten {what} (id {done.id}, type {escape(repr(done.type))}, {done.action} "
        f"{done.status}); nothing was deleted, and converge no longer manages it: {escape(made)}"
    )
    return EXIT_COMPLETE


def adopt(arguments: Namespace) -> int:
    """Take a thing that is there into a stack."""
    from dataclasses import asdict

    from converge.template import Template

    template, parameters = None, None
    if arguments.template is not None:
        template = Template.load(arguments.template)
        parameters = template.read_parameters(*arguments.environment) | dict(arguments.param)
    with opened(arguments) as store:
        done = store.adopt_resource(
            arguments.name,
            arguments.resource,
            arguments.id,
            template,
            parameters=parameters,
            types=built_in_types(arguments),
        )
    if arguments.json:
        write_json(None if done is None else asdict(done), sys.stdout)
        return EXIT_COMPLETE
    who = f"stack {escape(repr(arguments.name))}"
    what, thing = (escape(repr(one)) for one in (arguments.resource, arguments.id))
    if done is None:
        print(f"{who}: {what} is {thing} already")
        return EXIT_COMPLETE
    print(f"{who}: {what} (type {escape(repr(done.type))}) is {thing} now")
    if done.differs:
        print(f"{escape(done.differs)}; `converge plan` shows how, `converge up` mends it")
    elif not done.was_read:
        print("its type cannot look at it: it is taken to be as the template says")
    print("from now on it is deleted when a file no longer names it, or with the stack")
    return EXIT_COMPLETE


def move(arguments: Namespace) -> int:
    """Give a resource another name, or another stack."""
    from dataclasses import asdict

    with opened(arguments) as store:
        done = store.move_resource(arguments.name, arguments.old, arguments.new, to=arguments.to)
    if arguments.json:
        write_json(None if done is None else asdict(done), sys.stdout)
        return EXIT_COMPLETE
    who = f"stack {escape(repr(arguments.name))}"
    old, new = (escape(repr(one)) for one in (arguments.old, arguments.new))
    if arguments.to not in (None, arguments.name):
        to = f"stack {escape(repr(arguments.to))}"
        when = "already" if done is None else "now; move it in the templates, too"
        print(f"{who}: {old} is {new} of {to} {when}")
    elif done is None:
        print(f"{who}: {old} is {new} already")
    else:
        print(f"{who}: {old} is {new} now; give it that name in the template, too")
    return EXIT_COMPLETE
