"""Configuration files, as oslo.config reads them.

They are read into oslo.config's global object, as oslo.messaging and oslo.log take their own
options from there: one file configures all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg
from oslo_log import log

from converge.errors import BadInput, did_you_mean
from converge.service.options import list_opts
from converge.service.settings import SETTINGS

_NAME = re.compile(r"[\w-]+", re.ASCII)
#: Without the user and the request of OpenStack's services, which there are not here.
_LINE = "%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s %(message)s"


def read_files(paths: Sequence[str]) -> dict[str, Any]:
    """The values that files set, by the names of settings. Of two files, the last one counts.

    :raises BadInput: a file cannot be read, sets what there is not, or a value is wrong.
    """
    for path in paths:
        _check_names(path)
    for group, options in list_opts():
        cfg.CONF.register_opts(options, group=group)
    if "use_json" not in cfg.CONF:
        log.register_options(cfg.CONF)
    for name in ("logging_context_format_string", "logging_default_format_string"):
        cfg.CONF.set_default(name, _LINE)
    # a service's stdout is read by nobody
    cfg.CONF.set_default("use_stderr", True)
    cfg.CONF([], project="converge", default_config_files=list(paths), use_env=False)
    found: dict[str, Any] = {}
    for setting in SETTINGS:
        try:
            place = cfg.CONF.get_location(setting.name, setting.group)
        except (cfg.Error, ValueError) as error:
            # the message of a secret's has the value
            why = "write $ as $$" if setting.secret else str(error)
            raise BadInput(
                f"{', '.join(paths)}: [{setting.group}] {setting.name} is not valid: {why}"
            ) from None
        if place is not None and place.location is cfg.Locations.user:
            found[setting.name] = cfg.CONF[setting.group][setting.name]
    return found


def read_again() -> None:
    """Read the files again, for the options that can change while a program runs: those that
    oslo.log says of its own.

    :raises BadInput: a file cannot be read.
    """
    try:
        for path in cfg.CONF.config_file or cfg.CONF.default_config_files:
            _check_names(path)
        cfg.CONF.mutate_config_files()
    except cfg.Error as error:
        raise BadInput(f"the configuration cannot be read again: {type(error).__name__}") from None


def _check_names(path: str) -> None:
    """:raises BadInput: the file cannot be read, or has an option that there is not."""
    sections: dict[str, dict[str, Any]] = {}
    try:
        cfg.ConfigParser(path, sections).parse()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"cannot read {path}: it is not UTF-8") from error
    except cfg.ParseError as error:
        # its own message has the line, which may have a password
        raise BadInput(f"{path}, line {error.lineno}: {error.msg}") from None
    for group in {setting.group for setting in SETTINGS}:
        known = [setting.name for setting in SETTINGS if setting.group == group]
        for name in sections.get(group, {}):
            if not _NAME.fullmatch(name):
                # a part of it may be a secret
                raise BadInput(f"{path}: [{group}] has a line that is not NAME = VALUE")
            if name.replace("-", "_") not in known:
                raise BadInput(
                    f"{path}: [{group}] has no option {name!r}{did_you_mean(name, known)}"
                )
