"""Who asks, for people to see: it is what they say, and proves nothing."""

from __future__ import annotations

import getpass
import os
import socket
from argparse import Namespace

from converge.errors import BadInput
from converge.model import check_name

_VARIABLE = "CONVERGE_ACTOR"


def find_actor(arguments: Namespace) -> str | None:
    """Who is said to ask: on the command line, in the environment, or else whose process it is.

    :returns: None if the login name or the host's cannot be an actor's.
    :raises BadInput: what is said cannot be one.
    """
    said = arguments.actor
    if said is not None:
        return check_name("actor", said)
    said = os.environ.get(_VARIABLE)
    if said:
        try:
            return check_name("actor", said)
        except BadInput as error:
            raise BadInput(f"{_VARIABLE}: {error}") from None
    try:
        return check_name("actor", f"{_login()}@{socket.gethostname()}")
    except BadInput:
        return None


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        # a container's user may have a number alone
        return str(os.getuid())
