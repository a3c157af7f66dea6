"""The settings as options of oslo.config, for files and for ``oslo-config-generator``."""

from __future__ import annotations

from typing import Any

from oslo_config import cfg

from converge.service.settings import SETTINGS, Setting


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """The options by group; the entry point ``oslo.config.opts`` calls this."""
    groups: dict[str, list[cfg.Opt]] = {}
    for setting in SETTINGS:
        groups.setdefault(setting.group, []).append(_option(setting))
    return list(groups.items())


def _option(setting: Setting) -> cfg.Opt:
    keywords: dict[str, Any] = {
        "help": setting.help,
        "default": setting.default,
        "secret": setting.secret,
        "sample_default": setting.sample,
    }
    if setting.kind is tuple:
        sample = setting.sample and [setting.sample]
        return cfg.MultiStrOpt(setting.name, **keywords | {"sample_default": sample})
    if setting.kind is list:
        return cfg.ListOpt(setting.name, **keywords)
    if setting.kind is str:
        return cfg.StrOpt(setting.name, choices=setting.choices or None, **keywords)
    keywords |= {"min": setting.least, "max": setting.most}
    if setting.kind is int:
        return cfg.IntOpt(setting.name, **keywords)
    return cfg.FloatOpt(setting.name, **keywords)
