"""sums: SHA256SUMS, the digests of what a device loads, for `sha256sum -c`."""

from __future__ import annotations

from collections.abc import Iterator

from llmconv.engine import Need
from llmconv.plan.devices import groups
from llmconv.plan.plan import Plan
from llmconv.request.output import Layout

from .shapes import single

MB = 1 << 20


def tasks(plan: Plan, layout: Layout) -> Iterator[dict]:
    several = groups(plan)
    facts = {layout.bmodel(plan.folder): layout.facts("merged")} | {
        layout.out / group.file: layout.facts(f"merged_{group.name}") for group in several
    }
    others = [layout.config, *([layout.combination(plan.folder)] if several else [])]
    table = 2 * plan.spec.vocab * plan.spec.hidden if plan.disk_tensors else 0
    yield single(
        "sums",
        "llmconv.tasks.actions:write_sums",
        {"bmodels": {str(path): str(of) for path, of in facts.items()}, "others": [str(path) for path in others]},
        targets=[layout.sums],
        file_dep=[*facts, *others],
        reads=list(facts.values()),
        key={"names": [path.name for path in (*facts, *others)]},
        need=Need(memory=50 * MB, seconds=0.1 + table / 1e9),
        cacheable=False,
        doc="SHA256SUMS: digests of what a device loads",
    )
