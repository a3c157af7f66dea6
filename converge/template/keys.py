"""The keys of a template's language, level by level: those of converge, and those of Heat only.

Whoever adds a key to the language adds it here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from converge.errors import TemplateError
from converge.model import Json
from converge.template.values import Document, Spot, hint, show

#: Top-level keys that begin with this are ignored: a place for anchors.
EXTENSION = "x-"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that a mapping of the language can have.

    :ivar known: those that converge understands.
    :ivar foreign: those that only Heat has: a template with one of them can only be drawn.
    """

    known: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    _words: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_words", frozenset((*self.known, *self.foreign)))

    def check(self, document: Document, value: Json, spot: Spot, what: object) -> dict[str, Json]:
        """A value as a mapping with no other keys than these; null is an empty one.

        :param what: what messages call it.
        :raises TemplateError: if it is something else.
        """
        body = document.mapping(value, spot, what)
        if self._words.issuperset(body):
            return body
        for key in body:
            if key not in self._words:
                message = f"unknown key {show(key)} in {what}{self._hint(key)}"
                document.note(message, spot.child(key))
        return body

    def _hint(self, key: str) -> str:
        meant = hint(key, (*self.known, *self.foreign))
        if "did you mean" not in meant:
            return hint(key, self.known)
        foreign = any(f"mean {name!r}" in meant for name in self.foreign)
        return f"{meant} converge does not support that" if foreign else meant

    def refuse_foreign(
        self, document: Document, body: dict[str, Json], spot: Spot, what: str
    ) -> None:
        """Refuse the keys that only Heat has.

        :raises TemplateError: if there is such a key.
        """
        for key in body:
            if key in self.foreign:
                document.keep(self.unsupported(document, key, spot.child(key), what))

    def unsupported(self, document: Document, key: str, spot: Spot, what: str) -> TemplateError:
        """An error, to be raised, about a key that only Heat has."""
        known = ", ".join(self.known)
        message = f"{what} has the key {show(key)}, which converge does not support; remove it"
        return document.error(f"{message} (known: {known})", spot)


TEMPLATE = Keys(
    (
        "heat_template_version",
        "description",
        "parameter_groups",
        "parameters",
        "conditions",
        "resources",
        "moved",
        "outputs",
    )
)
ENVIRONMENT = Keys(
    ("parameters", "parameter_defaults"),
    (
        "resource_registry",
        "parameter_merge_strategies",
        "encrypted_param_names",
        "event_sinks",
    ),
)
PARAMETER_GROUP = Keys(("label", "description", "parameters"))
PARAMETER = Keys(
    ("type", "default", "description", "constraints", "hidden", "label", "tags"), ("immutable",)
)
CONSTRAINT = Keys(
    ("allowed_values", "range", "length", "modulo", "allowed_pattern", "description"),
    ("custom_constraint",),
)
BOUNDS = Keys(("min", "max"))
MODULO = Keys(("step", "offset"))
RESOURCE = Keys(
    (
        "type",
        "properties",
        "depends_on",
        "replace",
        "condition",
        "for_each",
        "triggers",
        "protect",
        "deletion_policy",
        "external_id",
        "retry",
        "timeout",
        "deadline",
        "queue",
        "runs",
    ),
    ("metadata", "update_policy"),
)
RETRY = Keys(("attempts", "first", "most"))
#: What a deletion policy can be: our words, and Heat's.
POLICIES = ("delete", "retain", "Delete", "Retain")
#: The resource type of nested stacks, and what the path of a file looks like that is one.
STACK = "stack"
FILES = r"^\.\.?/|\.(yaml|yml|json|template)$"
#: When a resource runs, if not only after what has not failed.
ALWAYS = "always"
OUTPUT = Keys(("description", "value", "condition"))
