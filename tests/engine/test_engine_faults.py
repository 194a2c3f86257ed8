"""Everything that goes wrong: actions that fail, crash and hang; full disks, damaged files, inputs that move."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from engine_shop import environment
from processes import SOON, living, numbers, wait_for

from llmconv import engine
from llmconv.errors import ConvertError


@pytest.mark.parametrize(
    "how, status, text",
    [
        ("convert", 1, "net block_0 cannot be built: its tensor is missing. Check the checkpoint."),
        ("input", 2, "option --seq is wrong"),
        ("tool", 1, "tpuc-opt failed: line 3"),
        ("bug", 1, "internal error KeyError: 'oops'. Run again with --debug for the traceback."),
        ("exit", 1, "internal error SystemExit"),
        ("crash", 1, "the worker process died of SIGSEGV"),
        ("value", 1, "internal error TypeError"),
        ("full", 1, "no space left to write"),
    ],
)
def test_failing_action(shop, how, status, text):
    assert shop.run([shop.task("a", "fail", text=how), shop.task("b", deps=("a",))]) == status
    assert text in str(shop.failure())
    assert shop.ran() == ["a"]
    assert not (shop.out / "a").exists() and not shop.staged()


def test_full_disk_names_path_and_free_space(shop):
    shop.run([shop.task("a", "fail", text="full")])
    assert f"{shop.out}" in shop.failure().what
    assert "B are free in" in shop.failure().why


def test_failure_carries_the_log_and_the_command(shop):
    shop.run([shop.task("a", "fail", text="tool")], repeat=lambda name: f"llmconv build {name}")
    (event,) = shop.told("TaskFailed")
    assert event.failure.log == str(shop.log) and event.repeat == "llmconv build a"


def test_default_stops_starting_and_lets_running_tasks_finish(shop):
    tasks = [
        shop.task("slow", args={"sleep": 0.8}),
        shop.task("bad", "fail", text="convert"),
        *(shop.task(f"later{i}") for i in range(3)),
    ]
    assert shop.run(tasks) == 1
    assert shop.ran() == ["bad", "slow"] and (shop.out / "slow").exists()
    assert shop.told("RunFinished")[0].left == 3


def test_continue_goes_on_with_independent_work(shop):
    tasks = [
        shop.task("bad", "fail", text="convert"),
        shop.task("user", deps=("bad",)),
        shop.task("users_user", deps=("user",)),
        shop.task("free"),
    ]
    assert shop.run(tasks, continue_=True) == 1
    assert shop.ran() == ["bad", "free"]
    assert {event.name for event in shop.told("TaskBlocked")} == {"user", "users_user"}


def test_success_is_forgotten_before_a_rebuild(shop):
    shop.run([shop.task("a")])
    assert shop.run([shop.task("a", "fail", text="convert")]) == 1
    assert not engine.read_state(shop.options.state_dir)["a"].done
    assert shop.run([shop.task("a")]) == 0
    assert shop.ran() == ["a"]


def test_unwritten_target(shop):
    assert shop.run([shop.task("a", "nothing")]) == 1
    assert "did not write" in str(shop.failure())


@pytest.mark.parametrize("call", ["killed", "tool_killed"])
def test_killed_once_is_retried_alone(shop, call):
    def tasks(times):
        return [
            shop.task("a", call, args={"times": times}, key={"times": times}),
            *(shop.task(f"b{i}", args={"log": os.devnull}) for i in range(3)),
        ]

    assert shop.run(tasks(1)) == 0
    assert shop.ran() == ["a", "a"] and len(shop.told("TaskRetried")) == 1
    assert shop.run(tasks(2)) == 1
    assert shop.ran() == ["a", "a"]
    assert shop.failure().killed


def test_worker_killed_twice_says_probably_memory(shop):
    assert shop.run([shop.task("a", "killed", args={"times": 2})]) == 1
    assert "probably the machine ran out of memory" in str(shop.failure())


def test_input_edited_during_the_run(shop):
    source = shop.root / "in"
    source.write_text("old!")
    for field in ("file_dep", "watch", "reads"):
        task = shop.task("a", "edit_input", args={"path": str(source)}, **{field: [source]})
        assert shop.run([task]) == 1
        assert f"input {source} changed during the build" in str(shop.failure())
        assert not (shop.out / "a").exists()


def test_input_changed_between_two_tasks_of_a_run(shop):
    """The digest task saw the old shard, the net would read the new one."""
    shard = shop.root / "shard"
    shard.write_text("old!")
    tasks = [
        shop.task("digest", args={"sleep": 0.1}, watch=[shard]),
        shop.task("gap", deps=("digest",), args={"sleep": 0.6}),
        shop.task("net", deps=("digest", "gap"), reads=[shard]),
    ]
    threading.Timer(0.6, shard.write_text, ["new!"]).start()
    assert shop.run(tasks) == 1
    assert shop.failure().what == f"input {shard} changed during the build"


def test_failing_listener_is_left_out(shop, capsys):
    def bad(event):
        raise ValueError("no terminal")

    assert shop.run([shop.task("a")], listeners=[bad]) == 0
    assert capsys.readouterr().err.count("no terminal") == 1


def test_missing_input(shop):
    assert shop.run([shop.task("a", file_dep=[shop.root / "nowhere"])]) == 1
    assert "nowhere cannot be read" in str(shop.failure())


def test_leftovers_are_swept(shop):
    shop.run([shop.task("a")])
    (shop.out / "a.part.0123abcd").write_text("half")
    deep = shop.out / "old" / "net.part.0123abcd"
    deep.mkdir(parents=True)
    (deep / "file").write_text("half")
    (shop.options.state_dir / "lock").write_text("1\n")  # as a killed run leaves it
    shop.run([shop.task("a")])
    assert not shop.staged()


def test_damaged_state_is_put_aside(shop):
    shop.run([shop.task("a")], cache=shop.root / "cache")
    (shop.options.state_dir / "state.db").write_bytes(b"this is no database" * 100)
    assert shop.run([shop.task("a")], cache=shop.root / "cache") == 0
    assert "was damaged" in shop.told("Note")[0].text
    assert shop.run([shop.task("a")]) == 0 and shop.ran() == []


def test_read_only_directory(shop):
    """As root, permissions do not bind: a file in the place of the directory does for both."""
    shop.root.joinpath("file").write_text("")
    with pytest.raises(ConvertError, match="file cannot be written: Not a directory"):
        shop.run([shop.task("a")], state_dir=shop.root / "file" / ".llmconv")
    task = shop.task("a", targets=[shop.root / "file" / "a"])
    assert shop.run([task]) == 1
    assert "Not a directory" in str(shop.failure()) or "File exists" in str(shop.failure())
    if os.geteuid():
        closed = shop.root / "closed"
        closed.mkdir(mode=0o500)
        assert shop.run([shop.task("a", targets=[closed / "a"])]) == 1
        assert f"no permission for {closed}" in str(shop.failure())


def mount_tmpfs(place: Path, size: str) -> bool:
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_really_full_disk(shop):
    place = shop.root / "small"
    if not mount_tmpfs(place, "600k"):
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        shop.out = place / "out"
        tasks = [shop.task("a"), shop.task("big", text="x" * 700_000, deps=("a",), key={})]
        assert shop.run(tasks, state_dir=shop.out / ".llmconv", jobs=1) == 1
        assert "no space left to write" in str(shop.failure()) and str(place) in str(shop.failure())
        assert not shop.staged()
        tasks[1] = shop.task("big", text="x", deps=("a",), key={})
        assert shop.run(tasks, state_dir=shop.out / ".llmconv") == 0
        assert shop.ran() == ["big"]  # what was finished is kept
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_state_on_a_full_disk_is_one_sentence(shop):
    place = shop.root / "small"
    if not mount_tmpfs(place, "200k"):
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        tasks = [shop.task(f"t{i}", key={"long": "x" * 5000}) for i in range(60)]
        with pytest.raises(ConvertError) as caught:
            shop.run(tasks, state_dir=place / ".llmconv")
        assert "state.db" in caught.value.what and "B are free" in caught.value.why
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_preflight_refuses_with_the_figures(shop):
    with pytest.raises(ConvertError, match=r"GB of disk space: .* [MG]B are free in"):
        shop.run([shop.task("a", need=engine.Need(disk=1 << 60))])
    with pytest.raises(ConvertError, match=r"GB of memory: this machine has"):
        shop.run([shop.task("a", need=engine.Need(memory=1 << 60))])
    free = shutil.disk_usage(shop.root).free
    scratch = [shop.task(f"s{i}", need=engine.Need(scratch=free // 3)) for i in range(9)]
    assert shop.run(scratch, jobs=2) == 0  # two at a time fit
    with pytest.raises(ConvertError, match="disk space"):
        shop.run([shop.task(f"t{i}", need=engine.Need(scratch=free // 3)) for i in range(9)], jobs=4)
    assert shop.run([shop.task("a", need=engine.Need(memory=1 << 60))], memory=1 << 60) == 0


SCRIPT = """
import sys
from pathlib import Path
from engine_shop import Shop
from llmconv.errors import ConvertError
shop = Shop(Path({root!r}))
try:
    code = shop.run([shop.task("hang", "compiler"), shop.task("fine", args={{"sleep": 0.1}})], progress="plain")
