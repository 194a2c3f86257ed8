"""Watch a running build once a second: tasks, memory, remaining time."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping

from llmconv.engine import events, usage
from llmconv.engine.forecast import Forecast
from llmconv.engine.graph import Graph
from llmconv.engine.progress import Progress


class Monitor:
    """Makes the heartbeats of a run, and keeps its highest figures. total: tasks that have an action. folder: the
    output directory."""

    def __init__(self, graph: Graph, forecast: Forecast, total: int, folder: str):
        self._graph, self._forecast, self._total = graph, forecast, total
        self._progress = Progress()
        self.peaks = usage.Peaks(folder)

    def beat(
        self,
        running: Mapping[str, float],
        workers: Mapping[str, int],
        settled: Collection[str],
        counts: Mapping[str, int],
        capacity: tuple[int, int],
    ) -> events.Heartbeat:
        """running: task -> when it started (time.monotonic). workers: task -> pid of its process. settled: done, failed
        or blocked. counts: of tasks by how they ended. capacity: tasks at a time, and bytes for them together.
        """
        now = time.monotonic()
        jobs, budget = capacity
        by_task = {name: usage.memory(pid) for name, pid in workers.items()}
        own = usage.memory(os.getpid(), skip=tuple(workers.values()))  # with the idle workers, which it started
        memory = own + sum(by_task.values())
        self.peaks.sample(memory)
        so_far = {name: now - start for name, start in running.items()}
        left, done, work = self._forecast.left(so_far, settled, jobs, budget)
        finished = sum(count for how, count in counts.items() if how != "failed")
        return events.Heartbeat(
            running=tuple((name, seconds, by_task.get(name, 0)) for name, seconds in so_far.items()),
            finished=finished,
            failed=counts["failed"],
            waiting=max(0, self._total - finished - counts["failed"] - len(running)),
            total=self._total,
            memory=memory,
            budget=budget,
            left=left,
            share=self._progress.advance(done, work),
        )
