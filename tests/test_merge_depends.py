"""What a .bmodel is merged from: its nets, and the compiler whose kernel module it carries."""

from __future__ import annotations

from plans import planned

from llmconv.request.output import Layout
from llmconv.tasks import merge


def test_another_compiler_merges_again(checkpoint):
    """An incremental build would else keep an old kernel module beside a manifest that names the new compiler."""
    for options in ({}, {"num_device": 3, "distribute_strategy": "pp"}):
        plan = planned(checkpoint("qwen2"), **options)
        layout = Layout(plan.job.out_dir)
        made = [t for t in merge.tasks(plan, layout) if t.get("basename") == "merge" and t.get("actions")]
        merges = [t for t in made if any(str(target).endswith(".bmodel") for target in t["targets"])]
        assert merges and all(str(layout.toolchain) in map(str, t["file_dep"]) for t in merges)