except ConvertError as error:
    print(error)
    code = error.exit_code
sys.exit(code)
"""


def start(shop) -> subprocess.Popen:
    """A process that builds a compiler that hangs; returns when that runs."""
    script = SCRIPT.format(root=str(shop.root))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment())
    wait_for(lambda: len(alive(shop)) == 2 and "fine" in engine.read_state(shop.options.state_dir))
    return process


def alive(shop) -> list[int]:
    """Those of the compiler's processes that still run."""
    return [pid for pid in numbers(Path(f"{shop.log}.pids")) if living(pid)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_signal_ends_the_hanging_compiler_too(shop, number):
    process = start(shop)
    process.send_signal(number)
    output = process.communicate(timeout=SOON)[0]
    wait_for(lambda: not alive(shop), SOON)
    if number == signal.SIGKILL:
        assert process.returncode == -9
    else:
        assert process.returncode == 130
        assert f"stopped by {number.name}: 1 finished task is kept; run the same command again to go on" in output
        assert not shop.staged()
    assert shop.plan([shop.task("fine")])["fine"] == "unchanged"


def test_second_build_says_which_pid(shop):
    process = start(shop)
    try:
        with pytest.raises(ConvertError, match=f"is being built by pid {process.pid}") as caught:
            shop.run([shop.task("x")])
        assert caught.value.exit_code == 1
        assert shop.plan([shop.task("fine")])["fine"] == "unchanged"  # reading does not wait
    finally:
        process.kill()
        process.communicate()
    assert shop.run([shop.task("x")]) == 0


def test_killed_worker_takes_its_compiler_along(shop):
    process = start(shop)
    (worker,) = (
        int(pid.name)
        for pid in Path("/proc").iterdir()
        if pid.name.isdigit() and is_worker(pid, process.pid, alive(shop)[0])
    )
    before = alive(shop)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not set(before) & set(alive(shop)), SOON)
    wait_for(lambda: len(alive(shop)) == 2)  # tried once more
    process.send_signal(signal.SIGINT)
    assert process.communicate() and process.returncode == 130


def is_worker(entry: Path, parent: int, compiler: int) -> bool:
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
        group = Path(f"/proc/{compiler}/stat").read_text().rpartition(")")[2].split()[2]
        return int(fields[1]) == parent and fields[2] == group
    except (OSError, IndexError):
        return False


def test_new_run_waits_for_workers_of_a_killed_one(shop):
    """kill -9 and at once the next run: it must not meet the old run's processes."""
    process = start(shop)
    process.kill()
    assert engine.run([shop.task("next")], [], replace(shop.options)) == 0
    assert not alive(shop)
    process.communicate()
