"""Logs of a service, through oslo.log."""

from __future__ import annotations

import logging

from oslo_config import cfg
from oslo_log import log

from converge.hiding import hide, hide_in


class _Hide(logging.Filter):
    """Hides known secrets in each record, whichever library wrote it."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        hidden = hide(text)
        if hidden != text:
            record.msg, record.args = hidden, ()
        if record.exc_info and record.exc_info[1] is not None:
            hide_in(record.exc_info[1])
        return True


def set_up(log_format: str) -> None:
    """Log what the configuration says, after :func:`~converge.service.files.read_files`.

    :param log_format: ``text`` or ``json``; ``text`` leaves oslo.log's own ``use_json``.
    """
    if log_format == "json":
        cfg.CONF.set_override("use_json", True)
    log.setup(cfg.CONF, "converge")
    for handler in logging.getLogger().handlers:
        handler.addFilter(_Hide())
