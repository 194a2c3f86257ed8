"""`llmconv graph`: the drawing, and the states that it shows."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from itertools import combinations

from llmconv import tasks
from llmconv.cli.main import main
from llmconv.engine.graph import load
from llmconv.plan.plan import plan
from llmconv.queries import graph as graphing
from llmconv.queries.drawing import HEIGHT, WIDTH, Box, dot, layout, svg
from llmconv.request.request import Request

SVG = "{http://www.w3.org/2000/svg}"
DIAMOND = [
    Box("a", "unchanged"),
    Box("b", "run", ("a",)),
    Box("c", "cached", ("a",)),
    Box("d", "failed", ("b", "c"), ('why <&> "so"',)),
    Box("e<&>", "maybe", ("d",)),
]


def states(text: str) -> dict[str, str]:
    """Task -> state, from an SVG."""
    groups = [g for g in ET.fromstring(text).iter(f"{SVG}g") if g.get("class").startswith("n ")]
    return {
        g.find(f"{SVG}title").text.partition(": ")[0]
        if ":" not in g.find(f"{SVG}text").text
        else g.find(f"{SVG}text").text: g.get("class").split()[1]
        for g in groups
    }


def test_svg_is_sound_and_holds_every_box_and_edge():
    root = ET.fromstring(svg(DIAMOND, "title & more"))
    groups = [g for g in root.iter(f"{SVG}g") if g.get("class").startswith("n ")]
    assert [(g.find(f"{SVG}text").text, g.get("class"), len(g.findall(f"{SVG}path"))) for g in groups] == [
        (b.name, f"n {b.state}", len(b.deps)) for b in DIAMOND
    ]
    assert groups[3].find(f"{SVG}title").text == 'd: failed\nwhy <&> "so"'
    assert len(root.findall(f"{SVG}path")) == sum(len(b.deps) for b in DIAMOND)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", ET.tostring(root, "unicode"))


def test_boxes_stand_right_of_what_they_depend_on_and_never_overlap():
    boxes = (
        [Box(f"s{n}", "run") for n in range(5)]
        + [Box(f"t{n}", "run", tuple(f"s{k}" for k in range(n + 1))) for n in range(5)]
        + [Box("end", "run", ("t0", "t3", "s2"))]
    )
    places = layout(boxes)
    assert all(places[dep][0] + WIDTH < places[box.name][0] for box in boxes for dep in box.deps)
    assert all(
        abs(ax - bx) >= WIDTH or abs(ay - by) >= HEIGHT for (ax, ay), (bx, by) in combinations(places.values(), 2)
    )


def test_dot_quotes_what_would_end_a_name():
    text = dot([Box('a"\\', "run"), Box("b", "run", ('a"\\',), ("two\nlines",))], "t")
    assert r'"a\"\\" -> "b";' in text and r'tooltip="to run\ntwo\nlines"' in text


def test_the_order_is_that_of_the_engine(checkpoint, tmp_path):
    model = checkpoint("qwen2", num_hidden_layers=4)
    asked = Request.create({"model": str(model), "out": str(tmp_path / "out"), "seq": "64"})
    found = {box.name: box.deps for box in graphing.boxes(asked)}
    graph = load(tasks.graph(plan(asked.job)), tasks.GOALS)
    workers = {name for name, node in graph.nodes.items() if node.works}
    assert set(found) == workers

    def behind(name: str) -> set[str]:
        return set().union(*({dep} | behind(dep) for dep in found[name]))

    for name in workers:
        assert graph.after([name]) & workers == {other for other in workers if name in behind(other)}
    assert sum(map(len, found.values())) < sum(len(graph.nodes[name].deps) for name in workers)
    assert not (tmp_path / "out").exists()


def test_states_of_a_build_that_failed(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLMCONV_CACHE", str(tmp_path / "cache"))
    model, out = checkpoint("qwen2"), tmp_path / "out"
    assert main(["convert", "-m", str(model), "-s", "64", "-o", str(out), "--only_mlir"]) == 0
    failure = {
        "event": "TaskFailed",
        "time": 2e9,
        "name": "compile:block_0",
        "failure": {"what": "net block_0: the <compiler> failed"},
        "repeat": "",
    }
    with open(out / ".llmconv" / "events.jsonl", "a") as log:
        log.write(json.dumps(failure) + "\n")
    assert main(["graph", str(out), "--to", str(tmp_path / "g.svg")]) == 0
    told = capsys.readouterr().out
    # the saved options say only_mlir: the other tasks are drawn nevertheless
    found = states((tmp_path / "g.svg").read_text())
    assert (
        found["export:block_0"] == "unchanged"
        and found["compile:block_0"] == "failed"
        and found["compile:block_1"] == "run"
    )
    assert "7 up to date" in told and "1 failed" in told
    assert "net block_0: the &lt;compiler&gt; failed" in (tmp_path / "g.svg").read_text()


def test_the_command_line(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LLMCONV_CACHE", str(tmp_path / "cache"))
    options = ["-m", str(checkpoint("qwen2")), "-s", "64", "-o", str(tmp_path / "out")]
    assert main(["graph", *options, "--to", "-"]) == 0
    printed = capsys.readouterr().out
    assert main(["graph", *options, "--to", str(tmp_path / "g.dot")]) == 0
    assert (tmp_path / "g.dot").read_text() == printed and '"compile:block_0" -> "merge"' in printed
    capsys.readouterr()
    for argv, why in (
        ([str(tmp_path), *options], "the options of a build are kept in its directory"),
        ([*options, "--to", "x.png"], "ends in .svg or .dot"),
        ([*options, "--to", str(tmp_path / "no" / "x.svg")], "cannot be written"),
        ([str(tmp_path)], "is not the output directory of a conversion"),
    ):
        assert main(["graph", *argv]) == 2
        assert why in capsys.readouterr().err
