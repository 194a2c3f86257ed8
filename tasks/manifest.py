"""manifest: manifest.json, what was built from what."""

from __future__ import annotations

from collections.abc import Iterator

from llmconv.engine import Need
from llmconv.plan.devices import groups
from llmconv.plan.handover import Handover
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout

from .shapes import single

MB = 1 << 20


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    nets = [
        {
            "name": net.name,
            "kind": net.kind,
            "layer": net.layer,
            "stage_of": net.stage_of,
            "inputs": [io._asdict() for io in net.inputs],
            "outputs": [io._asdict() for io in net.outputs],
            "flags": net.flags.to_dict(),
            "facts": str(layout.net(net.name)[2]),
            "run": str(layout.net(net.name)[3]),
        }
        for net in plan.nets
    ]
    digests = [layout.digests(run.name) for run in plan.checkpoint.runs]
    devices = groups(plan)
    facts = {group.name: layout.facts(f"merged_{group.name}") for group in devices}
    job, bmodel, device = plan.job.to_dict(), layout.bmodel(plan.folder).name, Handover.of(plan).to_dict()
    yield single(
        "manifest",
        "llmconv.tasks.actions:write_manifest",
        {
            "told": {
                "job": job,
                "notes": list(plan.notes),
                "graphs": list(plan.graphs),
                "device": device,
                "bmodel": bmodel,
                "weights": plan.weights,
                "table": {name: f"{one.dtype} {list(one.shape)}" for name, one in plan.checkpoint.tensors.items()},
            },
            "files": {"toolchain": str(layout.toolchain), "merged": str(layout.facts("merged"))},
            "digests": [str(path) for path in digests],
            "nets": nets,
            "devices": [{"bmodel": g.file, "nets": list(g.nets), "facts": str(facts[g.name])} for g in devices],
        },
        targets=[layout.manifest],
        file_dep=[
            layout.facts("merged"),
            *facts.values(),
            layout.toolchain,
            *digests,
            *(path for net in plan.nets for path in layout.net(net.name)[2:]),
        ],
        key={"job": job, "bmodel": bmodel, "notes": list(plan.notes), "graphs": list(plan.graphs), "device": device},
        need=Need(memory=50 * MB, seconds=0.1),
        cacheable=False,
        doc="manifest.json: options, digests, sizes, times",
    )
