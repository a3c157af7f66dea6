"""What ``examples/deploy`` has is what converge takes."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path

import sample_config

from converge.cli.parser import parse
from converge.engine.run import GRACE
from converge.service.files import read_files
from converge.service.settings import SETTINGS

FOLDER = sample_config.SAMPLE.parent
DEFAULTS = {setting.name: setting.default for setting in SETTINGS}


def test_the_sample_file_is_up_to_date() -> None:
    told = "it is not: run `python3 tools/sample_config.py`"
    assert sample_config.SAMPLE.read_text(encoding="utf-8") == sample_config.generate(), told


def test_every_setting_of_the_sample_file_can_be_turned_on(tmp_path: Path) -> None:
    text = sample_config.SAMPLE.read_text(encoding="utf-8")
    path = tmp_path / "converge.conf"
    path.write_text(re.sub(r"^#(\w+ = (?!<None>).+)$", r"\1", text, flags=re.MULTILINE))
    found = read_files([str(path)])
    # of lists without a default the sample has no value
    lists = {setting.name for setting in SETTINGS if setting.kind is list}
    assert found.keys() == DEFAULTS.keys() - lists
    assert {name: found[name] for name in found if DEFAULTS[name] is not None} == {
        name: value for name, value in DEFAULTS.items() if value is not None
    }


def test_the_unit_of_systemd_runs_an_engine_and_lets_it_stop() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.read(FOLDER / "converge.service", encoding="utf-8")
    service = unit["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "converge"
    assert parse(words).config_file == ["/etc/converge/converge.conf"]
    assert service["KillMode"] == "mixed"
    assert float(service["TimeoutStopSec"]) > DEFAULTS["grace"] + GRACE


def test_the_container_runs_an_engine_that_listens() -> None:
    lines = (FOLDER / "Containerfile").read_text(encoding="utf-8").splitlines()
    told = dict(line.split(" ", 1) for line in lines if line.startswith(("ENTRY", "CMD", "EXPOSE")))
    assert json.loads(told["ENTRYPOINT"]) == ["converge"]
    arguments = parse(json.loads(told["CMD"]))
    assert arguments.listen == f":{told['EXPOSE']}"
    assert arguments.log_format == "json"
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(sample_config.ROOT / "setup.cfg", encoding="utf-8")
    (extras,) = re.findall(r"/source\[([\w,]+)\]", "\n".join(lines))
    assert set(extras.split(",")) <= set(setup["options.extras_require"])
