"""The type ``file``, confined to folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from converge.errors import BadInput
from converge.resources.file import File, FileError
from tests.unit.files import FILE, make_context


@pytest.mark.parametrize("way", ["elsewhere", "inside-x", "link", "dangling", "up"])
def test_files_can_be_confined_to_folders(way: str, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside, tmp_path / "inside-x"):
        folder.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "dangling").symlink_to(tmp_path / "nowhere")
    path = {
        "elsewhere": outside / "f",
        "inside-x": tmp_path / "inside-x" / "f",
        "link": inside / "link" / "f",
        "dangling": inside / "dangling" / "f",
        "up": inside / ".." / "outside" / "f",
    }[way]
    absolute = os.path.abspath(path)
    confined = File(roots=[inside])
    properties = {"path": str(path), "content": "x"}
    recorded: list[str] = []
    with pytest.raises(FileError, match=r"cannot write .* is outside of"):
        confined.create(make_context(record=recorded.append), properties)
    assert not recorded
    assert not os.path.lexists(path)

    # it was made before the engine was confined, or the folder became a link since then
    (tmp_path / "nowhere").mkdir()
    made = FILE.create(make_context(), properties)
    context = make_context(physical_id=absolute, attributes=made.attributes, properties=properties)
    with pytest.raises(FileError, match="cannot write"):
        confined.update(context, absolute, {**properties, "content": "y"}, properties)
    with pytest.raises(FileError, match="cannot read"):
        confined.check(context, absolute, properties)
    with pytest.raises(FileError, match="cannot delete"):
        confined.delete(context, absolute)
    assert Path(path).read_text() == "x"


def test_within_its_folders_a_confined_file_is_as_any_other(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    (inside / "real").mkdir(parents=True)
    (inside / "link").symlink_to(inside / "real")
    (tmp_path / "way").symlink_to(inside)
    confined = File(roots=[tmp_path / "way"])
    for place in (inside / "f", inside / "new" / "f", inside / "link" / "f", tmp_path / "way/g"):
        properties = {"path": str(place), "content": "x"}
        made = confined.create(make_context(), properties)
        context = make_context(
            physical_id=made.id, attributes=made.attributes, properties=properties
        )
        confined.check(context, made.id, properties)
        confined.update(context, made.id, properties, properties)
    # the last name can be a link to a secret
    place.unlink()
    place.symlink_to("/etc/hostname")
    with pytest.raises(FileError, match="leads to '/etc/hostname', which is outside"):
        confined.check(context, made.id, properties)
    confined.delete(context, made.id)
    assert place.is_symlink()


def test_what_files_are_confined_to_must_be_folders(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for roots in ([tmp_path / "none"], [tmp_path / "file"], [""], str(tmp_path), [1]):
        with pytest.raises(BadInput, match="roots"):
            File(roots=roots)  # type: ignore[arg-type]
