"""What a real thing has become since it was made: pure functions.

A type's ``read`` says what a thing is. What differs from the properties that its resource was last
brought to has drifted: it is kept in the resource's row until an update mends it. The values of
secrets are compared, and never kept.

In the row, such a resource is one whose check failed: so a converge that knows nothing of drift
mends it, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from converge.hiding import STARS
from converge.model import Json, Status, same
from converge.protocol.marks import marked_properties
from converge.template.elsewhere import put_in

if TYPE_CHECKING:
    from converge.hiding import Secrets
    from converge.sql.resource_views import ResourceView
    from converge.sql.resources import ResourceRow

Drift = dict[str, Json]

#: The keys of what is kept: the real values of what differs, by name; the names of what differs and
#: is secret; why there is no such thing any more; what the type's check says that differs.
_PROPERTIES = "properties"
_SECRET = "secret"
_GONE = "gone"
_SAID = "said"
#: So many properties a reason names.
_NAMED = 10


def compare(
    made: Mapping[str, Json],
    real: Mapping[str, Json],
    secret: Iterable[str] = (),
    elsewhere: Mapping[str, str] | None = None,
) -> Drift:
    """What differs; empty if nothing does.

    :param made: the properties that the resource was last brought to.
    :param real: those that its type could tell. None is the same as not to have it.
    :param secret: the names of those that are secret.
    :param elsewhere: the secrets that are kept elsewhere, by their references.
    """
    kept = set(secret)
    values: dict[str, Json] = {}
    hidden: list[str] = []
    for name, value in real.items():
        before = made.get(name)
        given = put_in(before, elsewhere or {})
        if same(given, value):
            continue
        if name in kept or not same(given, before):
            hidden.append(name)
        else:
            values[name] = value
    return _drift(values, hidden)


def masked(drift: Drift, made: Mapping[str, Json], secrets: Secrets) -> Drift:
    """What has drifted, without the values of what was made of secrets, and with those that
    contain one masked."""
    for key in (_GONE, _SAID):
        if key in drift:
            return {key: secrets.hide(drift[key])}
    values = dict(drift.get(_PROPERTIES, {}))
    hidden = [name for name in values if not same(secrets.hide_in_json(m := made.get(name)), m)]
    for name in hidden:
        del values[name]
    return _drift(secrets.hide_in_json(values), [*drift.get(_SECRET, ()), *hidden])


def _drift(values: Mapping[str, Json], hidden: Iterable[str]) -> Drift:
    found: Drift = {_PROPERTIES: dict(values)} if values else {}
    return found | ({_SECRET: sorted(hidden)} if hidden else {})


def gone(reason: str) -> Drift:
    """That there is no such thing any more."""
    return {_GONE: reason}


def said(reason: str) -> Drift:
    """What the type's check says that differs."""
    return {_SAID: reason}


def describe(drift: Mapping[str, Json]) -> str:
    """What has drifted, in words."""
    if _GONE in drift:
        return f"it is gone: {drift[_GONE]}" if drift[_GONE] else "it is gone"
    if _SAID in drift:
        return str(drift[_SAID]) or "its check says that it has drifted"
    names = sorted([*drift.get(_PROPERTIES, ()), *drift.get(_SECRET, ())])
    some = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"it differs from what it was made to be: {some}{more}"


def drift_of(row: ResourceRow) -> Mapping[str, Json] | None:
    """What is known to have drifted of a resource, and has not been mended."""
    return None if row.status is Status.COMPLETE else row.drift


def is_gone(row: ResourceRow) -> bool:
    """Whether a check found that there is no such thing any more."""
    return _GONE in (drift_of(row) or {})


def real_properties(row: ResourceRow) -> Mapping[str, Json]:
    """The properties of a resource as they really are, as far as that is known. One that is secret
    and has drifted is None: what it is, nobody has kept."""
    drift = drift_of(row)
    if not drift:
        return row.properties
    hidden = dict.fromkeys(drift.get(_SECRET, ()))
    return {**row.properties, **drift.get(_PROPERTIES, {}), **hidden}


def shown_drift(one: ResourceView, *, reveal: bool = False) -> Json:
    """What has drifted of a resource, for people: why it is gone, or each property as it was made
    (``before``) and as it is (``after``), or what its check says; None if it has not.

    :param reveal: show the secrets of which the values are known.
    """
    drift = one.drift
    if not drift or one.status != Status.DRIFTED:
        return None
    return {
        "gone": drift.get(_GONE),
        "said": drift.get(_SAID),
        "properties": dict(_differences(one, drift, reveal)),
    }


def _differences(
    one: ResourceView, drift: Mapping[str, Json], reveal: bool
) -> Iterator[tuple[str, Json]]:
    secret = marked_properties(one.settings)
    values = drift.get(_PROPERTIES, {})
    for name in sorted([*values, *drift.get(_SECRET, ())]):
        hidden = name not in values or (name in secret and not reveal)
        before, after = one.properties.get(name), values.get(name)
        if hidden:
            before = after = STARS
        yield name, {"before": before, "after": after}
