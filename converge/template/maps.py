"""The functions about mappings: ``map_merge``, ``map_replace``; and ``make_url``, which takes
one."""

from __future__ import annotations

from urllib.parse import quote, urlencode, urlunsplit

from converge.errors import BadInput
from converge.model import Json
from converge.template.forms import Pure, check_size, misfit, takes_list
from converge.template.values import hint, kind, show

URL_PARTS = ("scheme", "username", "password", "host", "port", "path", "query", "fragment")
_PORTS = range(1, 65536)


def _merge_check(argument: Json, settled: bool) -> str | None:
    wrong = takes_list("map_merge", "the mappings to merge", 0)(argument, settled)
    if wrong is not None or not isinstance(argument, list):
        return wrong
    for part in argument:
        if misfit("", part, settled, dict, type(None)) is not None:
            return f"map_merge merges mappings, not {kind(part)}"
    return None


def _merge(argument: Json) -> dict[str, Json]:
    merged: dict[str, Json] = {}
    for part in argument:
        merged |= part or {}
    return merged


def _replace_check(argument: Json, settled: bool) -> str | None:
    form = "a mapping, and a mapping with 'keys', 'values' or both"
    wrong = takes_list("map_replace", form, 2, 2)(argument, settled)
    if wrong is not None or not isinstance(argument, list):
        return wrong
    for part in argument:
        if misfit("", part, settled, dict, type(None)) is not None:
            return f"map_replace takes a list: {form}"
    changes = argument[1]
    if isinstance(changes, dict) and (settled or not misfit("", changes, True, dict)):
        for key, part in changes.items():
            if key not in ("keys", "values"):
                return f"map_replace replaces 'keys' and 'values', not {show(key)}"
            wrong = wrong or misfit(f"the {key} of map_replace", part, settled, dict, type(None))
    return wrong


def _replace(argument: Json) -> dict[str, Json]:
    given, changes = argument[0] or {}, argument[1] or {}
    keys, values = changes.get("keys") or {}, changes.get("values") or {}
    made: dict[str, Json] = {}
    for old, value in given.items():
        new = keys.get(old)
        if new is None:
            new = old
        elif not isinstance(new, str):
            raise BadInput(f"map_replace: the new key for {show(old)} is {kind(new)}")
        elif (new in given and new != old) or new in made:
            raise BadInput(f"map_replace: there would be two keys {show(new)}")
        made[new] = values.get(value, value) if isinstance(value, str) else value
    return made


def _url_check(argument: Json, settled: bool) -> str | None:
    if not isinstance(argument, dict):
        return f"make_url takes a mapping with keys of {', '.join(URL_PARTS)}"
    for key, part in argument.items():
        if key not in URL_PARTS:
            return f"make_url has no key {show(key)}{hint(key, URL_PARTS)}"
        what = f"the {key} of make_url"
        kinds = {"query": (dict,), "port": (int, str)}.get(key, (str,))
        wrong = misfit(what, part, settled, *kinds)
        if wrong is None and key == "port" and isinstance(part, int | str):
            good = str(part).isascii() and str(part).isdigit() and len(str(part)) <= 5
            if not good or int(part) not in _PORTS:
                wrong = f"{what} must be a number from 1 to 65535, not {show(part)}"
        if wrong is None and key == "scheme" and isinstance(part, str) and ":" in part:
            wrong = f"{what} must not have a colon"
        if wrong is not None:
            return wrong
    return None


def _url(argument: Json) -> str:
    def part(key: str) -> str:
        return str(argument.get(key, ""))

    user = quote(part("username"), safe="")
    password = quote(part("password"), safe="")
    place = f"{user}:{password}@" if password else f"{user}@" if user else ""
    host = part("host")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    host = quote(host, safe=":")
    place += f"[{host}]" if ":" in host else host
    if part("port"):
        place += f":{part('port')}"
    query = urlencode(argument.get("query", {})).replace("%2F", "/")
    url = urlunsplit((part("scheme"), place, quote(part("path")), query, quote(part("fragment"))))
    check_size("make_url", len(url))
    return url


FUNCTIONS = {
    "map_merge": Pure(_merge_check, _merge),
    "map_replace": Pure(_replace_check, _replace),
    "make_url": Pure(_url_check, _url),
}
