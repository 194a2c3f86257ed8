"""README and docs/: tables that are made from the code (pytest tests/test_readme.py --update-golden writes them), names
that must not be forgotten, and links that lead somewhere.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import support
from test_layers import FLOORS, LEVEL

from llmconv.checkpoint.quantised import METHODS
from llmconv.families import families
from llmconv.request.options import OPTIONS, Option

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
NOTHING = "nothing"
EFFECTS = {
    "model_path": "the weights and sizes of every net",
    "seq_length": "history inputs and mask of `block_cache_i`, rotary tables; length of `embedding` and `block_i` unless set apart",
    "quantize": "coefficients of the blocks; bf16 or f16 in and between all nets",
    "q_group_size": "scales and zero points of the blocks' linear layers",
    "symmetric": "the same (w4 and w8 alone); zero points become 8 or 128",
    "keep_half": "these linear layers are in half precision in `block_i` and `block_cache_i`; the others of their nets are quantised by llmconv",
    "quantize_head": "`lm_head` multiplies by codes in groups of `q_group_size` (64 where the blocks have none); in a tied model they are coefficients of its own beside the token table",
    "chip": "the program of every net",
    "num_device": "pp (3 or more): `..._dev<k>.bmodel` files with runs of layers, and `..._combine.json`; tp (bm1684x): a part per device of every `block`, the final norm in `lm_head`",
    "distribute_strategy": "which of the two; tp needs Llama's form of layer with down projections of more than 4,194,304 weights",
    "num_core": "the program of every net",
    "graph": "fast: order and pieces of the MLP in `block_i` and `block_cache_i`, linears with the same input as one, side and layout of the weight in `lm_head`, axes of hidden states in `vit`; fastest: in a tied model also coefficients of its own in `lm_head`; vendor: the programs and coefficients of tpu_mlir's own converter, byte for byte",
    "tune": "the same as `graph` fast or fastest, by what the compiler counts for this model instead of by a table",
    "batch": "`block_cache_i` takes B sequences (mask [B,1,1,S]), and writes k and v into the last row of its history inputs",
    "max_input_length": "length L of `embedding` and `block_i`",
    "max_prefill_kv_length": "history inputs P of `block_i`, length of `block_prompt_i`",
    "use_block_with_kv": "`block_i` gets history_k and history_v, its mask P + L columns",
    "share_prompt": "as use_block_with_kv, and `block_prompt_i` without history is added",
    "use_history_kv": "`block_kv_i` with history is added; prefill without mask input, dynamic",
    "chunk_length": "`block_cache_i` gets stages for shorter histories; length of prefill with use_history_kv",
    "mmproj": "the tower's nets",
    "max_pixels": "number of patches that the `vit` net takes, (W / patch) * (H / patch)",
    "exact_audio": "`audio` takes all chunks that the model hears together, and masks (qwen3_asr: `[8,1,128,100]`, `[1,1,104,104]` to `[104,H]`)",
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


def hold(page: Path, mark: str, text: str, update: bool) -> None:
    """Compare what stands between a page's two marks with a text, or write it there."""
    begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
    before, rest = page.read_text().split(begin)
    found, after = rest.split(end)
    if update:
        page.write_text(before + begin + text + end + after)
        return
    assert found == text, "right? pytest tests/test_readme.py --update-golden"


def test_the_option_table(request):
    head = ["| option | default | meaning | what it changes in the .bmodel |", "| --- | --- | --- | --- |"]
    table = "\n".join([*head, *map(row, OPTIONS)]) + "\n"
    hold(DOCS / "options.md", "option table", table, request.config.getoption("--update-golden"))


def floors() -> str:
    """The floors of test_layers as a Mermaid diagram, the top one first."""
    lines = ["```mermaid", "flowchart TB"]
    for level, (rooms, why) in enumerate(FLOORS):
        lines.append(f'  f{level}["<b>{"</b> &nbsp; <b>".join(sorted(rooms))}</b><br/>{why}"]')
    lines.append("  " + " --> ".join(f"f{level}" for level in range(len(FLOORS))))
    return "\n".join([*lines, "```"]) + "\n"


def test_the_picture_of_the_floors(request):
    hold(DOCS / "architecture.md", "floors", floors(), request.config.getoption("--update-golden"))


def test_every_room_has_its_line():
    text = (DOCS / "architecture.md").read_text().partition("## Packages")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.M)) == LEVEL.keys()


def test_the_support_matrix(request):
    assert support.PROVED.keys() == {family.name for family in families().values()}
    hold(README, "support matrix", support.matrix(), request.config.getoption("--update-golden"))


def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may say, by GitHub's rule."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    """`plan/net.py` is a file of llmconv/, of tests/, or of the whole; a name alone may lie anywhere."""
    for name in re.findall(r"`([\w./]+\.pyi?)`", page.read_text()):
        places = (ROOT, ROOT / "llmconv", ROOT / "tests", ROOT / "tests" / "families")
        alone = "/" not in name and any((ROOT / room).rglob(name) for room in ("llmconv", "tasks", "tests"))
        assert alone or any((place / name).is_file() for place in places) or name.endswith("/NAME.py"), name


def test_every_page_is_linked_from_the_readme():
    assert {page.name for page in DOCS.glob("*.md")} <= set(re.findall(r"\(docs/([\w-]+\.md)\)", README.read_text()))


@pytest.mark.parametrize("page", [README, DOCS / "device.md", DOCS / "families.md"], ids=lambda page: page.name)
def test_every_family_is_named(page):
    text = page.read_text()
    assert [name for name in sorted(families()) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", [README, DOCS / "quantised.md"], ids=lambda page: page.name)
def test_every_method_of_quantisation_is_named(page):
    text = page.read_text()
    assert [name for name in METHODS if f"`{name.removeprefix('intel/')}`" not in text] == []


def test_the_example_of_a_family_is_the_family():
    example = re.search(r"```python\n(.*?)```", (DOCS / "add-a-family.md").read_text(), re.S)[1]
    assert example.strip() == (ROOT / "llmconv" / "families" / "qwen3.py").read_text().strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_to_fill_in(page):
    assert "@@" not in page.read_text()
