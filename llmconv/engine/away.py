"""The part of a run that goes to a cluster: what goes there, and what comes back. distributed is imported here, when a
run asks for a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmconv.engine import outputs
from llmconv.engine.decide import Decision
from llmconv.engine.graph import Graph, Node
from llmconv.engine.options import RunOptions
from llmconv.engine.perform import Job
from llmconv.engine.task import Carry

if TYPE_CHECKING:
    from llmconv.engine.cluster.cluster import Cluster
    from llmconv.engine.cluster.messages import News, Place

LOSSES = 5  # times that a task may lose its worker: then it is the task that ends workers


class Away:
    """What a Build knows of its cluster."""

    def __init__(self, cluster: Cluster):
        self._cluster, self.fleet, self._folder = cluster, cluster.fleet, parts_folder(cluster.folder)
        self._losses: Counter[str] = Counter()

    @classmethod
    def opened(cls, options: RunOptions, graph: Graph, run_id: str, memory: int, tell: Callable[[Any], None]) -> Away:
        """Connects. memory: bytes for a cluster on this machine. InputError when nobody answers."""
        from llmconv.engine.cluster.attempt import Terms
        from llmconv.engine.cluster.cluster import Cluster

        assert options.cluster
        states = [options.state_dir.absolute(), *(home.state_dir.absolute() for home in options.homes)]
        logs = tuple(str(state.parent / "logs") for state in states)
        terms = Terms(
            run_id=run_id,
            scratch=tuple(str(state / "scratch") for state in states),
            logs=logs,
            outs=tuple(str(state.parent) for state in states),
            environment=dict(options.environment),
            topic=f"llmconv-{run_id}",
            keep=options.debug,
        )
        return cls(Cluster(options.cluster, terms, _outside(graph), options.state_dir.absolute(), memory, tell))

    @staticmethod
    def takes(node: Node, decision: Decision) -> bool:
        """Whether a task goes to a worker: one that takes long, and whose outputs are its key's alone. What a cache
        does not keep (merging, what lies beside the .bmodel) is about files of this machine."""
        return Away.goes(node) and not decision.fetch

    @staticmethod
    def goes(node: Node) -> bool:
        """Whether a task would go to a worker if no cache has its outputs."""
        action = node.action
        return action is not None and action.cacheable and not action.local and not action.watch

    @property
    def capacity(self) -> tuple[int, int]:
        """Tasks at a time, and bytes for them together."""
        return max(1, self.fleet.cores), max(1, self.fleet.memory)

    def start(self, job: Job, carry: Carry | None, place: Place, first: int) -> int:
        """Starts a task on a worker; returns the number of its row in a trace, from `first`."""
        return self._cluster.start(job, carry, place, first)

    def give_up(self, name: str) -> None:
        """The task is not wanted any more; a Lost comes for it if it runs."""
        self._cluster.give_up(name)

    def ended(self, name: str) -> bool:
        """The task has ended. Returns whether it was one of these."""
        self._cluster.finished(name)
        return self.fleet.release(name)

    def may_go_again(self, name: str) -> bool:
        """Whether a task that has lost its worker may have another one."""
        self._losses[name] += 1
        return self._losses[name] <= LOSSES

    def waits(self) -> bool:
        """Whether tasks wait for workers. ConvertError when none will come."""
        if self.fleet.waiting:
            self._cluster.check()
        return bool(self.fleet.waiting)

    def hear(self, news: News) -> str:
        """Takes in what happens to the cluster; returns what the user is told of it, or ""."""
        return self._cluster.hear(news)

    def stop(self) -> None:
        """Ends what runs there, and leaves."""
        self._cluster.stop()
        outputs.discard(str(self._folder))


def parts_folder(state_dir: Path) -> Path:
    """For the files of parts that actions give away. It is no place of scratch files: of those every attempt has its
    own."""
    return state_dir.absolute() / "parts"


def _outside(graph: Graph) -> list[str]:
    """The inputs of tasks that go to workers which no task makes."""
    found: dict[str, None] = {}
    for node in graph.nodes.values():
        if node.action and Away.goes(node):
            inputs = (*node.action.file_dep, *node.action.reads, *(path for path, _ in node.action.picks))
            found |= dict.fromkeys(path for path in inputs if path not in graph.producers)
    return [path for path in found if Path(path).exists()]
