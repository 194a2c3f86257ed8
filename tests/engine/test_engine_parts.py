"""Parts that a running action gives to the workers of the run's cluster."""

from __future__ import annotations

import subprocess

import pytest
from engine_shop import Shop
from processes import wait_for

from llmconv.engine.options import ClusterOptions
from llmconv.errors import ConvertError

WHOLE = "common0 common1 common2 common3"


def divided(shop: Shop, **args) -> dict:
    return shop.task("whole", "divided", args={"count": 4, **args}, cacheable=False)


def test_an_action_of_a_run_without_a_cluster_has_no_hands(tmp_path):
    shop = Shop(tmp_path)
    assert shop.run([divided(shop)]) == 0
    assert (shop.out / "whole").read_text() == "no hands"


def test_parts_are_done_by_workers_with_and_without_shared_files(machines, tmp_path):
    shop = Shop(tmp_path / "shop")
    shop.out.mkdir(parents=True)
    hide = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(shop.out)]
    if subprocess.run([*hide, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts of one's own")
    machines.worker("apart", threads=1, before=hide)
    machines.worker("beside", threads=1)
    wait_for(lambda: all("Starting established" in machines.log(name) for name in ("apart", "beside")))
    assert shop.run([divided(shop, sleep=0.3)], cluster=ClusterOptions(machines.address)) == 0
    assert (shop.out / "whole").read_text() == WHOLE
    assert shop.told("TaskFinished")[0].values == {"seen": [0, 1, 2, 3]}
    ended = shop.told("PartEnded")
    assert {event.label for event in ended} == {f"part {n}" for n in range(4)} and len(ended) == 4
    assert len({event.worker for event in ended}) == 2, "both had some"
    (trace,) = (shop.out / ".llmconv" / "traces").glob("*.json")
    assert '"name": "part 3", "cat": "whole"' in trace.read_text()
    assert not (shop.out / ".llmconv" / "parts").exists()


def test_a_part_that_fails_is_the_task_s_failure(machines, tmp_path):
    shop = Shop(tmp_path / "shop")
    machines.worker("one")
    assert shop.run([divided(shop, call="engine_actions:wrong_part")], cluster=ClusterOptions(machines.address)) == 1
    assert "is wrong" in shop.failure().what and shop.failure().why == "it has to be"


def test_parts_of_a_worker_that_is_killed_go_to_another_one(machines, tmp_path):
    shop = Shop(tmp_path / "shop")
    machines.worker("one", threads=1)
    machines.worker("two", threads=1)
    wait_for(lambda: all("Starting established" in machines.log(name) for name in ("one", "two")))

    def look(event) -> None:
        if type(event).__name__ == "PartEnded" and "one" in machines.processes:
            machines.kill("one")
            machines.processes.pop("one").wait()

    task = divided(shop, sleep=1.0)
    listeners = [shop.events.append, look]
    assert shop.run([task], cluster=ClusterOptions(machines.address), listeners=listeners) == 0
    assert (shop.out / "whole").read_text() == WHOLE
    assert sorted(event.label for event in shop.told("PartEnded")) == [f"part {n}" for n in range(4)]
    done = [name for name in shop.ran() if name != "whole"]
    assert set(done) == {f"part{n}" for n in range(4)}
    assert len(done) <= 5, "what others had done, or were doing, is not done again"


def test_parts_of_a_running_task_are_done_when_no_more_tasks_start(machines, tmp_path):
    shop = Shop(tmp_path / "shop")
    machines.worker("one", threads=1)
    tasks = [divided(shop, sleep=0.5), shop.task("bad", "fail", cacheable=False)]
    assert shop.run(tasks, cluster=ClusterOptions(machines.address)) == 1
    assert [event.name for event in shop.told("TaskFailed")] == ["bad"]
    assert (shop.out / "whole").read_text() == WHOLE


def test_parts_wait_in_vain_for_workers_that_are_refused(machines, tmp_path):
    shop = Shop(tmp_path / "shop")
    machines.worker("wrong", TEST_COMPILER="2")
    wish = ClusterOptions(machines.address, passport="engine_actions:passport")
    with pytest.raises(ConvertError, match="has no worker that can be used.*its compiler is 2, this machine's 1"):
        shop.run([divided(shop)], cluster=wish)
