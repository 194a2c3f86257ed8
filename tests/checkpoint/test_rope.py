"""Rotary tables against transformers: its frequency functions and its rotary modules, for every type and form of
config."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmconv.checkpoint import rope
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError

DIM = 64
BASE = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "vocab_size": 128,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
FACTORS = {
    "short_factor": [1.0 + 0.02 * i for i in range(DIM // 2)],
    "long_factor": [1.0 + 0.4 * i for i in range(DIM // 2)],
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 2048,
}
SCALINGS = {
    "default": None,
    "default by name": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 3.0},
    "linear, old form": {"type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": LLAMA3,
    "llama3 without its original length": {k: v for k, v in LLAMA3.items() if not k.startswith("original")},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    "yarn without its original length": {"rope_type": "yarn", "factor": 4.0},
    "yarn with betas": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 16,
        "beta_slow": 2,
    },
    "yarn with mscale": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
    },
    "yarn with attention_factor": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.3},
    "yarn not truncated": {
        "rope_type": "yarn",
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "longrope": {"rope_type": "longrope", **FACTORS, "original_max_position_embeddings": 1024},
    "longrope, old form": {"type": "longrope", **FACTORS, "original_max_position_embeddings": 1024},
    "longrope with factor": {
        "rope_type": "longrope",
        **FACTORS,
        "original_max_position_embeddings": 1024,
        "factor": 16.0,
    },
    "longrope with attention_factor": {
        "rope_type": "longrope",
        **FACTORS,
        "original_max_position_embeddings": 1024,
        "attention_factor": 1.2,
    },
}


def read(tmp_path: Path, data: dict) -> Config:
    (tmp_path / "config.json").write_text(json.dumps(data))
    return Config.read(tmp_path)


def config_of(scaling: dict | None, form: str) -> dict:
    """A config.json with the scaling in the old form (rope_theta and rope_scaling) or the new one (rope_parameters)."""
    if form == "rope_scaling":
        return BASE | ({"rope_scaling": scaling} if scaling else {})
    old = {k: v for k, v in BASE.items() if k != "rope_theta"}
    return old | {"rope_parameters": {"rope_type": "default", "rope_theta": BASE["rope_theta"]} | (scaling or {})}


def transformers_config(data: dict):
    import copy

    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[data["model_type"]].from_dict(copy.deepcopy(data))


@pytest.mark.parametrize("length", [512, 4096])
@pytest.mark.parametrize(
    "name, form",
    [(n, "rope_scaling") for n in SCALINGS] + [(n, "rope_parameters") for n in SCALINGS if "old form" not in n],
)
def test_frequencies(name, form, length, tmp_path):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    data = config_of(SCALINGS[name], form)
    given = read(tmp_path, data).rope(DIM)
    rope.check(given, length)
    found, attention = rope.inverse_frequencies(given, length)
    theirs = transformers_config(data)
    kind = theirs.rope_parameters["rope_type"]
    if kind == "default":
        right, right_attention = LlamaRotaryEmbedding.compute_default_rope_parameters(theirs)
    else:
        right, right_attention = ROPE_INIT_FUNCTIONS[kind](theirs, None, seq_len=length)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, right.numpy(), rtol=3e-7)
    assert attention == pytest.approx(right_attention, rel=1e-12)


@pytest.mark.parametrize("name", SCALINGS)
def test_tables_are_what_the_rotary_module_gives(name, tmp_path):
    import torch
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    length = 2048
    data = config_of(SCALINGS[name], "rope_scaling")
    given = read(tmp_path, data).rope(DIM)
    cos, sin = LlamaRotaryEmbedding(transformers_config(data))(torch.zeros(1), torch.arange(length)[None])
    for part, right in (("cos", cos), ("sin", sin)):
        table = rope.table(given, length, part)
        assert table.shape == (length, 1, DIM) and table.dtype == np.float32
        # an ulp of a frequency is 1e-7 of up to 2048 radians
        assert np.abs(table[:, 0] - right[0].numpy()).max() < 4e-4
        assert np.abs(table[:64, 0] - right[0, :64].numpy()).max() < 1e-5


def test_part_of_a_head_is_rotated(tmp_path):
    """partial_rotary_factor, beside the parameters or in them."""
    import torch
    from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

    for extra in (
        {"partial_rotary_factor": 0.75},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.75}},
    ):
        data = BASE | {"model_type": "phi3", "pad_token_id": 0, "rope_theta": 1e4} | extra
        given = read(tmp_path, data).rope(DIM)
        assert given["dim"] == 48
        cos, _ = Phi3RotaryEmbedding(transformers_config(data))(torch.zeros(1), torch.arange(100)[None])
        assert np.abs(rope.table(given, 100, "cos")[:, 0] - cos[0].numpy()).max() < 2e-5


def test_neighbours_are_the_same_angles_pair_by_pair(tmp_path):
    """The layout of interleaved pairs: every angle twice, then no rotation for the rest of the head."""
    given = read(tmp_path, BASE).rope(DIM // 2)
    halves, pairs = rope.table(given, 50, "sin"), rope.table(given | {"neighbours": DIM}, 50, "sin")
    np.testing.assert_array_equal(pairs[..., 0 : DIM // 2 : 2], halves[..., : DIM // 4])
    np.testing.assert_array_equal(pairs[..., 1 : DIM // 2 : 2], halves[..., : DIM // 4])
    assert not pairs[..., DIM // 2 :].any()
    assert (rope.table(given | {"neighbours": DIM}, 50, "cos")[..., DIM // 2 :] == 1).all()


def test_the_same_values_in_either_form(tmp_path):
    for scaling in (LLAMA3, SCALINGS["yarn"], SCALINGS["longrope"], None):
        old, new = (read(tmp_path, config_of(scaling, form)).rope(DIM) for form in ("rope_scaling", "rope_parameters"))
        assert rope.inverse_frequencies(old, 4096)[0].tolist() == rope.inverse_frequencies(new, 4096)[0].tolist()


@pytest.mark.parametrize(
    "scaling, word",
    [
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor"),
        ({"rope_type": "spiral"}, "spiral"),
        ({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0] * 32}, "short_factor"),
        ({"rope_type": "yarn"}, "factor"),
    ],
)
def test_what_gives_no_table_is_refused(scaling, word, tmp_path):
    with pytest.raises(InputError, match=word):
        rope.check(read(tmp_path, BASE | {"rope_scaling": scaling}).rope(DIM), 512)


def test_dynamic_rope_is_refused_where_it_would_change(tmp_path):
    given = read(tmp_path, BASE | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}).rope(DIM)
    rope.check(given, 8192)
    with pytest.raises(InputError, match="8192"):
        rope.check(given, 8193)
