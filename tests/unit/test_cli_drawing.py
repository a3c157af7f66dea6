"""Drawings of graphs: text, dot, Mermaid, SVG."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest

import converge
from converge.cli import main
from converge.drawing.graphs import draw, levels
from converge.graph import Graph

EXAMPLE = Graph([("C", "A"), ("C", "B"), ("D", "C"), ("E", "C"), ("lone", None)])
HOSTILE = ['"', "\\", "a\nb", "<script>&", "end", "a b", "]", "é漢🙂", "#1;", "n1", "x" * 300]
SVG = "{http://www.w3.org/2000/svg}"
FORMATS = ("text", "dot", "mermaid", "svg")


def hostile() -> Graph[str]:
    return Graph([(one, other) for one, other in pairwise(HOSTILE)])


def test_a_program_gets_json() -> None:
    found = json.loads(draw(hostile(), "json", title="shop", statuses={"end": "COMPLETE"}))
    assert found["title"] == "shop"
    assert {one["name"] for one in found["nodes"]} == set(HOSTILE)
    (end,) = (one for one in found["nodes"] if one["name"] == "end")
    assert end == {"name": "end", "status": "COMPLETE", "requires": ["a b"]}


def test_levels_are_longest_paths() -> None:
    graph = Graph([("c", "b"), ("b", "a"), ("c", "a"), ("d", "a")])
    assert levels(graph) == {"a": 0, "b": 1, "c": 2, "d": 1}


def test_text_has_each_node_once_below_what_it_requires() -> None:
    graph = Graph([("A", None), ("B", None), ("C", "A"), ("C", "B"), ("D", "C"), ("E x", "C")])
    assert draw(graph, "text", title="shop", statuses={"A": "COMPLETE"}) == (
        "shop: 5 resources, 4 dependencies, 3 levels\n"
        "\n"
        "level 1\n"
        "  A [COMPLETE]\n"
        "  B\n"
        "\n"
        "level 2\n"
        "  C  requires A, B\n"
        "\n"
        "level 3\n"
        "  D  requires C\n"
        '  "E x"  requires C\n'
    )


@pytest.mark.parametrize("how", FORMATS)
def test_an_empty_graph_can_be_drawn(how: str) -> None:
    assert draw(Graph(), how).endswith("\n")


def test_dot_has_every_node_and_edge() -> None:
    text = draw(EXAMPLE, "dot", title='a "shop"', statuses={"A": "FAILED"})
    assert text.startswith('digraph "a \\"shop\\"" {\n')
    assert '  "A" [fillcolor="#ffc9c9"];\n' in text
    assert '  "lone";\n' in text
    edges = re.findall(r'^  "(\w+)" -> "(\w+)";$', text, re.M)
    assert set(edges) == {("C", "A"), ("C", "B"), ("D", "C"), ("E", "C")}


def test_dot_strings_cannot_be_left() -> None:
    text = draw(hostile(), "dot")
    string = r'"(?:[^"\\\n]|\\.)*"'
    statement = re.compile(rf"  {string}(?: -> {string})?;")
    body = text.splitlines()[3:-1]
    assert len(body) == len(HOSTILE) * 2 - 1
    assert all(statement.fullmatch(line) for line in body)


def test_mermaid_has_every_node_and_edge() -> None:
    text = draw(EXAMPLE, "mermaid", title="shop", statuses={"A": "COMPLETE"})
    assert text.startswith("flowchart RL\n  %% shop\n")
    names = dict(re.findall(r'^  (n\d+)\["(\w+)"\]', text, re.M))
    assert set(names.values()) == set(EXAMPLE)
    edges = {(names[a], names[b]) for a, b in re.findall(r"^  (n\d+) --> (n\d+)$", text, re.M)}
    assert edges == {("C", "A"), ("C", "B"), ("D", "C"), ("E", "C")}
    assert '["A"]:::COMPLETE\n' in text
    assert text.endswith("  classDef COMPLETE fill:#c9f0cf\n")


def test_mermaid_labels_cannot_be_left() -> None:
    lines = draw(hostile(), "mermaid").splitlines()[1:]
    labels = [line for line in lines if "-->" not in line]
    assert len(labels) == len(HOSTILE)
    assert all(re.fullmatch(r'  n\d+\["[^"<>&`\\\n]+"\]', line) for line in labels)


@pytest.mark.parametrize(
    "title", [*HOSTILE, "%%{init: {'a': 1}}%%", "</pre><script>", "a\u2028b\rc\n"]
)
def test_a_title_cannot_leave_its_comment_in_mermaid(title: str) -> None:
    first, second, *_ = draw(EXAMPLE, "mermaid", title=title).split("\n")
    assert first == "flowchart RL"
    assert re.fullmatch(r"  %% ([^<>&`\\%{}\"\r\u2028]|\w)*", second)


def test_svg_has_every_node_and_edge_as_xml() -> None:
    root = ElementTree.fromstring(draw(EXAMPLE, "svg", title="<shop>", statuses={"A": "FAILED"}))
    assert root.findtext(f"{SVG}title") == "<shop>"
    nodes = root.findall(f"{SVG}g")
    assert {node.findtext(f"{SVG}text") for node in nodes} == set(EXAMPLE)
    assert "A FAILED" in {node.findtext(f"{SVG}title") for node in nodes}
    edges = {path.findtext(f"{SVG}title") for path in root.findall(f"{SVG}path")}
    assert edges == {"C requires A", "C requires B", "D requires C", "E requires C"}


def test_svg_survives_hostile_names() -> None:
    root = ElementTree.fromstring(draw(hostile(), "svg"))
    titles = [node.findtext(f"{SVG}title") for node in root.findall(f"{SVG}g")]
    assert {"<script>&", "a\\nb", "x" * 300} <= set(titles)
    assert all(len(text.text or "") <= 40 for text in root.iter(f"{SVG}text"))


def boxes(text: str) -> dict[str, tuple[float, float, float, float]]:
    found = {}
    for node in ElementTree.fromstring(text).findall(f"{SVG}g"):
        rect = node.find(f"{SVG}rect")
        assert rect is not None
        x, y, width, height = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        found[str(node.findtext(f"{SVG}title"))] = (x, y, x + width, y + height)
    return found


def test_svg_boxes_do_not_overlap_and_lie_right_of_what_they_require() -> None:
    graph = Graph([(f"n{i}", f"n{i * 7 % 31 * i // 40}") for i in range(3, 60)])
    text = draw(graph, "svg")
    placed = boxes(text)
    for node in graph:
        assert all(placed[node][0] > placed[required][2] for required in graph.requires(node))
    for one in placed:
        for other in placed:
            a, b = placed[one], placed[other]
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert one == other or apart
    root = ElementTree.fromstring(text)
    assert max(box[2] for box in placed.values()) < float(root.attrib["width"])
    assert max(box[3] for box in placed.values()) < float(root.attrib["height"])
    assert min(min(box) for box in placed.values()) > 0


@pytest.mark.parametrize("how", FORMATS)
def test_drawings_are_repeatable_and_large_ones_work(how: str) -> None:
    edges = [(f"n{i}", f"n{i // 3}") for i in range(1, 3000)]
    edges += [(f"n{i}", f"n{i * 31 % i // 2}") for i in range(2000, 3000)]
    text = draw(Graph(edges), how)
    assert text == draw(Graph(edges), how)
    assert "n2999" in text


@pytest.mark.parametrize("how", FORMATS)
def test_deep_chains_with_long_edges_work(how: str) -> None:
    edges = [(f"n{i}", f"n{i - 1}") for i in range(1, 3000)]
    edges += [("n2999", f"n{i}") for i in range(0, 2990, 10)]
    assert "n2999" in draw(Graph(edges), how)


@pytest.mark.parametrize("how", FORMATS)
def test_a_stack_whose_name_is_too_long_for_a_file_can_be_drawn(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, url = "é" * 200, f"sqlite:///{tmp_path}/a.db"
    store = converge.connect(url, create_schema=True)
    store.create_stack(name, converge.Template.parse("resources: {vm: {type: none}}"))
    store.close()
    assert main(["--db", url, "graph", name, "--format", how]) == 0
    assert "vm" in capsys.readouterr().out


def test_the_part_of_a_template_around_a_resource_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shop.yaml"
    resources = {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]}
    body = {name: {"type": "none", "depends_on": named} for name, named in resources.items()}
    file.write_text(json.dumps({"resources": body}))
    assert main(["graph", str(file), "--around", "c"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("shop, around c: 3 resources, 2 dependencies, 3 levels\n")
    assert "  c  requires b\n" in text
    assert main(["graph", str(file), "--around", "d", "--depth", "2", "--format", "dot"]) == 0
    assert capsys.readouterr().out.startswith('digraph "shop, around d" {\n')

    assert main(["graph", str(file), "--around", "e"]) == 2
    assert "'shop' has no resource 'e'; " in capsys.readouterr().err
    # before anything is read of it
    assert main(["graph", str(tmp_path / "none.yaml"), "--status", "FAILED"]) == 2
    assert "is a template, whose resources have no status; --status is for a stack" in (
        capsys.readouterr().err
    )
