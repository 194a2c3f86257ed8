"""What is built, what is not built again, and what is recorded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llmconv import engine
from llmconv.engine import history, trace
from llmconv.errors import ConvertError, InputError


def chain(shop, first="a", **more):
    """a and b, joined by c, which d copies."""
    return [
        shop.task("a", text=first, **more),
        shop.task("b"),
        shop.task("c", "join", deps=("a", "b")),
        shop.task("d", "join", deps=("c",), local=True),
    ]


def test_builds_once(shop):
    assert shop.run(chain(shop)) == 0
    assert shop.ran() == ["a", "b", "c", "d"]
    assert (shop.out / "d").read_text() == "ab"
    assert shop.run(chain(shop)) == 0
    assert shop.ran() == []
    assert [event.name for event in shop.told("TaskUnchanged")] == ["a", "b", "c", "d"]


def test_option_change_rebuilds_only_what_depends_on_it(shop):
    shop.run(chain(shop))
    assert shop.run(chain(shop, first="A")) == 0
    assert shop.ran() == ["a", "c", "d"]
    assert shop.told("TaskStarted")[0].reason == "text: a -> A"


def test_identical_output_stops_the_rebuild(shop):
    shop.run(chain(shop))
    assert shop.run(chain(shop, key={"text": "other"})) == 0
    assert shop.ran() == ["a"]


def test_selection_takes_dependencies_along(shop):
    assert shop.run(chain(shop), "c") == 0
    assert shop.ran() == ["a", "b", "c"]


def test_force(shop):
    shop.run(chain(shop), cache=shop.root / "cache")
    shop.run(chain(shop), force=True, cache=shop.root / "cache")
    assert shop.ran() == ["a", "b", "c", "d"]


@pytest.mark.parametrize("how", ["deleted", "truncated", "edited"])
def test_target_that_is_not_whole_is_rebuilt_and_named(shop, how):
    shop.run(chain(shop))
    target = shop.out / "c"
    if how == "deleted":
        target.unlink()
    else:
        target.write_text("" if how == "truncated" else "xyz")
    assert shop.run(chain(shop)) == 0
    assert shop.ran() == ["c"]
    assert shop.told("TaskStarted")[0].reason == f"c was {how}"
    assert target.read_text() == "ab"


def test_target_with_other_content_of_the_same_size_and_time(shop):
    shop.run(chain(shop))
    target = shop.out / "c"
    before = target.stat()
    target.write_text("xy")
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert shop.run(chain(shop)) == 0
    assert shop.ran() == ["c"] and target.read_text() == "ab"


def test_touched_target_is_not_rebuilt(shop):
    shop.run(chain(shop))
    os.utime(shop.out / "c")
    assert shop.run(chain(shop)) == 0
    assert shop.ran() == []


def test_directory_target(shop):
    def tasks(count):
        return [
            shop.task("dir", "folder", args={"count": count}, key={"count": count}),
            shop.task("x", file_dep=[shop.out / "dir"]),
        ]

    assert shop.run(tasks(4)) == 0
    assert shop.run(tasks(4)) == 0 and shop.ran() == []
    assert shop.run(tasks(3)) == 0 and shop.ran() == ["dir", "x"]
    assert len(list((shop.out / "dir").rglob("f*"))) == 3
    (shop.out / "dir" / "d0" / "f0").write_text("")
    assert shop.run(tasks(3)) == 0 and shop.ran() == ["dir"]
    assert not shop.staged()


def test_input_content_counts_not_its_time(shop):
    source = shop.root / "in"
    source.write_text("one")
    tasks = [shop.task("a", file_dep=[source])]
    shop.run(tasks)
    os.utime(source, (1, 1))
    shop.run(tasks)
    assert shop.ran() == []
    source.write_text("two")
    os.utime(source, (1, 1))  # new content under the old time, and of the old size
    shop.run(tasks)
    assert shop.ran() == ["a"]


def test_picks_count_entry_by_entry(shop):
    source = shop.root / "digests.json"

    def net(number):
        return shop.task(f"n{number}", picks=[(source, [f"layer.{number}", "shared"])])

    tasks = [net(0), net(1)]
    source.write_text(json.dumps({"layer.0": "a", "layer.1": "b", "shared": "c"}))
    shop.run(tasks)
    source.write_text(json.dumps({"layer.0": "a", "layer.1": "B", "shared": "c", "new": "d"}))
    shop.run(tasks)
    assert shop.ran() == ["n1"]
    assert shop.told("TaskStarted")[0].reason == "digests.json: layer.1: b -> B"


def test_watched_file_counts_by_identity_and_reads_do_not(shop):
    shard = shop.root / "shard"
    shard.write_text("x")
    tasks = [shop.task("digest", watch=[shard]), shop.task("net", deps=("digest",), reads=[shard])]
    shop.run(tasks)
    os.utime(shard)
    shop.run(tasks)
    assert shop.ran() == ["digest"]  # read again, the same: the net stays


def test_values_and_measures_are_kept(shop):
    shop.run([shop.task("a", text="12345", args={"sleep": 0.1})])
    row = engine.read_state(shop.options.state_dir)["a"]
    assert row.values == {"size": 5}
    assert row.seconds >= 0.1 and row.peak_rss > 1 << 20
    assert row.fields["key"] == {"text": "12345"}


def test_state_moves_with_the_output_directory(shop):
    shop.run(chain(shop))
    moved = shop.root / "elsewhere"
    shop.out.rename(moved)
    shop.out = moved
    shop.run(chain(shop), state_dir=moved / ".llmconv")
    assert shop.ran() == []


def test_plain_doit_task_runs_beside(shop, tmp_path):
    mark = tmp_path / "mark"
    plain = {"name": "plain", "actions": [f"touch {mark}"], "task_dep": ["a"]}
    assert shop.run([shop.task("a"), plain]) == 0
    assert mark.exists()


def test_printing_action_does_not_disturb_the_protocol(shop):
    assert shop.run([shop.task("a", "spawn_and_print")]) == 0
    assert "hello from a program" in (shop.options.state_dir / "workers" / "1.log").read_text()


def test_what_a_program_takes_is_measured(shop):
    shop.run([shop.task("a", "usage")])
    row = engine.read_state(shop.options.state_dir)["a"]
    assert 80 << 20 < row.peak_rss < 160 << 20
    assert 0.05 < row.cpu < 20


def test_names_and_basenames(shop):
    tasks = [shop.task("n0", basename="net"), shop.task("n1", basename="net")]
    assert shop.run(tasks, "net:n1") == 0
    assert shop.ran() == ["n1"]
    assert shop.run(tasks, "net") == 0
    assert shop.ran() == ["n0"]


def test_unknown_task_suggests_the_near_miss(shop):
    with pytest.raises(InputError, match="Did you mean a"):
        shop.run([shop.task("abc")], "abd")


def test_cycle_and_shared_target_are_refused(shop):
    with pytest.raises(ConvertError, match="circle"):
        shop.run([shop.task("a", deps=("b",)), shop.task("b", deps=("a",))])
    with pytest.raises(ConvertError, match="common target"):
        shop.run([shop.task("a"), shop.task("b", targets=[shop.out / "a"])])


def test_logs_of_a_run(shop):
    shop.run(chain(shop))
    lines = [json.loads(line) for line in (shop.options.state_dir / "events.jsonl").read_text().splitlines()]
    assert next(line["event"] for line in lines) == "RunStarted"
    assert lines[-1]["event"] == "RunFinished" and lines[-1]["built"] == 4
    (trace,) = (shop.options.state_dir / "traces").iterdir()
    assert {item["name"] for item in json.loads(trace.read_text()) if item["ph"] == "X"} == {"a", "b", "c", "d"}


def test_every_run_has_its_own_trace(shop):
    """Those of the last runs are kept; a run that does nothing leaves none. The first event names the file."""
    folder = shop.options.state_dir / "traces"
    for number in range(trace.KEEP + 2):
        shop.run(chain(shop, first=str(number)))
        assert len(list(folder.iterdir())) == min(number + 1, trace.KEEP)
    before = sorted(folder.iterdir())
    shop.run(chain(shop, first=str(number)))
    assert sorted(folder.iterdir()) == before
    starts = [run.begin for run in history.read(shop.options.state_dir)]
    assert [trace.place(shop.options.state_dir, begin) for begin in starts[2:-1]] == before


def test_keys_do_not_depend_on_the_output_directory(shop, tmp_path):
    shop.run(chain(shop))
    first = {name: row.key for name, row in engine.read_state(shop.options.state_dir).items()}
    shop.out = tmp_path / "deeper" / "other"
    shop.run(chain(shop), state_dir=shop.out / ".llmconv")
    assert {name: row.key for name, row in engine.read_state(shop.out / ".llmconv").items()} == first


def test_out_of_order_definition_and_pathlib(shop):
    tasks = list(reversed(chain(shop)))
    assert shop.run(tasks) == 0
    assert Path(shop.out / "d").read_text() == "ab"


def test_what_starts_last_waits_for_all_that_can_start(shop):
    """One at a time: a task that reads ahead comes after those that are ready, however long its way to the end is."""
    tasks = [
        shop.task("ahead", need=engine.Need(seconds=9.0, last=True)),
        shop.task("user", "join", deps=("ahead",), need=engine.Need(seconds=9.0)),
        *(shop.task(name, need=engine.Need(seconds=1.0)) for name in "abc"),
    ]
    assert shop.run(tasks, jobs=1) == 0
    assert shop.log.read_text().split() == ["a", "b", "c", "ahead", "user"]
