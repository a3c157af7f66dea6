"""Templates that can be drawn, although ``converge up`` refuses them."""

from __future__ import annotations

from pathlib import Path

import pytest

from converge.cli import main
from converge.errors import TemplateError
from converge.template import Template


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "resources:\n  a: {type: none}\n  b: {type: x, depends_on: a}\n  a: {type: y}\n",
            ":4: key 'a' is given twice, on lines 2 and 4",
        ),
        (
            '{"resources": {"a": {"type": "none"}, "b": {"type": "x", "type": "y"}}}',
            ":1: key 'type' is given twice, on line 1",
        ),
    ],
)
def test_a_key_given_twice_is_drawn_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(TemplateError) as caught:
        Template.load(path)
    assert str(caught.value).endswith(said)
    assert main(["graph", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("t: 2 resources")
    assert err == (f"converge: warning: {path}{said}; it is drawn, but `converge up` refuses it\n")


def test_resources_may_be_missing_where_there_are_outputs() -> None:
    text = (
        "parameters: {p: {type: json, default: ''}, l: {type: comma_delimited_list, default: ''}}"
    )
    for_up = Template.parse(text + "\noutputs: {o: {value: [{get_param: p}, {get_param: l}]}}")
    values = for_up.resolve_parameters({})
    assert for_up.definitions(values, "s") == {}
    assert for_up.output_values(values, "s") == {"o": [{}, []]}
    with pytest.raises(TemplateError, match="the section 'resources' is missing; if it has none"):
        Template.parse(text)
    assert len(Template.parse(text, for_drawing=True).graph()) == 0
