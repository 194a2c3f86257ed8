"""Coefficients without a compiler: layout, chunks, what is refused."""

import hashlib
import io
import tracemalloc

import numpy as np
import pytest
from lower_samples import checkpoint_of, linears, ours, packed, save
from xxhash import xxh3_128_hexdigest

from llmconv.coefficients import blob as coefficients
from llmconv.coefficients.errors import NotCovered
from llmconv.top.graph import Graph

W4 = {"chip": "bm1684x", "mode": "W4BF16", "q_group_size": 64, "num_core": 1}


def pieces(blob):
    return [(p.place, p.offset, p.nbytes) for p in blob.pieces]


def test_order_and_alignment(tmp_path):
    g = linears((256, 200))
    blob = ours(g, checkpoint_of(g, tmp_path, "BF16"), W4)
    assert pieces(blob) == [
        ("tpu.A16MatMul.bias", 0, 384),
        ("tpu.MatMul.bias", 4096, 16),
        ("tpu.MatMul.weight", 8192, 4096),
        ("tpu.A16MatMul.zp", 12288, 768),
        ("tpu.A16MatMul.scale", 16384, 1536),
        ("tpu.A16MatMul.weight", 20480, 24576),
    ]
    assert blob.size == 45056


def test_parts_write_and_digest_agree(tmp_path):
    g = linears((256, 200))
    blob = ours(g, checkpoint_of(g, tmp_path, "F16"), W4)
    data, file = b"".join(blob.parts()), io.BytesIO()
    written = blob.write(file)
    assert written.sha256 == blob.sha256 == hashlib.sha256(data).hexdigest()
    assert written.size == len(data) and written.xxh3 == xxh3_128_hexdigest(data)
    assert file.getvalue() == data and len(data) == blob.size


@pytest.mark.parametrize("mode", ["BF16", "W4BF16", "W8F16"])
def test_the_size_of_chunks_does_not_matter(tmp_path, monkeypatch, mode):
    g = linears((256, 200))
    blob = ours(g, checkpoint_of(g, tmp_path, "BF16"), W4 | {"mode": mode})
    whole = b"".join(blob.parts())
    monkeypatch.setattr(coefficients, "CHUNK", 1024)
    monkeypatch.setattr(coefficients, "QUANTISED", 1024)
    monkeypatch.setattr(coefficients, "COPY", 100)
    monkeypatch.setattr(coefficients, "BLOCK", 5000)
    assert b"".join(blob.parts()) == whole


def dense(n, path):
    g = linears((256, n))
    return g, checkpoint_of(g, path, "BF16")


LARGE = {
    "bf16": ("BF16", dense, 200),
    "fewer columns than lanes": ("W4BF16", dense, 40),
    "columns that are left over": ("W4BF16", dense, 216),
    "codes of the checkpoint": ("W4BF16", lambda n, path: packed(256, n, 4, 64, path)[:2], 200),
}


@pytest.mark.parametrize("case", LARGE)
def test_a_large_weight_is_transposed_in_its_file_and_read_once(case, tmp_path, monkeypatch):
    mode, made, n = LARGE[case]
    g, checkpoint = made(n, tmp_path)
    blob = ours(g, checkpoint, W4 | {"mode": mode})
    whole = b"".join(blob.parts())
    # blocks of 64 columns, which is the least
    for constant, value in (("CHUNK", 1024), ("QUANTISED", 1024), ("COPY", 100), ("BLOCK", 2000)):
        monkeypatch.setattr(coefficients, constant, value)
    read, raw = [], type(checkpoint).raw
    monkeypatch.setattr(type(checkpoint), "raw", lambda *of, **more: read.append(of[1:]) or raw(*of, **more))
    with (tmp_path / "coefficients").open("w+b") as file:
        file.write(b"before")
        assert blob.write(file).sha256 == hashlib.sha256(whole).hexdigest()
        file.write(b"after")
        file.seek(0)
        assert file.read() == b"before" + whole + b"after"
    rows = [str(of) for of in read if "bias" not in of[0]]
    assert len(rows) == len(set(rows)) > 1


def test_memory_stays_far_below_a_float_copy(tmp_path):
    k, n = 2048, 8192
    g = linears((k, n), bias=False)
    rows = np.random.default_rng(0).integers(0x3C00, 0x3D00, (n, k)).astype(np.uint16)
    checkpoint = save(tmp_path, {"m.0.p.weight": ("BF16", rows)})
    del rows
    for mode, limit in (("BF16", 2 * k * n), ("W4BF16", k * n)):
        tracemalloc.start()
        for _ in ours(g, checkpoint, W4 | {"mode": mode}).parts():
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit + (8 << 20), mode


