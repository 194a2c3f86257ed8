"""Tasks on Dask workers: which task goes where, who is admitted, what travels and how."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from engine_shop import Shop
from processes import wait_for

from llmconv.engine import Need
from llmconv.engine.cluster.fleet import Fleet
from llmconv.engine.cluster.messages import Place
from llmconv.engine.cluster.sandbox import Sandbox
from llmconv.engine.cluster.store import Store
from llmconv.engine.options import ClusterOptions
from llmconv.engine.scheduler import PATIENCE
from llmconv.errors import ConvertError, InputError

A, B = Place("tcp://a:1", "", 2, 8), Place("tcp://b:1", "", 1, 20)


def drain(fleet: Fleet) -> list[tuple[str, str]]:
    """Everything that can start now, with its worker."""
    found = []
    while (one := fleet.take())[0] is not None:
        found.append((one[0], one[1].name))
    return found


def fleet(*places: Place, memory: int | None = None) -> Fleet:
    made = Fleet(memory)
    for place in places:
        made.join(place)
    return made


def test_tasks_go_where_cores_and_memory_are():
    made = fleet(A, B)
    for name, priority, memory in (("small", 1, 2), ("first", 9, 6), ("large", 5, 15), ("late", 0, 3)):
        made.add(name, priority, 1, memory)
    assert drain(made) == [("first", "a:1"), ("large", "b:1"), ("small", "a:1")]
    made.release("first")
    assert drain(made) == [("late", "a:1")]


def test_a_task_beyond_all_workers_is_alone_on_the_largest():
    made = fleet(A, B)
    made.add("huge", 9, 1, 99)
    made.add("other", 1, 1, 1)
    assert drain(made) == [("huge", "b:1"), ("other", "a:1")]


def test_a_task_that_was_killed_has_a_worker_to_itself():
    made = fleet(A)
    made.add("one", 9, 1, 1)
    assert drain(made) == [("one", "a:1")]
    made.add("again", 8, 1, 1, alone=True)
    assert drain(made) == []
    made.release("one")
    made.add("two", 1, 1, 1)
    assert drain(made) == [("again", "a:1")]


def test_workers_of_one_machine_share_its_memory():
    made = fleet(Place("tcp://a:1", "", 1, 10), Place("tcp://b:1", "", 1, 10), memory=10)
    made.add("one", 9, 1, 6)
    made.add("two", 8, 1, 6)
    assert drain(made) == [("one", "a:1")]


def test_a_waiting_task_ages():
    made = fleet(A)
    made.add("one", 9, 1, 2)
    assert drain(made) == [("one", "a:1")]
    made.add("wide", 8, 2, 1)
    names = [f"t{number}" for number in range(PATIENCE + 3)]
    for name in names:
        made.add(name, 1, 1, 1)
    for name in names[:PATIENCE]:
        assert made.take()[0] == name
        made.release(name)
    assert made.take() == (None, None)  # the core stays free for the one that waits
    made.release("one")
    assert made.take()[0] == "wide"


def test_a_worker_that_left_gets_nothing():
    made = fleet(A)
    made.leave(A.address)
    made.add("one", 1, 1, 1)
    assert drain(made) == []


def test_paths_of_an_attempt_stay_in_its_box(tmp_path):
    box = Sandbox(str(tmp_path), ("/out", "/models/m"))
    assert box.value({"a": ["/out/x", "/output", "out/x"], "b": "/models/m"}) == {
        "a": [f"{tmp_path}/root/out/x", "/output", "out/x"],
        "b": f"{tmp_path}/root/models/m",
    }
    assert box.back(f"cannot read {tmp_path}/root/out/x") == "cannot read /out/x"
    for path in ("/etc/passwd", "/out/../../../etc/passwd", "/out/"):
        with pytest.raises(ValueError):
            box.inside(path)


def test_a_file_that_arrives_damaged_is_not_kept(tmp_path):
    store, digest = Store(tmp_path / "files"), hashlib.sha256(b"right").hexdigest()
    assert store.lacking([digest]) == [digest]
    assert store.take(digest, "00000000", 0, b"wro", False)
    assert not store.take(digest, "00000000", 3, b"ng", True)
    assert store.lacking([digest]) == [digest] and not list((tmp_path / "files").iterdir())
    assert store.take(digest, "00000000", 0, b"ri", False)
    assert not store.take(digest, "00000000", 3, b"ght", True), "a piece is missing"
    assert store.take(digest, "00000000", 2, b"ght", True)
    store.put(digest, str(tmp_path / "in" / "it"))
    assert (tmp_path / "in" / "it").read_bytes() == b"right" and store.lacking([digest]) == []
    for name in ("../lock", "", "f" * 63):
        with pytest.raises(ValueError):
            store.take(name, "00000000", 0, b"", True)


def test_nobody_at_the_address_is_told_in_a_sentence(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    from llmconv.engine.cluster import cluster

    shop = Shop(tmp_path)
    monkeypatch.setattr(cluster, "ANSWER", 1.0)
    with pytest.raises(InputError, match="there is no Dask scheduler at tcp://127.0.0.1:1:"):
        shop.run([shop.task("a")], cluster=ClusterOptions("tcp://127.0.0.1:1"))


def graph(shop: Shop) -> list[dict]:
    """Three tasks that go to workers, one of which makes a directory, and one that stays."""
    return [
        shop.task("a", text="first", need=Need(memory=1)),
        shop.task("tree", "folder", text="", args={"count": 5}, deps=("a",)),
        shop.task("stays", text="here", cacheable=False),
        shop.task("b", "join", text="", args={"parts": [str(shop.out / "a")]}, deps=("a",)),
    ]


def test_a_worker_with_another_compiler_is_refused_by_name(machines, tmp_path):
    shop = Shop(tmp_path / "shop")
    machines.worker("right")
    machines.worker("wrong", TEST_COMPILER="2")
    wish = ClusterOptions(machines.address, passport="engine_actions:passport")
    wait_for(lambda: "Starting established" in machines.log("right") + machines.log("wrong"))
    tasks = [shop.task(f"t{number}", args={"sleep": 0.5}) for number in range(6)]
    assert shop.run(tasks, cluster=wish) == 0
    notes = [event.text for event in shop.told("Note")]
    assert any("is refused: its compiler is 2, this machine's 1" in note for note in notes), notes
    workers = {event.worker for event in shop.told("TaskStarted")}
    assert len(workers) == 1 and not any(next(iter(workers)) in note for note in notes if "refused" in note)


def test_no_worker_that_can_be_used(machines, tmp_path):
    shop = Shop(tmp_path / "shop")
    machines.worker("wrong", TEST_COMPILER="2")
    wish = ClusterOptions(machines.address, passport="engine_actions:passport")
    with pytest.raises(ConvertError, match="has no worker that can be used.*its compiler is 2, this machine's 1"):
        shop.run([shop.task("a")], cluster=wish)


def test_workers_that_share_no_files_give_the_same(machines, tmp_path):
    """A worker with mounts of its own, where this machine's output directory is empty."""
    shop, local = Shop(tmp_path / "shop"), Shop(tmp_path / "local")
    assert local.run(graph(local)) == 0
    shop.out.mkdir(parents=True)
    hide = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(shop.out)]
    if subprocess.run([*hide, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts of one's own")
    machines.worker("apart", before=hide)
    assert shop.run(graph(shop), cluster=ClusterOptions(machines.address)) == 0
    notes = [event.text for event in shop.told("Note")]
    assert any("it shares no files with this machine" in note for note in notes), notes
    for name in ("a", "b", "stays"):
        assert (shop.out / name).read_bytes() == (local.out / name).read_bytes()
    assert sorted(p.name for p in (shop.out / "tree").rglob("f*")) == [f"f{n}" for n in range(5)]
    started = {event.name: event.worker for event in shop.told("TaskStarted")}
    assert started["a"] == started["b"] == started["tree"] != "" and started["stays"] == ""
    assert shop.run(graph(shop)) == 0  # known to a run without a cluster
    assert not shop.staged() and not list((tmp_path / "apart").rglob("*.part.*"))


def test_a_local_cluster_listens_to_this_machine_alone(tmp_path):
    """Every socket of the build and its workers is on 127.0.0.1."""
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("distributed")
    shop, seen = Shop(tmp_path / "shop"), set()

    def look(event: object) -> None:
        if type(event).__name__ == "TaskStarted" and getattr(event, "worker", ""):
            me = psutil.Process()
            for process in (me, *me.children(recursive=True)):
                found = process.net_connections("inet")
                seen.update(one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN)

    assert shop.run([shop.task("a", args={"sleep": 0.2})], cluster=ClusterOptions(local=2), listeners=[look]) == 0
    assert seen == {"127.0.0.1"}
    assert not Path(shop.out, ".llmconv", "cluster").exists()


@pytest.mark.parametrize("where", ["local", "scheduler"])
def test_tasks_have_not_the_limits_that_dask_sets_for_its_workers(where, tmp_path):
    """It makes their malloc give all memory back at once: compiles take twice as long. Nor has this process."""
    distributed = pytest.importorskip("distributed")
    shop, before = Shop(tmp_path / "shop"), dict(os.environ)
    task = shop.task("malloc", "variable", args={"variable": "MALLOC_TRIM_THRESHOLD_"})
    if where == "local":
        assert shop.run([task], cluster=ClusterOptions(local=1)) == 0
        assert dict(os.environ) == before
    else:
        words = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "n_workers": 1, "silence_logs": 50}
        with distributed.LocalCluster(**words) as cluster:
            assert os.environ.get("MALLOC_TRIM_THRESHOLD_") == "65536", "Dask limits its workers"
            assert shop.run([task], cluster=ClusterOptions(cluster.scheduler_address)) == 0
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
    assert (shop.out / "malloc").read_text() == before.get("MALLOC_TRIM_THRESHOLD_", "")
