"""Checkpoints and configs as people have them: what is no model says what it is and what helps, and what is one
plans, whatever lies beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import edit_config, edit_tensors, split_file
from plans import planned

from llmconv.errors import InputError
from llmconv.families import families, type_of

WHOLE = "model.safetensors"
LORA = {"base_model_name_or_path": "Qwen/Qwen2-7B", "peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}
PROJECTION = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def model(checkpoint, tmp_path) -> Path:
    return Path(shutil.copytree(checkpoint("llama"), tmp_path / "model"))


def adapter(model: Path, **config) -> None:
    (model / "adapter_config.json").write_text(json.dumps(config))
    (model / "adapter_model.safetensors").write_bytes((model / WHOLE).read_bytes())


def adapter_alone(model: Path) -> None:
    adapter(model, **LORA)
    (model / WHOLE).unlink()
    (model / "config.json").unlink()


def adapter_with_a_config(model: Path) -> None:
    adapter(model, **LORA)
    (model / WHOLE).unlink()


def unmerged(tensors: dict) -> None:
    path = PROJECTION.removesuffix("weight")
    tensors[f"{path}base_layer.weight"] = tensors.pop(PROJECTION)
    tensors[f"{path}lora_A.default.weight"] = torch.zeros(8, 256)
    tensors[f"{path}lora_B.default.weight"] = torch.zeros(256, 8)


def layers(change: Callable[[str, torch.Tensor], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    """Every projection in another form."""

    def damage(model: Path) -> None:
        def changed(tensors: dict) -> dict:
            made = {}
            for name, values in tensors.items():
                made |= change(name.removesuffix("weight"), values) if "_proj." in name else {name: values}
            return made

        edit_tensors(model, changed)

    return damage


def quanto(path: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    codes = {"weight._data": values.to(torch.int8), "weight._scale": values[:, :1].clone()}
    return {f"{path}{part}": found for part, found in (codes | {"input_scale": torch.ones(())}).items()}


def bitsandbytes(path: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    codes = torch.zeros(values.numel() // 2, 1, dtype=torch.uint8)
    state = {"weight.absmax": codes[:64].clone(), "weight.quant_state.bitsandbytes__nf4": codes[:100].clone()}
    return {f"{path}{part}": found for part, found in ({"weight": codes} | state).items()}


def mlx(path: str, values: torch.Tensor) -> dict[str, torch.Tensor]:
    rows, width = values.shape
    found = {"weight": torch.zeros(rows, width // 8, dtype=torch.uint32), "scales": torch.ones(rows, width // 64)}
    return {f"{path}{part}": one for part, one in (found | {"biases": found["scales"].clone()}).items()}


def renamed(before: str) -> Callable[[Path], None]:
    return lambda model: edit_tensors(model, lambda t: {before + name: values for name, values in t.items()}) and None


def by_meta(model: Path) -> None:
    """Meta's and Mistral's own names, in the file that the Hub's repositories call consolidated."""
    edit_tensors(
        model, lambda t: {n.replace("model.", "").replace("self_attn.q_proj", "attention.wq"): v for n, v in t.items()}
    )


def pointer(name: str) -> Callable[[Path], None]:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "ab" * 32 + "\nsize 4976698672\n"
    return lambda model: (model / name).write_text(text) and None


def moved(to: str) -> Callable[[Path], None]:
    return lambda model: (model / WHOLE).rename(model / to) and None


def part_missing(indexed: bool) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        split_file(model, [f"model-{n:05}-of-00003.safetensors" for n in (1, 2, 3)], indexed)
        (model / "model-00002-of-00003.safetensors").unlink()

    return damage


