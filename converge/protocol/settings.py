"""What a template says of a resource besides its properties, as its row keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from converge.model import Action, Json, Status

if TYPE_CHECKING:
    from converge.sql.resources import ResourceRow
    from converge.sql.survey import ResourceHead


#: The keys of settings that decide something here: what replaces a resource when it changes, and
#: where its relative paths start.
TRIGGERS = "triggers"
PROTECT = "protect"
#: The key of the mark of a row that is to be replaced because somebody asked for it.
ORDERED = "replace"
DIRECTORY = "directory"
#: The key of the policy that leaves in place what a resource stands for, and its value for that.
DELETION_POLICY = "deletion_policy"
RETAIN = "retain"
#: The key of the id of what is there already, and is never touched.
EXTERNAL_ID = "external_id"
#: The key for when a resource runs, and its value for what runs after failures, too.
RUNS = "runs"
ALWAYS = "always"
#: The key for the secrets that are kept elsewhere: see :mod:`converge.template.elsewhere`.
SECRETS = "get_secret"


def is_protected(settings: Mapping[str, Json] | None) -> bool:
    """Whether a resource with these settings is neither deleted nor replaced."""
    return bool((settings or {}).get(PROTECT))


def protected_reason(name: str, what: str) -> str:
    """Why a protected resource is not deleted or replaced, and what would do it.

    :param what: what it is not.
    """
    return (
        f"it is protected, so it is not {what}; if that is meant, say so: --unprotect {name}, or "
        f"unprotect=[{name!r}]"
    )


def is_retained(settings: Mapping[str, Json] | None) -> bool:
    """Whether what a resource with these settings stands for is left in place when it goes."""
    return (settings or {}).get(DELETION_POLICY) == RETAIN or is_external(settings)


def is_external(settings: Mapping[str, Json] | None) -> bool:
    """Whether a resource with these settings was there before, and is never touched."""
    return EXTERNAL_ID in (settings or {})


def is_managed(row: ResourceRow | ResourceHead) -> bool:
    """Whether converge has made, or begun to make, what a resource stands for."""
    return row.status is not Status.INIT and not is_external(row.settings)


def managed_reason(name: str) -> str:
    """Why a resource that converge has made is not given an external id."""
    return (
        f"resource {name!r} was made by converge, and would be deleted for what its external_id "
        "names; if it is the same thing, or stays, let converge forget it first: `converge forget`"
    )


def retained_reason(row: ResourceRow) -> str:
    """Why a resource is left in place, and which thing that is."""
    if is_external(row.settings):
        return f"left in place, id {row.physical_id!r}: it has an external_id"
    return f"left in place, id {row.physical_id!r}: its {DELETION_POLICY} is {RETAIN}"


def retains(wanted: Mapping[str, Json], row: ResourceRow) -> bool:
    """Whether what a resource stands for is left in place when it is replaced: it was made so, or
    the new template says so. What is half made or half deleted is nobody's loss.

    :param wanted: the definition of the replacement, as JSON.
    """
    is_half = row.action is Action.REPLACE or (
        row.action is Action.CREATE and row.status is not Status.COMPLETE
    )
    return is_retained(row.settings) or (not is_half and is_retained(wanted.get("settings")))


def runs_always(settings: Mapping[str, Json] | None) -> bool:
    """Whether a resource with these settings runs whether those before it failed or not, and in
    each traversal that comes to it."""
    return (settings or {}).get(RUNS) == ALWAYS


def is_ordered(settings: Mapping[str, Json] | None) -> bool:
    """Whether somebody asked for a replacement of a resource with these settings."""
    return bool((settings or {}).get(ORDERED))
