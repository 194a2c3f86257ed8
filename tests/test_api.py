"""The Python API: its options are the command line's, its errors are exceptions, and docs/python.md runs."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import llmconv
from llmconv import api
from llmconv.request.options import OPTIONS

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)


def test_the_options_are_those_of_the_command_line():
    names = {o.name for o in OPTIONS}
    assert {name.rstrip("_") for name in api.Options.__annotations__} == names - set(api.ELSEWHERE)
    assert set(api.ELSEWHERE) <= names


def test_import_is_light():
    program = (
        "import sys, llmconv; print([m for m in sys.modules if m.startswith('llmconv.') or m in ('numpy', 'doit')])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_packages_are_functions_too():
    program = """
import llmconv
from llmconv.plan.plan import plan
from llmconv import convert
assert callable(llmconv.plan) and callable(llmconv.convert) and callable(llmconv.verify) and convert.ask
try:
    llmconv.nothing
except AttributeError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "module 'llmconv' has no attribute 'nothing'\n"


@pytest.mark.parametrize(
    "options, said",
    [
        ({"chip": "bm1685"}, "Did you mean bm1688?"),
        ({"qantize": "bf16"}, "Did you mean quantize?"),
        ({"dry_run": True}, "Use llmconv.plan."),
        ({"progress": "plain"}, "Use show."),
        ({"seq_length": 12}, "seq_length twice"),
        ({"show": "loud"}, "one of none, auto"),
    ],
    ids=str,
)
def test_wrong_options_are_one_sentence(options, said, checkpoint, tmp_path, capfd):
    call = llmconv.plan if "progress" in options else llmconv.convert  # there `progress` is the callback
    with pytest.raises(llmconv.InputError) as error:
        call(checkpoint("qwen2"), seq=64, out=tmp_path / "out", **options)
    assert said in str(error.value) and str(error.value).isprintable()
    assert capfd.readouterr() == ("", "") and not (tmp_path / "out").exists()


def test_a_callback_is_told_in_a_thread_beside_an_event_loop(checkpoint, tmp_path, llmconv_env, capfd):
    told: list[tuple[llmconv.Progress, threading.Thread]] = []

    async def main() -> llmconv.Result:
        return await asyncio.to_thread(
            llmconv.convert,
            checkpoint("qwen2"),
            seq=64,
            out=tmp_path / "out",
            only_mlir=True,
            progress=lambda step: told.append((step, threading.current_thread())),
        )

    result = asyncio.run(main())
    assert result.bmodel is None and {"export:block_0", "export:lm_head"} <= set(result.built)
    steps = [step for step, _ in told]
    assert {step.task for step in steps if step.state in ("built", "cached", "unchanged")} == {
        *result.built,
        *result.cached,
        *result.unchanged,
    }
    shares = [step.share for step in steps]
    assert shares == sorted(shares) and steps[-1].task == "" and steps[-1].state == "ended" and shares[-1] == 1
    assert {thread is threading.main_thread() for _, thread in told} == {False}
    assert capfd.readouterr() == ("", "")

    def broken(step: llmconv.Progress) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        llmconv.convert(checkpoint("qwen2"), seq=64, out=tmp_path / "out", only_mlir=True, progress=broken)
    again = llmconv.convert(checkpoint("qwen2"), seq=64, out=tmp_path / "out", only_mlir=True)
    assert not again.built and set(again.unchanged) >= {"export:block_0"}
    assert capfd.readouterr() == ("", "")


def test_a_failed_task_is_an_exception_with_the_result(checkpoint, tmp_path, monkeypatch, capfd):
    from llmconv import tasks

    graph = tasks.graph

    def broken(plan):
        made = list(graph(plan)["task_llmconv"]())
        for task in made:
            if task.get("name") == "lm_head" and task["basename"] == "export":
                task["meta"]["action"] = replace(task["meta"]["action"], call="llmconv.tasks.actions:nothing")
        return {"task_llmconv": lambda: (task for task in made)}

    monkeypatch.setattr(tasks, "graph", broken)
    with pytest.raises(llmconv.BuildFailed, match="export:lm_head") as error:
        llmconv.convert(checkpoint("qwen2"), seq=64, out=tmp_path / "out", only_mlir=True, continue_=True)
    assert error.value.result.failed == ("export:lm_head",) and "export:block_0" in error.value.result.built
    assert capfd.readouterr() == ("", "")


def test_a_directory_without_a_build_cannot_be_verified(tmp_path):
    with pytest.raises(llmconv.ConvertError, match=r"has no manifest\.json"):
        llmconv.verify(tmp_path)
    with pytest.raises(llmconv.InputError, match="max_loss -1"):
        llmconv.verify(tmp_path, max_loss=-1)
    with pytest.raises(llmconv.InputError, match=r"has no \.bmodel"):
        llmconv.inspect(tmp_path)


@pytest.mark.compiler
@pytest.mark.simulator
def test_the_examples_of_the_page(checkpoint, tmp_path, llmconv_env, monkeypatch, capsys):
    """In order, in one directory, as scripts."""
    (tmp_path / "qwen2-tiny").symlink_to(checkpoint("qwen2"))
    monkeypatch.chdir(tmp_path)
    said = []
    for text in EXAMPLES:
        exec(compile(text, str(PAGE), "exec"), {"__name__": "example"})
        said.append(capsys.readouterr().out)
    assert len(said) == 6 and "qwen2" in said[0] and " built, " in said[0]
    assert said[1].startswith("chip=bm1685") and "lm_head" in said[4] and said[5].startswith("True")