# what is done to a whole checkpoint -> what is said: the cause, and the advice
SAID: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "an adapter": (adapter_alone, ["a LoRA adapter of Qwen/Qwen2-7B", "Merge it into Qwen/Qwen2-7B", "--lora_max_rank 8"]),
    "an adapter with a config": (adapter_with_a_config, ["a LoRA adapter of Qwen/Qwen2-7B", "merge_and_unload"]),
    "layers with an adapter": (lambda m: edit_tensors(m, unmerged), ["lora_A", "not merged", "merge_and_unload"]),
    "PEFT's prefix": (renamed("base_model.model."), ["saved from around the model, by PEFT", "save_pretrained"]),
    "torch.compile's prefix": (renamed("_orig_mod."), ["_orig_mod.", "by a compiler or a trainer"]),
    "Meta's names": (by_meta, ["attention.wq.weight", "Meta's and Mistral's own names"]),
    "quanto": (layers(quanto), ["optimum-quanto", "float checkpoint"]),
    "bitsandbytes": (layers(bitsandbytes), ["bitsandbytes", "float checkpoint"]),
    "MLX": (layers(mlx), ["MLX", "float checkpoint"]),
    "MLX with its sections": (
        lambda m: edit_config(m, quantization={"group_size": 64, "bits": 4}, quantization_config={"group_size": 64, "bits": 4}),
        ["quantised in MLX's form (quantization in", "float checkpoint"],
    ),
    "ZeRO-3": (
        lambda m: edit_tensors(m, lambda t: {n: v if v.ndim == 1 else v.new_empty(0) for n, v in t.items()}),
        ["ZeRO-3", "zero_to_fp32.py"],
    ),
    "no tie": (lambda m: edit_tensors(m, lambda t: {n: v for n, v in t.items() if n != "lm_head.weight"}), ["no head", "set tie_word_embeddings to true"]),
    "a pointer": (pointer(WHOLE), [f"{WHOLE} is a pointer of git-lfs", "git lfs pull"]),
    "a tokenizer's pointer": (pointer("tokenizer.json"), ["tokenizer.json is a pointer of git-lfs", "git lfs pull"]),
    "pickled": (moved("pytorch_model.bin"), ["pickled weights", "never unpickles", "pytorch_model.bin"]),
    "GGUF": (moved("model-q4_k_m.gguf"), ["GGUF", "model-q4_k_m.gguf", "-m FILE.gguf"]),
    "ONNX": (moved("model.onnx"), ["ONNX", "model.onnx"]),
    "TensorFlow": (moved("tf_model.h5"), ["TensorFlow", "tf_model.h5"]),
    "Mistral's file": (moved("consolidated.safetensors"), ["Mistral's own names", "consolidated.safetensors"]),
    "nothing": (lambda m: (m / WHOLE).unlink(), ["holds no *.safetensors file"]),
    "a part is missing": (part_missing(True), ["lacks the shard model-00002-of-00003", "model.safetensors.index.json names it"]),
    "a part is missing, no index": (part_missing(False), ["lacks the shard model-00002-of-00003", "is one of 3"]),
    "fewer layers": (lambda m: edit_config(m, num_hidden_layers=3), ["has no layer 2", "num_hidden_layers of config.json is 3, it has 2"]),
    "another table": (lambda m: edit_config(m, vocab_size=1028), ["embed_tokens.weight", "[1024, 256]", "1028 and 256"]),
    "no type": (
        lambda m: edit_config(m, model_type=..., architectures=["MiniCPM3ForCausalLM"]),
        ["names no model_type", "MiniCPM3ForCausalLM, which llmconv does not know"],
    ),
    "neither": (lambda m: edit_config(m, model_type=..., architectures=None), ["names no model_type, and no architectures"]),
}  # fmt: skip


@pytest.mark.parametrize("case", SAID)
def test_what_is_no_model_says_what_it_is(case, model):
    damage, words = SAID[case]
    damage(model)
    with pytest.raises(InputError) as told:
        planned(model)
    assert all(word in str(told.value) for word in words), told.value
    assert "download is complete" not in str(told.value) and "\n" not in str(told.value)


def test_a_file_in_place_of_the_directory(model, tmp_path):
    for name in (WHOLE, "config.json"):
        with pytest.raises(InputError, match=f"{name} is a file: .* Say -m {model}"):
            planned(model / name)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "model.onnx").write_bytes(b"ONNX")
    with pytest.raises(InputError, match="is a file"):
        planned(tmp_path / "alone" / "model.onnx")


def test_the_folder_above(model):
    with pytest.raises(InputError, match=f"no config.json.* Its folder model has one: say -m {model}"):
        planned(model.parent)


def test_a_model_without_model_type_is_its_architectures(model, checkpoint):
    edit_config(model, model_type=...)
    made = planned(model)
    assert made.notes == ("config.json names no model_type: LlamaForCausalLM means llama",)
    assert made.config["model_type"] == "llama"
    assert [net.mlir for net in made.nets] == [net.mlir for net in planned(checkpoint("llama")).nets]


