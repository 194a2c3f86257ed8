"""`llmconv diff` of files whose every difference is known, because the test has made it, and of real builds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from llmconv.bmodel.write import Produced, write
from llmconv.cli.main import main

MB = 1_000_000


def blob(content: bytes) -> Produced:
    return Produced(len(content), lambda: [content])


def net(name: str, coefficients: bytes) -> dict[str, Any]:
    """A net of one core with two weights and one group of instructions."""
    tensor = {"data_type": 8, "shape": [{"dim": [1, 64, 256]}], "device_addr": 4096}
    group = {"bdc_num": 3, "gdma_num": 2, "binary_bdc": blob(b"compute" * 30), "binary_gdma": blob(b"transfer" * 30)}
    half = len(coefficients) // 2
    places = [{"name": f"tpu.{n}", "offset": n * half, "size": half} for n in range(2)]
    parameter = {
        "input_tensor": [tensor | {"name": "input_states"}],
        "output_tensor": [tensor | {"name": "output_states"}],
        "ctx_size": 8192,
        "core_num": 1,
        "coeff_mem": {"binary_coeff": blob(coefficients), "location": places},
        "cmd_group": [group],
        "net_profile": blob(b"profile"),
        "sub_net": [{"cmd_group": [dict(group)], "id": 0}],
    }
    return {"name": name, "addr_mode": 0, "parameter": [parameter]}


TREE = {
    "type": "B",
    "version": "2.2",
    "time": "then",
    "chip": "BM1684X",
    "device_num": 1,
    "neuron_size": 7,
    "net": [net("block_0", b"abcd" * 25), net("block_1", b"efgh" * 25)],
}


def file(path: Path, change: Callable[[dict], Any] = lambda _: None) -> Path:
    tree = deepcopy(TREE)
    change(tree)
    write(path, tree)
    return path


def stage(tree: dict, number: int = 1) -> dict:
    return tree["net"][number]["parameter"][0]


def put(place: dict, **values: Any) -> None:
    place.update(values)


def diffed(a: Path, b: Path, capsys) -> tuple[int, dict, str]:
    """Exit code, what --json says, what a terminal shows."""
    capsys.readouterr()
    code = main(["diff", str(a), str(b), "--json"])
    made = json.loads(capsys.readouterr().out)
    assert main(["diff", str(a), str(b)]) == code
    return code, made, capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: put(tree, version="3.0", time="now"),
        lambda tree: put(stage(tree), net_profile=blob(b"another profile")),
        lambda tree: put(stage(tree), is_dynamic=0, cpu_mem_size=0),  # defaults, written out
    ],
)
def test_what_a_device_does_not_see_is_no_difference(change, tmp_path, capsys):
    code, made, shown = diffed(file(tmp_path / "a.bmodel"), file(tmp_path / "b.bmodel", change), capsys)
    assert code == 0 and made["equal"] and made["nets"] == {"block_0": [], "block_1": []}
    assert shown.splitlines()[-1] == "equal: 2 nets"


CHANGES = {
    "input input_states": lambda tree: put(stage(tree)["input_tensor"][0], data_type=1),
    "output output_states": lambda tree: put(stage(tree)["output_tensor"][0], shape=[{"dim": [1, 32, 256]}]),
    "dynamic": lambda tree: put(stage(tree), is_dynamic=1),
    "cores": lambda tree: put(stage(tree), core_num=2),
    "subnets": lambda tree: stage(tree)["sub_net"].append({"id": 1}),
    "encrypted": lambda tree: put(stage(tree)["coeff_mem"], encrypt_mode=1),
    "intermediate memory": lambda tree: put(stage(tree), ctx_size=4096),
    "memory of inputs and outputs": lambda tree: put(stage(tree), io_size=4096),
    "coefficients": lambda tree: put(stage(tree)["coeff_mem"], binary_coeff=blob(b"efgh" * 24 + b"efgg")),
    "commands": lambda tree: put(stage(tree)["cmd_group"][0], binary_gdma=blob(b"Transfer" * 30)),
    "dynamic programs": lambda tree: put(stage(tree), binary_ir=blob(b"program")),
    "address mode": lambda tree: put(tree["net"][1], addr_mode=1),
    "device": lambda tree: put(tree["net"][1], cascade={"device_id": 1, "main_name": ""}),
    "part of": lambda tree: put(tree["net"][1], cascade={"main_name": "block"}),
    "stages": lambda tree: tree["net"][1]["parameter"].append(deepcopy(stage(tree))),
    "other fields": lambda tree: put(stage(tree)["input_tensor"][0], scale=0.5),
}


@pytest.mark.parametrize("what", CHANGES)
def test_each_difference_is_told_by_its_name(what, tmp_path, capsys):
    code, made, shown = diffed(file(tmp_path / "a.bmodel"), file(tmp_path / "b.bmodel", CHANGES[what]), capsys)
    assert code == 1 and not made["equal"] and not made["file"] and made["nets"]["block_0"] == []
    assert what in [found["what"] for found in made["nets"]["block_1"]]
    assert shown.splitlines()[-1] == "different: 1 of 2 nets that both have" and f"block_1  {what}" in shown


def test_an_address_is_a_difference_that_is_named(tmp_path, capsys):
    moved = file(tmp_path / "b.bmodel", lambda tree: put(stage(tree)["output_tensor"][0], device_addr=0))
    _, made, _ = diffed(file(tmp_path / "a.bmodel"), moved, capsys)
    assert made["nets"]["block_1"] == [{"what": "other fields", "a": None, "b": None, "where": [["device_addr", 1]]}]


def test_coefficients_have_digests_and_the_weights_that_differ(tmp_path, capsys):
    import hashlib

    other = file(tmp_path / "b.bmodel", CHANGES["coefficients"])
    _, made, shown = diffed(file(tmp_path / "a.bmodel"), other, capsys)
    (found,) = made["nets"]["block_1"]
    sums = [hashlib.sha256(content).hexdigest() for content in (b"efgh" * 25, b"efgh" * 24 + b"efgg")]
    assert [found[side] for side in "ab"] == [{"bytes": 100, "sha256": digest, "told": ""} for digest in sums]
    assert found["where"] == [["tpu.1", 1]] and "in tpu.1 (1)" in shown and sums[1][:12] in shown


def test_files_differ_in_their_own_facts_and_in_nets(tmp_path, capsys):
    def change(tree: dict) -> None:
        put(tree, chip="BM1688", device_num=2, neuron_size=8)
        put(tree, kernel_module={"file_name": "k", "binary": blob(b"kernel")})
        tree["net"][1]["name"] = "block_2"

    code, made, shown = diffed(file(tmp_path / "a.bmodel"), file(tmp_path / "b.bmodel", change), capsys)
    assert code == 1 and (made["only_a"], made["only_b"]) == (["block_1"], ["block_2"])
    assert [found["what"] for found in made["file"]] == ["chip", "devices", "kernel module", "other fields"]
    assert "only in A: block_1" in shown and "only in B: block_2" in shown
    assert shown.splitlines()[-1] == "different: 0 of 1 net that both have, 2 that only one has, the file itself"


def test_the_order_of_nets_counts(tmp_path, capsys):
    turned = file(tmp_path / "b.bmodel", lambda tree: tree["net"].reverse())
    code, made, _ = diffed(file(tmp_path / "a.bmodel"), turned, capsys)
    assert code == 1
    assert made["file"] == [{"what": "net 1 of those in both", "a": "block_0", "b": "block_1", "where": []}]


@pytest.mark.parametrize("content", [None, b"", b"#!/bin/sh\n" * 20])
def test_what_is_no_bmodel_is_wrong_input(content, tmp_path, capsys):
    other = tmp_path / "b.bmodel"
    if content is not None:
        other.write_bytes(content)
    assert main(["diff", str(file(tmp_path / "a.bmodel")), str(other)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["diff", str(tmp_path / "a.bmodel"), str(tmp_path / "nothing")]) == 2


def test_memory_does_not_grow_with_the_files(tmp_path):
    def large(last: bytes) -> Callable[[dict], Any]:
        content = Produced(400 * MB, lambda: [*[bytes(MB)] * 399, bytes(MB - 1), last])
        return lambda tree: put(stage(tree)["coeff_mem"], binary_coeff=content, location=[])

    files = [str(file(tmp_path / f"{n}.bmodel", large(last))) for n, last in enumerate((b"x", b"y"))]
    code = (  # VmHWM is this program's own; ru_maxrss would be that of the tests before it too
        "import re, sys; from pathlib import Path; from llmconv.cli.main import main; code = main(['diff', *sys.argv[1:]]);"
        "print(code, re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    status, peak = map(int, done.stdout.splitlines()[-1].split())
    assert status == 1 and 1024 * peak < 150 * MB


@pytest.mark.compiler
def test_builds_by_their_directories_with_estimated_cycles(checkpoint, convert, capsys):
    a, b = (convert(checkpoint("qwen2"), seq=64, chip="cv186x", quantize=q) for q in ("bf16", "w4bf16"))
    assert diffed(a, a, capsys)[0] == 0
    code, made, shown = diffed(a, b, capsys)
    cycles = [
        {net["name"]: net["cycles"] for net in json.loads((out / "manifest.json").read_text())["nets"]}
        for out in (a, b)
    ]
    told = {found["what"]: (found["a"], found["b"]) for found in made["nets"]["block_cache_0"]}
    assert code == 1 and told["estimated cycles"] == tuple(one["block_cache_0"] for one in cycles)
    assert told["coefficients"][0]["bytes"] > 2 * told["coefficients"][1]["bytes"]
    assert made["nets"]["embedding"] == [] and "dynamic" not in told and "estimated cycles" in shown
