"""Whatever way a checkpoint was saved in, the weights are those that transformers' from_pretrained takes from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import family_checkpoints
import numpy as np
import pytest
import torch
from checkpoints import edit_config, edit_tensors, split_file
from plans import planned

from llmconv.blocks.drawing import LEFT
from llmconv.checkpoint import directory, recipe
from llmconv.checkpoint.directory import Weights
from llmconv.checkpoint.files import Checkpoint
from llmconv.errors import InputError
from llmconv.verify.reference import Reference
from llmconv.verify.source import foreign
from llmconv.verify.weights import Precision

PARTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


def whole_and_stale_parts(model: Path) -> None:
    """A fine-tuned model in one file beside the parts of the model that it was made from."""
    whole = (model / "model.safetensors").read_bytes()
    edit_tensors(model, lambda t: {name: 2 * values for name, values in t.items()})
    split_file(model, PARTS)
    (model / "model.safetensors").write_bytes(whole)


def whole_and_an_index_of_nothing(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text(
        '{"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}'
    )


def bare(model: Path) -> None:
    """A base model that was saved without its head."""
    edit_tensors(model, lambda t: {name.removeprefix("model."): values for name, values in t.items() if name != HEAD})


def other_head(model: Path) -> None:
    edit_tensors(model, lambda t: t.update({HEAD: t[TABLE].flip(0) * 0.5}))


def almost_the_table(model: Path) -> None:
    """One value of the last row tells them apart."""

    def change(tensors):
        tensors[HEAD] = tensors[TABLE].clone()
        tensors[HEAD][-1, -1] += 1

    edit_tensors(model, change)


def same_head(model: Path) -> None:
    edit_tensors(model, lambda t: t.update({HEAD: t[TABLE].clone()}))


def table_under_the_heads_name(model: Path) -> None:
    edit_tensors(model, lambda t: t.update({HEAD: t.pop(TABLE)}))


def as_published(model: Path) -> None:
    pass


WAYS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "as published": ("qwen2", as_published, ""),
    "tied": ("qwen2_tied", as_published, ""),
    "one file and stale parts": ("qwen2", whole_and_stale_parts, "model.safetensors holds the weights"),
    "one file and a stale index": ("qwen2", whole_and_an_index_of_nothing, "model.safetensors holds the weights"),
    "parts of other names": ("qwen2", lambda m: split_file(m, ("a.safetensors", "mtp.safetensors")), ""),
    "no prefix": ("qwen2_tied", bare, ""),
    "a head that is not the table": ("qwen2_tied", other_head, f"{HEAD} is not equal to {TABLE}"),
    "a head that is almost the table": ("qwen2_tied", almost_the_table, f"{HEAD} is not equal to {TABLE}"),
    "a head that is the table": ("qwen2_tied", same_head, ""),
    "a table under the head's name": ("qwen2_tied", table_under_the_heads_name, ""),
}


@pytest.fixture
def copy(checkpoint, tmp_path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(checkpoint(name), tmp_path / "model"))


def matrix(plan, net: str, part: str) -> np.ndarray:
    """float32 of the only matrix of a net that has `part` in its name."""
    (net,) = (one for one in plan.nets if one.name == net)
    (weight,) = (w for w in net.weights if part in w.name and min(w.shape) > 1 and "rope" not in w.recipe)
    return recipe.evaluate(weight.recipe, plan.checkpoint)


@pytest.mark.parametrize("way", WAYS)
def test_weights(way, copy):
    from transformers import AutoModelForCausalLM

    name, change, says = WAYS[way]
    model = copy(name)
    change(model)
    plan = planned(model)
    assert not foreign(plan)
    assert [says in note for note in plan.notes] == [True] if says else plan.notes == ()
    theirs = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    query = theirs.model.layers[1].self_attn.q_proj.weight.T
    table, head = theirs.get_input_embeddings().weight, theirs.lm_head.weight
    head = head if plan.spec.drawing.head == LEFT else head.T
    for net, part, right in (("embedding", "", table), ("lm_head", "", head), ("block_1", "q_proj.weight", query)):
        np.testing.assert_array_equal(matrix(plan, net, part), right.detach().numpy())
    hidden = np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)
    proved = Reference(plan, Precision()).logits(hidden)
    with torch.no_grad():
        right = theirs.lm_head(torch.from_numpy(hidden)).numpy()
    np.testing.assert_allclose(proved, right, rtol=1e-4, atol=1e-4)


def test_other_files_than_those_of_transformers_are_not_proved(copy, monkeypatch):
    """The rule stands in verification once more: a plan that takes stale parts is told from the model."""
    model = copy("qwen2")
    whole_and_stale_parts(model)
    monkeypatch.setattr(directory.Directory, "weights", Weights(PARTS, "stale"))
    assert foreign(planned(model)) == [
        f"the weights are those of {PARTS[0]}, {PARTS[1]}; transformers loads model.safetensors"
    ]


def test_a_reference_finds_a_head_that_the_plan_has_missed(copy, monkeypatch):
    """Whether a head counts is decided anew in verification."""
    from llmconv.plan import plan as planning

    model = copy("qwen2_tied")
    other_head(model)
    monkeypatch.setattr(planning, "with_own_head", lambda checkpoint, spec: (spec, []))
    plan = planned(model)
    assert plan.spec.tied
    hidden = np.random.default_rng(0).standard_normal((2, 256)).astype(np.float32)
    right = hidden @ plan.checkpoint.float32(HEAD).T
    np.testing.assert_allclose(Reference(plan, Precision()).logits(hidden), right, rtol=1e-4, atol=1e-4)


def test_a_table_and_its_equal_head_are_read_once(copy, monkeypatch):
    """Every plan asks whether the head is the table, which may be a gigabyte; one that was written since is read."""
    model, read = copy("qwen2_tied"), []
    same_head(model)
    raw = Checkpoint.raw
    monkeypatch.setattr(Checkpoint, "raw", lambda self, name, *more: read.append(name) or raw(self, name, *more))
    assert planned(model).spec.tied and {HEAD, TABLE} <= set(read)
    read.clear()
    assert planned(model, seq=128).spec.tied and not read
    other_head(model)
    assert not planned(model).spec.tied and read


def test_a_base_model_without_a_head_is_refused(copy):
    model = copy("qwen2")
    bare(model)
    with pytest.raises(InputError, match="has no head .*it is a base model, saved without one"):
        planned(model)


@pytest.mark.parametrize("tie", [True, False])
def test_a_head_under_the_prefix_of_the_language_model(tie, tmp_path):
    """As some tools save multimodal models; tied or not."""

    def change(tensors):
        table = tensors["language_model.model.embed_tokens.weight"]
        tensors["language_model.lm_head.weight"] = table.clone() if tie else table.flip(0)

    model = edit_config(family_checkpoints.make(tmp_path, "gemma3"), tie_word_embeddings=tie)
    plan = planned(edit_tensors(model, change))
    assert plan.spec.path("head") == "language_model.lm_head" and plan.spec.tied is tie
    hidden = np.random.default_rng(0).standard_normal((2, 256)).astype(np.float32)
    right = hidden @ plan.checkpoint.float32("language_model.lm_head.weight").T
    np.testing.assert_allclose(Reference(plan, Precision()).logits(hidden), right, rtol=1e-3, atol=1e-3)


def test_a_multimodal_base_model(vision_checkpoint, tmp_path):
    """Qwen2VLModel.save_pretrained leaves "model." out in front of the language model and the tower."""
    model = Path(shutil.copytree(vision_checkpoint("qwen2_vl"), tmp_path / "model"))
    edit_config(model, tie_word_embeddings=True)

    def change(tensors):
        tensors.pop(HEAD, None)
        return {
            name if name.startswith("visual.") else name.replace("model.", "language_model.", 1): values
            for name, values in tensors.items()
        }

    plan = planned(edit_tensors(model, change))
    reference = Reference(plan, Precision())
    (found,) = reference.weights(["model.language_model.layers.0.mlp.up_proj.weight"]).values()
    right = plan.checkpoint.float32("language_model.layers.0.mlp.up_proj.weight")
    np.testing.assert_array_equal(found.numpy(), right)