@pytest.mark.parametrize("model_type", sorted(families()))
def test_every_class_is_of_its_type(model_type):
    """The class that transformers has for a type means a type of the same family."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    )

    own = {"chatglm": "ChatGLMModel", "minicpm": "MiniCPMForCausalLM"}  # classes that transformers does not have
    names = (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    )
    found = next((table[model_type] for table in names if model_type in table), own.get(model_type))
    if found is None:
        assert model_type not in CONFIG_MAPPING, "no class of transformers"
        return
    assert families()[type_of(found)].name == families()[model_type].name


@pytest.mark.parametrize("name", ["Qwen3MoeForCausalLM", "MiniCPM3ForCausalLM", "Mistral3ForConditionalGeneration", ""])
def test_other_classes_are_of_none(name):
    assert type_of(name) is None


def test_an_adapter_beside_a_model_is_told(model):
    adapter(model, **LORA)
    (note,) = planned(model).notes
    assert note == "a LoRA adapter of Qwen/Qwen2-7B lies in model: it is not converted, only the weights beside it"


def test_what_else_lies_there_does_not_matter(model, checkpoint):
    """Files of other programs, of trainers, of other formats beside the weights."""
    whole = planned(checkpoint("llama"))
    for name in (
        "pytorch_model.bin",
        "consolidated.safetensors",
        "model.gguf",
        "optimizer.pt",
        "modeling_x.py",
        ".hidden",
    ):
        (model / name).write_bytes(b"anything")
    (model / "README.md").write_text("a model")
    (model / "onnx").mkdir()
    made = planned(model)
    assert [n.mlir for n in made.nets] == [n.mlir for n in whole.nets] and not made.notes
    assert made.copied == ("README.md", "config.json")


def stored(dtype: torch.dtype, *parts: str) -> Callable[[Path], None]:
    """The matrices, or those tensors alone that have a part in their names, in another type."""

    def change(tensors: dict) -> dict:
        return {n: v.to(dtype) if not parts or any(p in n for p in parts) else v for n, v in tensors.items()}

    return lambda model: edit_tensors(model, change) and None


@pytest.mark.parametrize("change, quantize, note", [
    (stored(torch.float16), "auto", "quantize auto: the checkpoint is float16 and not quantised, its weights become bf16"),
    (stored(torch.float32), "f16", "the checkpoint is float32: its weights are converted to float16"),
    (stored(torch.float64), "auto", "quantize auto: the checkpoint is float64 and not quantised, its weights become bf16"),
    (stored(torch.float32, "_proj"), "w4bf16", "the checkpoint is float32 and bfloat16: its weights are converted to bfloat16"),
    (stored(torch.float32, "norm"), "auto", ""),
    (lambda m: edit_config(m, torch_dtype="float16"), "auto", ""),
    (lambda m: edit_config(m, torch_dtype="float32"), "bf16", ""),
    (lambda m: edit_config(m, torch_dtype=...), "f16", "the checkpoint is bfloat16: its weights are converted to float16"),
])  # fmt: skip
def test_the_type_is_that_of_the_weights(change, quantize, note, model):
    """Whatever config.json says of it."""
    change(model)
    assert planned(model, quantize=quantize).notes == ((note,) if note else ())


def test_more_positions_than_the_model_is_made_for(model):
    edit_config(model, max_position_embeddings=128, rope_scaling=...)
    assert planned(model, 128).notes == ()
    (note,) = planned(model, 129).notes
    assert "seq_length 129 is more than the 128 positions" in note and "max_position_embeddings" in note
    edit_config(model, rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128})
    assert planned(model, 512).notes == ()
    (note,) = planned(model, 513).notes
    assert "the 512 positions" in note
    edit_config(model, max_position_embeddings=..., rope_scaling=...)
    assert planned(model, 4096).notes == (), "nothing is known of it"


def test_choices_in_any_case(model):
    job = planned(model, chip="BM1688", quantize="W4BF16").job
    assert (job.chip, job.quantize) == ("bm1688", "w4bf16")


def test_a_folder_of_the_hubs_cache_is_its_snapshot(model, tmp_path):
    folder = tmp_path / "models--Qwen--Qwen2-tiny"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(model, folder / "snapshots" / commit)
    with pytest.raises(InputError, match=r"holds 2 snapshots of a model.*Name one: .*snapshots/a{40}, "):
        planned(folder)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("b" * 40)
    assert planned(folder).job.model_path == folder / "snapshots" / ("b" * 40)
    shutil.rmtree(folder / "snapshots" / ("b" * 40))
    assert planned(folder).job.model_path == folder / "snapshots" / ("a" * 40)


@pytest.mark.parametrize("name", ["18 我的模型/Qwen2 微调 (v1)", "models--odd", "dots.v1.5-Instruct"])
def test_paths_as_people_have_them(name, model, tmp_path):
    place = tmp_path / "at" / name
    shutil.copytree(model, place)
    assert planned(place, out=tmp_path / "out").job.model_path == place
