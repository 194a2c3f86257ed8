"""Order and budgets."""

from __future__ import annotations

from pathlib import Path

from llmconv.engine import Need, machine
from llmconv.engine.scheduler import PATIENCE, Scheduler, expected_memory

GIB = 1 << 30


def drain(scheduler: Scheduler) -> list[str]:
    """Everything that can start now, in order."""
    return list(iter(scheduler.take, None))


def test_longest_way_first():
    scheduler = Scheduler(2, 10)
    for name, priority in (("a", 1), ("b", 3), ("c", 2)):
        scheduler.add(name, priority, 1, 1)
    assert drain(scheduler) == ["b", "c"]
    scheduler.release("b")
    assert drain(scheduler) == ["a"]


def test_memory_and_oversized_needs():
    scheduler = Scheduler(4, 8)
    scheduler.add("huge", 3, 99, 99)  # more than the machine: cut to all of it
    scheduler.add("a", 2, 1, 5)
    scheduler.add("b", 1, 1, 5)
    scheduler.add("c", 0, 1, 3)
    assert drain(scheduler) == ["huge"]
    scheduler.release("huge")
    assert drain(scheduler) == ["a", "c"]


def test_waiting_task_ages():
    scheduler = Scheduler(2, 10)
    scheduler.add("small", 9, 1, 1)
    assert drain(scheduler) == ["small"]
    scheduler.add("big", 5, 1, 10)
    started = 0
    for number in range(20):
        scheduler.add(f"s{number}", 1, 1, 1)
        if scheduler.take() is None:
            break
        started += 1
        scheduler.release(f"s{number}")
    assert started == PATIENCE
    scheduler.release("small")
    assert scheduler.take() == "big"


def test_alone():
    scheduler = Scheduler(4, 10)
    scheduler.add("a", 1, 1, 1)
    assert drain(scheduler) == ["a"]
    scheduler.add("b", 9, 1, 1, alone=True)
    scheduler.add("c", 1, 1, 1)
    assert drain(scheduler) == []
    scheduler.release("a")
    assert drain(scheduler) == ["b"]
    scheduler.release("b")
    assert drain(scheduler) == ["c"]


def test_past_peak_scales_with_the_estimate():
    assert expected_memory(100, 0, 0) == 100
    assert expected_memory(100, 50, 100) == 57
    assert expected_memory(200, 50, 100) == 114


def together(shop) -> int:
    """The largest number of actions that ran at a time."""
    now = most = 0
    for line in Path(f"{shop.log}.overlap").read_text().split():
        now += 1 if line[0] == "+" else -1
        most = max(most, now)
    return most


def test_budgets_bound_what_runs_together(shop):
    def tasks(name, memory):
        return [shop.task(f"{name}{i}", "overlap", need=Need(memory=memory), args={"seconds": 0.1}) for i in range(6)]

    assert shop.run(tasks("s", GIB), jobs=3, memory=2 * GIB) == 0
    assert together(shop) == 2
    Path(f"{shop.log}.overlap").unlink()
    assert shop.run(tasks("t", 3 * GIB), jobs=3, memory=2 * GIB) == 0  # more than the budget: one at a time
    assert together(shop) == 1


def test_critical_path_uses_past_durations(shop):
    def tasks():
        return [
            *(shop.task(f"short{i}", args={"sleep": 0.01}) for i in range(3)),
            shop.task("long", args={"sleep": 0.3}),
        ]

    shop.run(tasks(), jobs=1)
    shop.run(tasks(), jobs=1, force=True)
    assert shop.told("TaskStarted")[0].name == "long"


def test_machine():
    assert machine.cores() >= 1
    assert 0 < machine.memory() <= machine.available() <= machine.total()


def test_control_group_limits(tmp_path, monkeypatch):
    files = {
        "/proc/self/cgroup": "0::/job\n",
        "/proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\nSwapTotal: 0 kB\n",
        "/sys/fs/cgroup/job/memory.max": str(3 * GIB),
        "/sys/fs/cgroup/job/memory.current": str(2 * GIB),
        "/sys/fs/cgroup/job/memory.stat": f"anon 1\ninactive_file {GIB}\n",
        "/sys/fs/cgroup/job/cpu.max": "150000 100000\n",
    }
    monkeypatch.setattr(machine, "_read", lambda path: files.get(str(path), ""))
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(8)))
    assert machine.total() == 3 * GIB
    assert machine.available() == 2 * GIB
    assert machine.cores() == 2
