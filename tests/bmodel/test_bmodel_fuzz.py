"""Random damage to a .bmodel: a description, or one sentence, in bounded time and memory."""

from __future__ import annotations

import pytest
from fuzzing import bounded, cases
from hypothesis import given
from hypothesis import strategies as st
from sample_nets import embedding

from llmconv.bmodel.describe import describe
from llmconv.errors import ConvertError

pytestmark = pytest.mark.compiler
PIECES = st.binary(min_size=1, max_size=8) | st.sampled_from(
    [b"\xff" * 4, b"\0" * 8, b"\xff\xff\xff\x7f", b"\x01\0\0\0"]
)


@given(data=st.data())
@cases(300)
def test_damaged_files(compiled, data, tmp_path_factory):
    content = bytearray(compiled(embedding()).read_bytes())
    size = len(content)
    head = st.integers(0, min(size - 1, 8192))  # where the header and the tables are
    for _ in range(data.draw(st.integers(1, 6))):
        at, piece = data.draw(head | st.integers(0, size - 1)), data.draw(PIECES)
        content[at : at + len(piece)] = piece
    content = content[: data.draw(st.sampled_from([size] * 5 + [0, 8, 63, 64, size - 1, size // 2]))]
    broken = tmp_path_factory.getbasetemp() / "broken.bmodel"
    broken.write_bytes(content)
    assert isinstance(bounded(lambda: describe(broken), ConvertError), (dict, ConvertError))
