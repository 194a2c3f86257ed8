"""What a .bmodel is merged from: its nets, and the compiler whose kernel module it carries."""

from __future__ import annotations

import json

import pytest
from plans import planned

from llmconv.request.output import Layout
from llmconv.tasks import merge
from llmconv.tasks.actions import merge as merged


def test_another_compiler_merges_again(checkpoint):
    """An incremental build would else keep an old kernel module beside a manifest that names the new compiler."""
    for options in ({}, {"num_device": 3, "distribute_strategy": "pp"}):
        plan = planned(checkpoint("qwen2"), **options)
        layout = Layout(plan.job.out_dir)
        made = [t for t in merge.tasks(plan, layout) if t.get("basename") == "merge" and t.get("actions")]
        merges = [t for t in made if any(str(target).endswith(".bmodel") for target in t["targets"])]
        assert merges and all(str(layout.toolchain) in map(str, t["file_dep"]) for t in merges)


@pytest.mark.compiler
def test_nets_of_an_earlier_llmconv_are_merged(checkpoint, convert, tmp_path):
    """It took no XXH3 of them. Nets that are compiled as they are stay when llmconv changes."""
    out = convert(checkpoint("qwen2"), seq=64, quantize="w4bf16")
    layout, nets = Layout(out), json.loads((out / "manifest.json").read_text())["nets"]
    files = [layout.net(net["name"]) for net in nets]
    results = []
    for name in ("new", "old"):
        found = [
            {"bare": str(bare), "facts": str(tmp_path / f"{number}.json")} for number, (bare, *_) in enumerate(files)
        ]
        for one, (_, _, facts, _) in zip(found, files, strict=True):
            known = json.loads(facts.read_text())
            xxh3 = known.pop("coefficient_xxh3") if name == "old" else known["coefficient_xxh3"]
            assert bool(xxh3) == bool(known["coefficient_bytes"])
            (tmp_path / one["facts"]).write_text(json.dumps(known))
        staged = {tmp_path / "a.bmodel": str(tmp_path / name), tmp_path / "facts": str(tmp_path / f"{name}.json")}
        results.append(merged(found, 0, [], {str(target): path for target, path in staged.items()})["sha256"])
    assert results[0] == results[1]