def test_rows_of_a_fused_tensor_are_read_as_a_tensor_of_their_own(tmp_path):
    g = linears((256, 200))
    checkpoint = checkpoint_of(g, tmp_path / "plain", "BF16")
    rows = np.concatenate(
        [np.zeros((40, 256), np.uint16), checkpoint.raw("m.0.p.weight"), np.zeros((16, 256), np.uint16)]
    )
    fused = save(
        tmp_path / "fused", {"m.0.qkv.weight": ("BF16", rows), "m.0.p.bias": ("BF16", checkpoint.raw("m.0.p.bias"))}
    )
    h = Graph("net")
    x, b = h.input("x0", (1, 8, 256)), h.weight("m.0.p.bias", (1, 1, 200), ("tensor", "m.0.p.bias"))
    w = h.weight("m.0.p.weight", (256, 200), ("transpose", ("rows", ("tensor", "m.0.qkv.weight"), 40, 240, 256)))
    h.output(h.MatMul(x, w, b, name="m.0.p"))
    for mode in ("BF16", "W4BF16"):
        assert ours(h, fused, W4 | {"mode": mode}).sha256 == ours(g, checkpoint, W4 | {"mode": mode}).sha256


def test_recipes_that_are_evaluated_whole(tmp_path):
    g = linears((256, 128), bias=False)
    checkpoint = checkpoint_of(g, tmp_path / "a", "F32")
    h = Graph("net")
    w = h.weight("m.0.p.weight", (256, 128), ("add", ("transpose", ("tensor", "m.0.p.weight")), -0.0))
    h.output(h.MatMul(h.input("x0", (1, 8, 256)), w, h.none, name="m.0.p"))
    for mode in ("F16", "W8BF16"):
        assert ours(h, checkpoint, W4 | {"mode": mode}).sha256 == ours(g, checkpoint, W4 | {"mode": mode}).sha256


def test_cuts_for_cores_come_from_the_template(tmp_path):
    g = linears((256, 256))
    flags = W4 | {"chip": "bm1688", "num_core": 2}
    checkpoint = checkpoint_of(g, tmp_path, "BF16")
    with pytest.raises(NotCovered, match="without a template"):
        ours(g, checkpoint, flags)
    whole = [
        ("tpu.A16MatMul.bias", 1),
        ("tpu.A16MatMul.zp", 1),
        ("tpu.A16MatMul.scale", 1),
        ("tpu.A16MatMul.weight", 8),
    ]
    halves = [(place, max(1, pages // 2)) for place, pages in whole for _ in range(2)]
    contents = []
    for table in (whole, halves):
        ends = np.cumsum([pages for _, pages in table]) * 4096
        locations = [(place, int(end) - pages * 4096, pages * 4096) for (place, pages), end in zip(table, ends)]
        blob = ours(g, checkpoint, flags, locations)
        data = b"".join(blob.parts())
        contents.append([data[p.offset : p.offset + p.nbytes] for p in blob.pieces])
    one, two = contents
    assert one[0] == two[0] + two[1] and one[3] == two[6] + two[7]
    lanes = [np.frombuffer(x, np.uint8).reshape(32, -1, 4) for x in (one[1], two[2], two[3])]
    assert np.array_equal(lanes[0], np.concatenate(lanes[1:], 1))


@pytest.mark.parametrize(
    ("locations", "why"),
    [
        ([("tpu.MatMul.weight", 0, 8192)], "8192 bytes expected|4096 found|unknown layout"),
        ([], "nothing found"),
        ([("tpu.MatMul.weight", 0, 65536), ("tpu.Add.1", 65536, 4096)], "1 coefficients more"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, locations, why):
    g = linears((256, 128), bias=False)
    with pytest.raises(NotCovered, match=why):
        ours(g, checkpoint_of(g, tmp_path, "BF16"), W4 | {"mode": "BF16"}, locations)


def unknown_op(g, x):
    return g.Add(x, g.weight("w", (1, 8, 64), ("tensor", "w")), name="a")


def twice(g, x):
    w = g.weight("w", (1, 1, 64), ("tensor", "w"))
    return g.RMSNorm(g.RMSNorm(x, w, eps=1e-6, name="a"), w, eps=1e-6, name="b")


@pytest.mark.parametrize(("build", "why"), [(unknown_op, "weight w of Add"), (twice, "used twice")])
def test_graphs_that_are_not_covered(tmp_path, build, why):
    g = Graph("net")
    g.output(build(g, g.input("x", (1, 8, 64))))
    checkpoint = save(tmp_path, {"w": ("F32", np.ones((1, 8, 64), np.float32))})
    with pytest.raises(NotCovered, match=why):
        ours(g, checkpoint, W4)


@pytest.mark.parametrize(
    "flags", [{"mode": "F32"}, {"chip": "bm1690"}, {"num_device": 2}, {"q_group_size": 0}, {"q_group_size": -1}]
)
def test_flags_that_are_not_covered(tmp_path, flags):
    g = linears((256, 128))
    with pytest.raises(NotCovered):
        ours(g, checkpoint_of(g, tmp_path, "BF16"), W4 | flags)
