"""URLs of buses: how they are checked, and how they are shown without their secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

from converge.errors import BadInput, did_you_mean
from converge.hiding import learn, learn_options, show_options, show_place

#: The bus that is used if none is named.
DEFAULT_BUS = "database://"
#: The topic of converge's messages, unless the URL names another one.
TOPIC = "converge"
_OWN = ("memory", "database")
#: What oslo.messaging carries messages by.
OSLO = ("rabbit", "kafka", "fake")
_ALIASES = {"amqp": "rabbit", "rabbitmq": "rabbit", "amqps": "rabbit"}
_LOOKS_LIKE = "one looks like rabbit://USER:PASSWORD@HOST:5672/ or database://"
_ENCODE = "in a user or a password, write % @ / : ? , and & as %25 %40 %2F %3A %3F %2C and %26"
_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class BusUrl:
    """The URL of a bus.

    :ivar kind: its scheme.
    :ivar text: what oslo.messaging is given, without options.
    :ivar options: the options for oslo.messaging's driver.
    :ivar topic: the topic of the messages.
    :ivar shown: the URL for people.
    """

    kind: str
    text: str
    options: dict[str, str]
    topic: str
    shown: str


def read_bus_url(text: str) -> BusUrl:
    """Read the URL of a bus.

    :raises BadInput: it is none, or of a kind that is not known.
    """
    kind, separator, rest = text.partition("://") if isinstance(text, str) else ("", "", "")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", kind):
        raise BadInput(f"{show_place(text)} is not the URL of a bus; {_LOOKS_LIKE}")
    kind = kind.lower()
    if kind in _ALIASES:
        raise BadInput(f"a bus of {kind!r} is named {_ALIASES[kind]}://...")
    if kind not in _OWN + OSLO:
        raise BadInput(f"there is no bus {kind!r}{did_you_mean(kind, _OWN + OSLO)}")
    if kind in _OWN:
        if rest:
            raise BadInput(f"nothing may follow {kind}://; {_LOOKS_LIKE}")
        return BusUrl(kind, text, {}, TOPIC, f"{kind}://")
    return _read_oslo(kind, text)


def uses_oslo(text: str) -> bool:
    """Whether the URL of a bus is one of oslo.messaging's."""
    return text.partition("://")[0].lower() in OSLO


def _read_oslo(kind: str, text: str) -> BusUrl:
    parts = urlsplit(text)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    hosts = []
    for host in parts.netloc.split(",") if parts.netloc else []:
        login, _, place = host.rpartition("@")
        user, _, password = login.partition(":")
        learn([password, unquote(password)], [user, place])
        hosts.append(f"{user}{':***' if password else ''}{'@' if login else ''}{place}")
        if "@" in login or not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@]*)(:\d{1,5})?", place):
            raise BadInput(
                f"{show_place(text)} cannot be read as the URL of a bus: {_LOOKS_LIKE} ({_ENCODE}; "
                "a port is a number)"
            )
    learn_options(options.items(), [parts.hostname, parts.path])
    if "@" in parts.path or parts.fragment:
        raise BadInput(f"{show_place(text)} cannot be read as the URL of a bus; {_ENCODE}")
    if kind != "fake" and not any(host.rpartition("@")[2] for host in hosts):
        raise BadInput(f"a bus of {kind!r} needs a host; {_LOOKS_LIKE}")
    topic = options.pop("topic", TOPIC)
    if not _TOPIC.fullmatch(topic):
        raise BadInput(
            "the topic of a bus has letters, digits and _ . -, at most 100, and begins with a "
            f"letter or digit; not {topic!r}"
        )
    shown = f"{kind}://{','.join(hosts)}{parts.path}{show_options(options.items())}"
    return BusUrl(kind, f"{kind}://{parts.netloc}{parts.path}", options, topic, shown)
