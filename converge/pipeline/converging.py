"""The publisher ``converge``: an item starts or updates a stack, or fires a machine."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from converge.errors import BadInput
from converge.pipeline.items import Item, to_json
from converge.pipeline.publishers import Outlet, Publisher
from converge.pipeline.steps import Form


class ConvergePublisher(Publisher):
    """Starts a stack, or brings it to its template and parameters; or fires an event at an
    instance of a machine. Names, keys and values are texts with fields of the item in braces.

    An engine brings the stack about. An item that comes again changes nothing: the stack has the
    same template and parameters. A machine is fired in the transaction that records it: once.

    :param stack: the name of the stack.
    :param template: the file of its template.
    :param parameters: values for its parameters.
    :param machine: the definition of the machine: ``package.module:name``.
    :param key: of the instance, which is created if there is none.
    :param event: what is fired; the payload is the item.
    """

    def __init__(
        self,
        stack: str | None = None,
        template: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        machine: str | None = None,
        key: str | None = None,
        event: str | None = None,
    ) -> None:
        from converge.template.template import Template

        self._template: Template | None = None
        if (stack is None) == (machine is None):
            raise BadInput("it needs either stack and template, or machine, key and event")
        if stack is not None:
            if template is None:
                raise BadInput("it needs template, the file that the stack is from")
            self._stack = Form(stack)
            self._template = Template.load(Path(template))
            self._parameters = {
                name: Form(value) if isinstance(value, str) and value else value
                for name, value in (parameters or {}).items()
            }
            return
        if key is None or event is None or machine is None:
            raise BadInput("it needs key, which instance, and event, what is fired")
        self._key, self._event = Form(key), Form(event)
        self._definition = import_name(machine)
        self.transactional = True  # type: ignore[misc]

    def publish(self, items: Sequence[Item], outlet: Outlet) -> None:
        """Start or fire for each of them, in their order."""
        for item in items:
            if self._template is not None:
                self._start(self._template, item, outlet)
            else:
                self._fire(item, outlet)

    def _start(self, template: Any, item: Item, outlet: Outlet) -> None:
        values = {
            name: value.fill(item) if isinstance(value, Form) else value
            for name, value in self._parameters.items()
        }
        outlet.store.converge_stack(self._stack.fill(item), template, parameters=values)

    def _fire(self, item: Item, outlet: Outlet) -> None:
        from converge.machine import Machine

        machine = Machine(outlet.store, self._definition)
        machine.fire(
            self._key.fill(item),
            self._event.fill(item),
            to_json(item),
            create=True,
            transaction=outlet.transaction,
        )


def import_name(text: str) -> Any:
    """What ``package.module:name`` names.

    :raises BadInput: there is no such thing.
    """
    module, colon, name = text.partition(":")
    if not colon:
        module, _, name = text.rpartition(".")
    if not module or not name:
        raise BadInput(f"{text!r} is not a dotted name; write package.module:name")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise BadInput(f"{text!r} cannot be imported: {error}") from None
    except AttributeError:
        raise BadInput(f"module {module} has no {name!r}") from None
    return found
