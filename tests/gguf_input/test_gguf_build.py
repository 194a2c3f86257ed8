"""A GGUF file, built and proved on the chip simulator; a net is built again when its own tensors change, and only
then."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import gguf
import pytest
from gguf_files import write
from verify_helpers import verify

import llmconv
from llmconv.errors import ConvertError
from llmconv.runtime import manifest
from llmconv.runtime.tokenizer import Tokenizer

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]


def test_verified(tmp_path, written, convert):
    """Against the class with the weights that the gguf package reads."""
    out = convert(write(written("llama"), tmp_path / "m.gguf", "Q4_0"), seq=64, chip="cv186x")
    assert verify(out, nets=["block_0", "block_cache_1"])


@pytest.mark.slow
@pytest.mark.parametrize("chip", ["cv186x", "bm1688", "bm1684x"])
@pytest.mark.parametrize(
    "name, kind",
    [
        ("qwen2_moe", "Q4_0"),
        ("gemma3_text", "Q5_1"),
        ("phi3", "Q8_0"),
        ("smollm3", "Q4_0"),
        ("ernie4_5", "Q4_1"),
        ("glm", "Q4_0"),
        ("glm4", "Q8_0"),
    ],
)
def test_everything(tmp_path, written, name, kind, chip, convert):
    out = convert(write(written(name), tmp_path / "m.gguf", kind, joined=name == "glm"), seq=64, chip=chip)
    assert verify(out, full=True, tokens=8)


def test_only_what_changes_is_built_again(tmp_path, written, llmconv_env):
    """Also when the directory that stands for the file is gone."""
    model, file, out = written("qwen3"), tmp_path / "m.gguf", tmp_path / "out"

    def build() -> set[str]:
        built = llmconv.convert(file, 64, out, chip="cv186x").built
        return {name for name in built if name.startswith(("compile:", "checkpoint:"))}

    write(model, file, "Q8_0")
    assert len(build()) == 1 + len(manifest.told(out).nets)
    assert build() == set()
    shutil.rmtree(Path(os.environ["LLMCONV_CACHE"]) / "gguf")
    assert build() == set() and manifest.told(out).plan().nets
    reader = gguf.GGUFReader(file, "r+")
    tensor = next(one for one in reader.tensors if one.name == "blk.1.ffn_up.weight")
    tensor.data[3, 5] ^= 1
    reader.data.flush()
    os.utime(file)
    assert build() == {"checkpoint:m.gguf", "compile:block_1", "compile:block_cache_1"}
    told = manifest.told(out)
    assert told.job.model_path == file and told.bmodel.name.startswith("m_w8bf16_seq64_cv186x")
    file.unlink()
    assert [net.name for net in told.driven().nets] == list(told.nets), "a device has no file"
    with pytest.raises(ConvertError, match=f"the model {file} is gone"):
        told.plan()
    assert Tokenizer(out / "config").text([5, 6]) and not list((out / "config").glob("*gguf*"))
