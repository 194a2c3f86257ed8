"""The figures of a .bmodel, against the vendor's own tool and hand-made trees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sample_nets import Compile, embedding, linear, token

from llmconv.bmodel.describe import describe
from llmconv.bmodel.read import BModel
from llmconv.errors import ConvertError
from llmconv.toolchain.model_tool import model_tool

pytestmark = pytest.mark.compiler
DTYPES = {"i32": "int32", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}  # as model_tool calls them


@pytest.fixture(scope="module")
def combined(compiler, compiled: Compile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nets of three kinds in one file, which the vendor's tool put together. Two of them have the same table."""
    files = [
        compiled(embedding()),
        compiled(embedding(name="embedding_cache", length=1)),
        compiled(token(), quant_output=False),
        compiled(linear(), addr_mode="io_alone"),
    ]
    out = tmp_path_factory.mktemp("combined") / "vendor.bmodel"
    model_tool(compiler, "--combine", *files, "-o", out)
    return out


def test_nets_are_those_that_the_vendors_tool_lists(compiler, combined: Path):
    told = model_tool(compiler, "--info", combined)
    made = describe(combined)
    assert made["chip"].upper() == re.search(r"chip: (\w+)", told)[1]
    listed = re.findall(r"net \d+: \[(\w+)\]", told)
    assert [net["name"] for net in made["nets"]] == listed
    tensors = re.findall(r"(input|output): (\S+), \[([\d, ]+)\], (\w+)", told)
    ours = [
        (way, io["name"], ", ".join(map(str, io["shape"])), DTYPES[io["dtype"]])
        for net in made["nets"]
        for s in net["stages"]
        for way in ("input", "output")
        for io in s[f"{way}s"]
    ]
    assert ours == tensors and len(ours) >= 8


def test_parts_add_up_and_shared_coefficients_count_once(combined: Path):
    made = describe(combined)
    assert sum(made["parts"].values()) == combined.stat().st_size
    assert made["parts"]["kernel module"] > 5_000_000
    first, second = (net["stages"][0]["coefficients"] for net in made["nets"][:2])
    assert first["bytes"] == second["bytes"] == 4096 and (first["same_as"], second["same_as"]) == (None, "embedding")
    assert made["coefficients"]["shared"] == 4096
    assert (
        made["coefficients"]["stored"] == made["parts"]["coefficients"] == sum(made["coefficients"]["by_role"].values())
    )
    assert made["coefficients"]["by_role"]["tpu.Gather.source"] == 4096


def test_device_memory_has_one_area_for_intermediate_tensors(combined: Path):
    stages = [net.stages[0] for net in BModel.read(combined).nets]
    memory = describe(combined)["device_memory"]
    assert memory["intermediate"] == max(stage.context_bytes for stage in stages) > 0
    assert memory["inputs and outputs"] == stages[3].io_bytes > 0


def test_several_cores_have_commands_each(compiled: Compile):
    (net,) = describe(compiled(embedding(), "bm1688"))["nets"]
    commands = net["stages"][0]["commands"]
    assert net["stages"][0]["cores"] == 2 and commands["bytes"] > 0 and commands["dma"] >= 2


def test_a_file_that_is_cut_short_is_refused(compiled: Compile, tmp_path: Path):
    whole, cut = compiled(embedding()).read_bytes(), tmp_path / "cut.bmodel"
    cut.write_bytes(whole[:-4096])
    with pytest.raises(ConvertError, match="no whole .bmodel"):
        describe(cut)
