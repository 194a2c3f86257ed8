"""The compiler's weight files: the values of recipes, cut and turned in all the ways that nets cut and turn them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llmconv.checkpoint import npz
from llmconv.checkpoint.files import Checkpoint
from llmconv.checkpoint.recipe import shape
from llmconv.top.graph import Weight

TENSORS = {"a": (300, 64), "b": (77, 64), "c": (50, 64), "d": (50, 64), "narrow": (300, 32), "line": (64,)}
KINDS = {"c": torch.float16, "d": torch.float32}
STORED = {"bf16": np.uint16, "f16": np.uint16, "f32": np.float32, "ui8": np.uint8}

A, B, C, D = (("tensor", name) for name in "abcd")
BELOW = ("concat", A, B, C, D)


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, dict[str, np.ndarray]]:
    """A checkpoint, and the values of its tensors."""
    folder, random = tmp_path_factory.mktemp("npz"), torch.Generator().manual_seed(3)
    given = {n: torch.randn(s, generator=random).to(KINDS.get(n, torch.bfloat16)) for n, s in TENSORS.items()}
    save_file(given, folder / "model.safetensors")
    return Checkpoint.open(folder), {name: values.float().numpy() for name, values in given.items()}


def turned(inner: tuple) -> tuple:
    return ("transpose", inner)


def rows(inner: tuple, first: int, last: int) -> tuple:
    return ("rows", inner, first, last)


def below(v: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([v["a"], v["b"], v["c"], v["d"]])


CASES = {
    "whole": (turned(A), lambda v: v["a"].T),
    "rows": (turned(("rows", A, 3, 90, 300)), lambda v: v["a"][3:90].T),
    "rows of rows": (turned(rows(rows(A, 10, 60), 5, 9)), lambda v: v["a"][15:19].T),
    "several, of all types": (turned(BELOW), lambda v: below(v).T),
    "first and last of several": (
        turned(("concat", rows(BELOW, 0, 310), rows(BELOW, 376, 477))),
        lambda v: np.concatenate([below(v)[:310], below(v)[376:]]).T,
    ),
    "of the middle": (turned(rows(BELOW, 310, 330)), lambda v: below(v)[310:330].T),
    "from one's end to the next": (turned(rows(BELOW, 300, 377)), lambda v: v["b"].T),
    "turned twice": (turned(rows(turned(turned(A)), 5, 9)), lambda v: v["a"][5:9].T),
    "what has to be turned first": (
        turned(("concat", A, turned(turned(("concat", turned(turned(B))))))),
        lambda v: np.concatenate([v["a"], v["b"]]).T,
    ),
    "rows of a transpose": (turned(rows(turned(A), 5, 9)), lambda v: v["a"][:, 5:9]),
    "not turned": (rows(A, 2, 8), lambda v: v["a"][2:8]),
    "a line": (("tensor", "line"), lambda v: v["line"]),
    "a constant": (("fill", (5, 7), 0.01), lambda v: np.full((5, 7), 0.01, np.float32)),
}


def bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """As the file has them; nothing here is denormal."""
    half = {"bf16": torch.bfloat16, "f16": torch.float16}.get(dtype)
    return torch.from_numpy(values).to(half).view(torch.int16).numpy().view(np.uint16) if half else values


def read(path: Path, recipe: tuple, checkpoint: Checkpoint, dtype: str) -> np.ndarray:
    npz.write(path, [Weight("w", shape(recipe, checkpoint), recipe, dtype)], checkpoint)
    with np.load(path) as archive:
        return archive["w"]


@pytest.mark.parametrize("block", [npz.BLOCK, 1000])
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("case", CASES)
def test_values(case: str, dtype: str, block: int, tensors: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(npz, "BLOCK", block)
    (recipe, wanted), (checkpoint, values) = CASES[case], tensors
    found = read(tmp_path / "w.npz", recipe, checkpoint, dtype)
    assert found.dtype == STORED[dtype]
    np.testing.assert_array_equal(found, bits(np.ascontiguousarray(wanted(values)), dtype))


def test_codes(tensors: tuple, tmp_path: Path):
    np.testing.assert_array_equal(
        read(tmp_path / "w.npz", ("fill", (3, 4), 7.0), tensors[0], "ui8"), np.full((3, 4), 7, np.uint8)
    )


def test_tensors_of_two_widths_do_not_lie_one_below_the_other(tensors: tuple, tmp_path: Path):
    recipe = turned(("concat", A, ("tensor", "narrow")))
    with pytest.raises(ValueError, match="dimension"):
        read(tmp_path / "w.npz", recipe, tensors[0], "bf16")
