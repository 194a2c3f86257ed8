"""Reading .bmodel files: compiled ones and damaged ones."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from sample_nets import CHIPS, Compile, embedding, linear, token

from llmconv.bmodel.read import IO, BModel, digest
from llmconv.bmodel.schema import HEADER
from llmconv.errors import ConvertError
from llmconv.numeric import to_bf16

pytestmark = pytest.mark.compiler


@pytest.mark.parametrize("chip", CHIPS)
def test_embedding(compiled: Compile, chip: str):
    sample = embedding()
    bmodel = BModel.read(compiled(sample, chip))
    assert (bmodel.chip, bmodel.device_num) == (chip.upper(), 1)
    assert "1.30.2" in bmodel.version
    assert [net.name for net in bmodel.nets] == ["embedding"]
    net = bmodel.net("embedding")
    stage = net.stages[0]
    assert net.addr_mode == "basic"
    assert stage.inputs == (IO("input_ids", "i32", (1, 16)),)
    assert stage.outputs == (IO("embedding", "bf16", (1, 16, 64)),)
    assert (stage.dynamic, stage.core_num, stage.subnets) == (False, CHIPS[chip], 1)
    assert bytes(bmodel.content(stage.coeff)) == to_bf16(sample.weights["table"]).tobytes()
    assert stage.coeff_sha256 == bmodel.sha256(stage.coeff) == hashlib.sha256(bmodel.content(stage.coeff)).hexdigest()
    assert [(place.offset, place.size) for place in stage.locations] == [(0, 4096)]
    assert [group.core for group in stage.commands] == list(range(CHIPS[chip]))
    assert all(group.bdc.size and group.gdma.size for group in stage.commands)


def test_kinds_of_nets(compiled: Compile):
    head = BModel.read(compiled(token(), quant_output=False)).net("lm_head")
    assert head.stages[0].subnets == 2
    assert head.stages[0].outputs == (IO("token_id", "i32", (1, 1)),)
    alone = BModel.read(compiled(linear(), addr_mode="io_alone")).net("linear")
    assert (alone.addr_mode, alone.stages[0].io_bytes > 0) == ("io_alone", True)
    assert BModel.read(compiled(linear(), dynamic=True)).net("linear").stages[0].dynamic
    assert BModel.read(compiled(linear(), mode="F16")).net("linear").stages[0].inputs[0].dtype == "f16"


def test_digest(compiled: Compile):
    path = compiled(embedding())
    bmodel = BModel.read(path)
    stage = bmodel.nets[0].stages[0]
    found = digest(path, {"embedding": 7})
    assert found == {
        "chip": "BM1684X",
        "nets": [
            {
                "name": "embedding",
                "addr_mode": 0,
                "stages": [
                    {
                        "inputs": [["input_ids", [1, 16], "i32"]],
                        "outputs": [["embedding", [1, 16, 64], "bf16"]],
                        "dynamic": 0,
                        "subnets": 1,
                        "core_num": 1,
                        "coeff": stage.coeff_sha256[:16],
                        "coeff_bytes": 4096,
                        "bdc": [bmodel.sha256(stage.commands[0].bdc)[:16]],
                        "gdma": [bmodel.sha256(stage.commands[0].gdma)[:16]],
                    }
                ],
                "cycles": 7,
            }
        ],
    }


def test_unknown_net(compiled: Compile):
    with pytest.raises(ConvertError, match="has no net 'x': it has embedding"):
        BModel.read(compiled(embedding())).net("x")


def test_not_a_file(tmp_path: Path):
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("this is no model, but it is longer than a header, which has 64 bytes")
    with pytest.raises(ConvertError, match="cannot read .*missing: No such file"):
        BModel.read(tmp_path / "missing")
    with pytest.raises(ConvertError, match="cannot read"):
        BModel.read(tmp_path)
    with pytest.raises(ConvertError, match="empty is no .bmodel: the file is empty"):
        BModel.read(tmp_path / "empty")
    with pytest.raises(ConvertError, match="text is no whole .bmodel: it should begin with 0xff55aaee and begins with"):
        BModel.read(tmp_path / "text")


def test_cut_short(compiled: Compile, tmp_path: Path):
    whole = compiled(embedding()).read_bytes()
    path = tmp_path / "cut.bmodel"
    lengths = {
        1,
        63,
        64,
        65,
        4095,
        4096,
        len(whole) - 1,
        *np.random.default_rng(0).integers(1, len(whole), 50).tolist(),
    }
    for length in lengths:
        path.write_bytes(whole[:length])
        with pytest.raises(ConvertError, match=rf"cut.bmodel is no whole .bmodel: .*{length}"):
            BModel.read(path)


def test_flipped_bytes(compiled: Compile, tmp_path: Path):
    """Whatever the bytes say, reading gives a BModel or a ConvertError."""
    whole = compiled(embedding(), "bm1688").read_bytes()
    described = HEADER.size + HEADER.unpack_from(whole)[2]
    used = len(whole[:described].rstrip(b"\0"))
    blob = whole[described : described + 4096]
    path = tmp_path / "flipped.bmodel"
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(3000):
        head = bytearray(whole[:described])
        for at in random.integers(0, used, random.integers(1, 4)):
            head[at] = random.integers(256)
        path.write_bytes(head + blob)
        with path.open("r+b") as file:
            file.truncate(len(whole))  # the other blobs are a hole
        try:
            digest(path) if refused % 50 == 0 else BModel.read(path)
        except ConvertError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 500
