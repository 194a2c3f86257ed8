"""The README's table of options is made from the options themselves (pytest tests/test_readme.py --update-golden writes
it)."""

from __future__ import annotations

import re
from pathlib import Path

from llmconv.checkpoint.quantised import METHODS
from llmconv.families import families
from llmconv.request.options import OPTIONS, Option

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- option table -->\n", "<!-- end of option table -->"
NOTHING = "nothing"
EFFECTS = {
    "model_path": "the weights and sizes of every net",
    "seq_length": "history inputs and mask of `block_cache_i`, rotary tables; length of `embedding` and `block_i` unless set apart",
    "quantize": "coefficients of the blocks; bf16 or f16 in and between all nets",
    "q_group_size": "scales and zero points of the blocks' linear layers",
    "symmetric": "the same (w4 and w8 alone); zero points become 8 or 128",
    "chip": "the program of every net",
    "num_device": "pp (3 or more): `..._dev<k>.bmodel` files with runs of layers, and `..._combine.json`; tp (bm1684x): a part per device of every `block`, the final norm in `lm_head`",
    "distribute_strategy": "which of the two; tp needs Llama's form of layer with down projections of more than 4,194,304 weights",
    "num_core": "the program of every net",
    "batch": "`block_cache_i` takes B sequences (mask [B,1,1,S]), and writes k and v into the last row of its history inputs",
    "max_input_length": "length L of `embedding` and `block_i`",
    "max_prefill_kv_length": "history inputs P of `block_i`, length of `block_prompt_i`",
    "use_block_with_kv": "`block_i` gets history_k and history_v, its mask P + L columns",
    "share_prompt": "as use_block_with_kv, and `block_prompt_i` without history is added",
    "use_history_kv": "`block_kv_i` with history is added; prefill without mask input, dynamic",
    "chunk_length": "`block_cache_i` gets stages for shorter histories; length of prefill with use_history_kv",
    "max_pixels": "number of patches that the `vit` net takes, (W / patch) * (H / patch)",
    "lora_max_rank": "A and B of rank r beside every linear of a block (routed experts aside); `lm_head` gives logits; adds `embedding_lora`, `embedding_cache_lora`, `lm_head_lora` and the sampling heads",
    "do_sample": "`lm_head` gives logits; adds `greedy_head` and `sample_head`",
    "embedding_disk": "no `embedding` and `embedding_cache`; `config/embedding.bin` instead",
    "dynamic": "`block_i` (and its variants) run at any length up to theirs, of prompt and history",
    "rvti": "refused: none of these chips has it",
    "only_mlir": "none is written",
    "dry_run": "none is written",
}


def row(option: Option) -> str:
    names = ", ".join(f"`{n}`" for n in (*option.flags, f"--{option.name}"))
    default = "" if option.default in (None, "", False) or option.group == "required" else f"`{option.default}`"
    choices = f" ({', '.join(option.choices)})" if option.choices else ""
    return f"| {names} | {default} | {option.help}{choices} | {EFFECTS.get(option.name, NOTHING)} |"


def test_the_option_table(request):
    table = (
        "\n".join(
            [
                "| option | default | meaning | what it changes in the .bmodel |",
                "| --- | --- | --- | --- |",
                *map(row, OPTIONS),
            ]
        )
        + "\n"
    )
    before, rest = README.read_text().split(BEGIN)
    found, after = rest.split(END)
    if request.config.getoption("--update-golden"):
        README.write_text(before + BEGIN + table + END + after)
        return
    assert found == table


def test_every_family_is_named():
    text = README.read_text()
    assert [name for name in sorted(families()) if f"`{name}`" not in text] == []


def test_every_method_of_quantisation_is_named():
    text = README.read_text()
    assert [name for name in METHODS if f"`{name.removeprefix('intel/')}`" not in text] == []


def test_the_example_of_a_family_is_the_family():
    example = re.search(r"```python\n(.*?)```", README.read_text(), re.S)[1]
    assert example.strip() == (ROOT / "llmconv" / "families" / "qwen3.py").read_text().strip()


def test_nothing_is_left_to_fill_in():
    assert "@@" not in README.read_text()
