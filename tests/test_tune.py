"""--tune: which graphs there are to choose from, which is taken, and what is remembered of it; nothing is compiled."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_golden_nets
from checkpoints import headers as write_headers
from checkpoints import published
from test_golden_nets import CONVOLVING, EXPERTS, FAMILIES, HYBRID, PIXELS

import llmconv
from llmconv.blocks.drawing import GATE_UP, KV, LEFT, QKV, RIGHT, TABLE, VENDOR, Drawing
from llmconv.cli.main import main
from llmconv.errors import InputError
from llmconv.plan.candidates import Candidate, Forms, Measured
from llmconv.plan.measures import measures
from llmconv.plan.plan import plan
from llmconv.plan.record import Record
from llmconv.plan.tuned import FOLDER, Tuning, planned, with_drawing
from llmconv.request.request import Request

ROOT = Path(__file__).parents[1]
SIZES = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3}
FEW = ("qwen2_tied", "qwen2_moe", "chatglm", "qwen3_vl", HYBRID, CONVOLVING, EXPERTS)  # which differ most
headers = test_golden_nets.headers  # a fixture
GROUPED = SIZES | {"intermediate_size": 1024}


def asked(place: Path, name: str, sizes: dict[str, Any], **options: Any) -> Request:
    config, tensors = published(name, **sizes)
    given = {
        "model": write_headers(place / name, config, tensors),
        "seq": 64,
        "out": place / "out",
        "tune": 1,
    } | options
    return Request.create({name: str(value) for name, value in given.items()})


def forms_of(made: Request) -> Forms:
    bare = plan(replace(made.job, drawing=VENDOR.text))
    return Forms.of(bare.spec, bare.job)


ALL = ((GATE_UP,), (KV,), (KV, GATE_UP), (QKV,), (QKV, GATE_UP))


@pytest.mark.parametrize(
    "name, sizes, options, heads, pieces, joins",
    [
        ("qwen2_tied", GROUPED, {"quantize": "w4bf16"}, [LEFT, TABLE], [2, 4, 8], ALL),
        ("qwen2_tied", GROUPED, {"quantize": "w4bf16", "graph": "fastest"}, [LEFT, TABLE, RIGHT], [2, 4, 8], ALL),
        ("qwen2_tied", GROUPED, {"embedding_disk": 1}, [LEFT, TABLE, RIGHT], [2, 4, 8], ALL),
        ("qwen2", GROUPED, {"quantize": "w8bf16", "chip": "cv186x"}, [LEFT, TABLE, RIGHT], [2, 4, 8], ALL),
        ("qwen2", GROUPED, {"quantize": "w4bf16", "quantize_head": "w4"}, [LEFT], [2, 4, 8], ALL),
        # eighths are no whole groups of 256, on two cores quarters do not fill all lanes
        ("qwen2", GROUPED, {"quantize": "w4bf16", "q_group_size": 256}, [LEFT, TABLE, RIGHT], [2, 4], ALL),
        ("qwen2", SIZES | {"intermediate_size": 192}, {"chip": "cv186x"}, [LEFT, TABLE, RIGHT], [2], ALL),
        ("llama", GROUPED | {"mlp_bias": True}, {}, [LEFT, TABLE, RIGHT], [], ALL),
        ("qwen2", GROUPED, {"quantize": "w4bf16", "keep_half": "0"}, [LEFT, TABLE, RIGHT], [], ()),
        ("qwen2", GROUPED, {"use_block_with_kv": 1}, [LEFT, TABLE, RIGHT], [2, 4, 8], ALL),
    ],
)
def test_candidates(name, sizes, options, heads, pieces, joins, tmp_path):
    found = forms_of(asked(tmp_path, name, sizes, **options))
    assert [one.drawing.head for one in found.heads] == heads
    assert [one.drawing for one in found.blocks] == [VENDOR, Drawing(True), *(Drawing(True, n) for n in pieces)]
    assert found.joins == joins
    names = [one.name for one in (*found.heads, *found.blocks)]
    assert len(set(names)) == len(names) and found.most() == len(names) + len(joins)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"lora_max_rank": 4}, "adapters"),
        ({"num_device": 2}, "devices"),
    ],
)
def test_where_only_the_vendors_can_be_nothing_is_measured(options, told, tmp_path):
    sizes = SIZES | {"hidden_size": 512, "intermediate_size": 8320, "num_key_value_heads": 4, "num_attention_heads": 8}
    made = planned(asked(tmp_path, "qwen2", sizes, **options))
    assert made.tuning is None and made.spec.drawing == VENDOR and told in made.graphs[0]


def test_dynamic_nets_keep_the_tables(tmp_path):
    """The compiler estimates no cycles of them: of the head alone there is a choice."""
    given = asked(tmp_path, "qwen2", GROUPED, dynamic=1)
    found, made = forms_of(given), planned(given)
    assert found.blocks == () and len(found.heads) == 3
    assert made.tuning and made.tuning.outstanding
    cycles = {"head-left": {"lm_head": 30}, "head-table": {"lm_head": 10}, "head-right": {"lm_head": 20}}
    record = made.tuning.with_measured(Measured(cycles), "", made).record
    assert record and record.drawing == replace(made.spec.drawing, head=TABLE)


def measured(made: Request) -> dict[tuple[str, str], int]:
    """(kind, net) -> layers that it stands for, of the first candidate of the blocks."""
    forms, bare = forms_of(made), plan(replace(made.job, drawing=VENDOR.text))
    assert [(one.kind, one.net.name) for one in measures(bare, forms.heads[0], forms)] == [("lm_head", "lm_head")]
    return {(one.kind, one.net.name): one.layers for one in measures(bare, forms.blocks[0], forms)}


def test_what_stands_for_a_token_and_a_prefill(tmp_path):
    assert measured(asked(tmp_path, "qwen2", GROUPED)) == {("block_cache", "block_cache_0"): 3, ("block", "block_0"): 3}
    assert measured(asked(tmp_path, "qwen2", GROUPED, share_prompt=1, chunk_length=32)) == {
        ("block_cache", "block_cache_0"): 3,
        ("block_cache_1", "block_cache_0_1"): 3,
        ("block", "block_0"): 3,
        ("block_prompt", "block_prompt_0"): 3,
    }


def test_layers_of_another_kind_are_measured_by_themselves(tmp_path):
    sliding = {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}
    found = measured(asked(tmp_path, "qwen2", GROUPED | sliding))
    assert {name: number for (kind, name), number in found.items() if kind == "block"} == {"block_0": 1, "block_1": 2}
    assert {name for kind, name in found if kind == "block_cache"} == {"block_cache_0", "block_cache_1"}


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_every_candidate_of_every_family_has_the_vendors_public_tensors(name, headers, tmp_path):
    """Of each the nets that are measured can be drawn, and stand for as many layers."""
    pixels = {"max_pixels": PIXELS[name]} if name in PIXELS else {}
    given = {"model": headers(name), "seq": 64, "out": tmp_path / "out", "quantize": "w4bf16"} | pixels
    job = Request.create({key: str(value) for key, value in given.items()}).job
    bare = plan(replace(job, drawing=VENDOR.text))
    forms = Forms.of(bare.spec, bare.job)
    first = {part: measures(bare, part[0], forms) for part in (forms.heads, forms.blocks) if part}
    known = Measured({one.name: {"lm_head": 1, "block": 1} for one in (*forms.heads, *forms.blocks)})
    for one in (*forms.heads, *forms.blocks, *forms.wanted(known)):
        made = with_drawing(job, one.drawing.text, bare)
        theirs, ours = first[forms.heads if one in forms.heads else forms.blocks], measures(made, one, forms)
        assert made.spec.drawing == one.drawing and len(ours) == len(theirs) > 0
        for mine, plain in zip(ours, theirs):
            assert (mine.kind, mine.layers, mine.net.name) == (plain.kind, plain.layers, plain.net.name)
            assert (mine.net.inputs, mine.net.outputs, mine.net.flags) == (
                plain.net.inputs,
                plain.net.outputs,
                plain.net.flags,
            )
            assert mine.net.mlir and mine.net.structure


# ----------------------------------------------------------------------------------------------------- which is taken

FORMS = Forms(
    (Candidate("head-left", VENDOR), Candidate("head-right", Drawing(head=RIGHT))),
    (
        Candidate("vendor", VENDOR),
        Candidate("whole", Drawing(True)),
        Candidate("pieces2", Drawing(True, 2)),
        Candidate("pieces4", Drawing(True, 4)),
    ),
    ((KV,),),
)


def chosen(heads: tuple[int, int], **blocks: tuple[int, int]) -> Drawing:
    """What is taken. heads: cycles; blocks: of decode and prefill."""
    cycles = {name: {"block_cache": decode, "block": prefill} for name, (decode, prefill) in blocks.items()}
    cycles = {name.replace("_", "-", 1): one for name, one in cycles.items()}
    measured = Measured(cycles | {"head-left": {"lm_head": heads[0]}, "head-right": {"lm_head": heads[1]}})
    assert not FORMS.wanted(measured)
    return FORMS.chosen(measured, VENDOR)


def test_the_largest_sum_of_what_token_and_prefill_save():
    plain = {"vendor": (1000, 10000), "whole": (1000, 9000)}
    joined = {"whole_k_v": (1000, 9500), "pieces2_k_v": (1000, 9500), "pieces4_k_v": (1000, 9500)}
    found = chosen((100, 100), **plain, pieces2=(900, 9000), pieces4=(990, 7000), **joined)
    assert found == Drawing(True, 4), "30% of a prefill are more than 10% of a token and 10% of a prefill"
    found = chosen((100, 100), **plain, pieces2=(900, 8000), pieces4=(990, 9100), **joined)
    assert found == Drawing(True, 2)
    found = chosen((100, 100), **plain, pieces2=(1000, 9000), pieces4=(1000, 9000), **joined)
    assert found == Drawing(True), "the simple one of equals"


def test_no_token_and_no_prefill_is_dearer():
    plain = {"vendor": (1000, 10000), "whole": (1000, 9900)}
    joined = {"whole_k_v": (1000, 9900), "pieces2_k_v": (990, 1100), "pieces4_k_v": (1001, 500)}
    dear = {"pieces2": (1001, 1000), "pieces4": (1050, 1000)}
    # what is joined makes up for it, and is only looked for beside the pieces that save most
    assert chosen((100, 100), **plain, **dear, **joined) == Drawing(True, 2, joined=(KV,))
    assert chosen((100, 100), **plain, **dear, **joined | {"pieces2_k_v": (1001, 100)}) == Drawing(True)
    # and so does a head with fewer cycles, by the token as a whole
    assert chosen((100, 60), **plain, **dear, **joined | {"pieces2_k_v": (1001, 1100)}) == Drawing(True, 2, RIGHT)
    assert chosen((60, 100), **plain, **dear, **joined | {"pieces2_k_v": (1001, 1100)}) == Drawing(True, 1, LEFT)


def test_every_stage_and_prefill_counts():
    cycles = {
        "vendor": {"block_cache": 100, "block_cache_1": 50, "block": 1000, "block_prompt": 500},
        "whole": {"block_cache": 100, "block_cache_1": 50, "block": 900, "block_prompt": 500},
        "pieces2": {"block_cache": 50, "block_cache_1": 51, "block": 100, "block_prompt": 100},
        "pieces4": {"block_cache": 90, "block_cache_1": 45, "block": 500, "block_prompt": 501},
    }
    measured = Measured(cycles | {"head-left": {"lm_head": 0}, "head-right": {"lm_head": 0}})
    best = FORMS.best(FORMS.blocks, measured)
    assert best and best.name == "whole", "of the others a stage or a prefill is dearer"


def test_rounds_and_what_the_compiler_does_not_take():
    first = [one.name for one in FORMS.wanted(Measured())]
    assert first == ["head-left", "head-right", "vendor", "whole", "pieces2", "pieces4"]
    cycles = {
        "head-left": {"lm_head": 5},
        "vendor": {"block_cache": 10, "block": 10},
        "whole": {"block_cache": 10, "block": 9},
        "pieces2": {"block_cache": 9, "block": 8},
    }
    measured = Measured(cycles, {"pieces4": "no", "head-right": "no"})
    assert [one.name for one in FORMS.wanted(measured)] == ["pieces2-k_v"]
    known = replace(measured, failed={**measured.failed, "pieces2-k_v": "no"})
    assert not FORMS.wanted(known) and FORMS.chosen(known, VENDOR) == Drawing(True, 2)


# ------------------------------------------------------------------------------------------------- what is remembered


@pytest.fixture
def cache(tmp_path, monkeypatch, compiler):
    monkeypatch.setenv("TPUC_ROOT", str(compiler.root))
    monkeypatch.setenv("LLMCONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("llmconv.plan.tuned.find", lambda keep: compiler)  # whose digest an empty cache does not have
    return tmp_path / "cache"


PIECES = Drawing(True, 2, TABLE)


def remembered(given: Request) -> tuple[Tuning, Record]:
    """A record of which PIECES are the best."""
    tuning = planned(given).tuning
    assert tuning is not None and tuning.compiler and tuning.outstanding
    cycles = {one.name: {"block_cache": 100, "block": 1000} for one in tuning.forms.blocks}
    cycles |= {one.name: {"block_cache": 99, "block": 999} for one in [Candidate("pieces2", PIECES)]}
    cycles |= {one.name: {"lm_head": 50 - ("table" in one.name)} for one in tuning.forms.heads}
    while wanted := tuning.forms.wanted(Measured(cycles)):
        cycles |= {one.name: {"block_cache": 101, "block": 1000} for one in wanted}
    made = tuning.with_measured(Measured(cycles), tuning.compiler, planned(given))
    assert made.record
    return made, made.record


def test_what_is_known_is_taken_and_told(tmp_path, cache):
    given = asked(tmp_path, "qwen2", GROUPED)
    tuning, record = remembered(given)
    assert record.drawing == PIECES
    tuning.keep(given.layout.tuned, shared=True)
    made = planned(given)
    assert made.tuning and not made.tuning.outstanding and made.tuning.kept
    assert made.spec.drawing == PIECES and Drawing.of(made.job.drawing) == PIECES
    assert "1.3% of a token's" in made.graphs[0], "(100 + 50) to (99 + 49) cycles"
    assert "MLP: 2 pieces of 512 columns (cycles of the blocks: decode -1.0%, prefill -0.1%)" in made.graphs
    assert "head: its weight on the right, as the token table has it (2.0% of its cycles saved)" in made.graphs
    # a manifest's job is planned with the same graphs, wherever the build lies, and with no record at all
    again = plan(replace(made.job, out_dir=tmp_path / "moved", model_path=given.job.model_path))
    assert again.spec.drawing == PIECES and [n.structure for n in again.nets] == [n.structure for n in made.nets]


def test_another_checkpoint_of_the_same_structure_finds_it_in_the_cache(tmp_path, cache):
    tuning, _ = remembered(given := asked(tmp_path, "qwen2", GROUPED))
    tuning.keep(given.layout.tuned, shared=True)
    (tmp_path / "b").mkdir()
    other = asked(tmp_path / "b", "qwen2", GROUPED)
    made = planned(other)
    assert made.spec.drawing == PIECES and made.tuning and not made.tuning.kept
    assert planned(replace(other, build=replace(other.build, no_cache=True))).tuning.outstanding  # pyright: ignore
    for sizes, more in (
        (GROUPED | {"num_hidden_layers": 4}, {}),
        (GROUPED, {"seq": 128}),
        (GROUPED, {"chip": "bm1688"}),
    ):
        changed = planned(asked(tmp_path / "b", "qwen2", sizes, **more))
        assert changed.tuning and changed.tuning.outstanding, f"{sizes}, {more} is another structure"


def test_the_output_directory_alone_is_enough(tmp_path, cache):
    tuning, _ = remembered(given := asked(tmp_path, "qwen2", GROUPED))
    tuning.keep(given.layout.tuned, shared=False)
    assert not (cache / FOLDER).exists()
    assert planned(given).spec.drawing == PIECES
    assert planned(replace(given, build=replace(given.build, no_cache=True))).spec.drawing == PIECES


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"pieces": 2', '"pieces": 3'),
        lambda text: text.replace('"pieces": 2', '"pieces": "2"'),
        lambda text: text.replace('"head": "table"', '"head": "top"'),
        lambda text: text.replace('"block": 999', '"block": -999'),
        lambda text: text.replace('"block": 999', '"other": 999'),
        lambda text: text.replace('"compiler": "', '"compiler": "0'),
        lambda text: text.replace('"subject": "', '"subject": "0'),
        lambda text: text.replace('"format": 1', '"format": 2'),
    ],
)
def test_damaged_and_foreign_records_are_left_alone(damage, tmp_path, cache):
    tuning, _ = remembered(given := asked(tmp_path, "qwen2", GROUPED))
    tuning.keep(given.layout.tuned, shared=True)
    for file in (given.layout.tuned, cache / FOLDER / tuning.name):
        before = file.read_text()
        file.write_text(damage(before))
        assert file.read_text() != before
    assert planned(given).tuning.outstanding  # pyright: ignore[reportOptionalMemberAccess]


def test_without_a_compiler_the_own_record_holds(tmp_path, cache, monkeypatch):
    tuning, _ = remembered(given := asked(tmp_path, "qwen2", GROUPED))
    tuning.keep(given.layout.tuned, shared=True)
    monkeypatch.setattr("llmconv.plan.tuned.find", lambda keep: None)
    assert planned(given).spec.drawing == PIECES
    given.layout.tuned.unlink()
    assert planned(given).tuning.outstanding  # pyright: ignore[reportOptionalMemberAccess]


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path, cache):
    tuning, _ = remembered(given := asked(tmp_path, "qwen2", GROUPED))
    cache.mkdir(exist_ok=True)
    (cache / FOLDER).write_text("no folder")
    tuning.keep(given.layout.tuned, shared=True)
    assert planned(given).spec.drawing == PIECES


# --------------------------------------------------------------------------------------------------------- front doors


def test_plan_tells_what_is_still_to_be_compiled(tmp_path, cache, capsys):
    given = asked(tmp_path, "qwen2", GROUPED)
    options = ["-m", str(given.job.model_path), "-s", "64", "-o", str(given.job.out_dir), "--tune", "--json"]
    assert main(["plan", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "up to 13 candidates" in found["graphs"][0] and found["options"]["tune"] is True
    assert not given.job.out_dir.exists() and not cache.exists()


@pytest.mark.parametrize("how", ["cli", "doit", "api", "jobs"])
def test_the_vendors_graphs_leave_nothing_to_choose(how, tmp_path, checkpoint, capsys):
    model = str(checkpoint("qwen2"))
    if how == "api":
        with pytest.raises(InputError) as told:
            llmconv.plan(model, seq=64, tune=True, graph="vendor")
        said = str(told.value)
    elif how == "doit":
        given = [f"model={model}", "seq=64", "tune=true", "graph=vendor", f"out={tmp_path / 'out'}"]
        done = subprocess.run([sys.executable, "-m", "doit", "list", *given], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2
        said = done.stderr
    else:
        file = tmp_path / "jobs.toml"
        file.write_text(f'[[job]]\nmodel = "{model}"\nseq_length = 64\ngraph = "vendor"\ntune = true\n')
        options = ["convert", "-m", model, "-s", "64", "--tune", "--graph", "vendor"]
        assert main(["build", str(file)] if how == "jobs" else options) == 2
        said = capsys.readouterr().err
    assert "tune together with graph vendor" in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_doit_lists_by_the_tables(tmp_path, checkpoint, cache):
    given = [f"model={checkpoint('qwen2')}", "seq=64", "tune=true", f"out={tmp_path / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-m", "doit", "list", "--all", *given], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "compile:block_0" in done.stdout, done.stderr
    assert not (tmp_path / "out").exists() and not cache.exists()


@pytest.mark.parametrize("chip", ["bm1684x", "bm1688", "cv186x"])
@pytest.mark.parametrize("head", [LEFT, TABLE, RIGHT])
def test_graphs_of_a_job_are_told_without_what_was_measured(chip, head, tmp_path):
    """As where a manifest's job is planned again."""
    job = asked(tmp_path, "qwen2_tied", GROUPED, quantize="w4bf16", chip=chip, tune=0).job
    told = plan(replace(job, drawing=Drawing(True, 2, head, (KV,)).text)).graphs
    assert told[:3] == (
        "chosen by --tune", "MLP: up projection before the gate, 2 pieces", "k, v: one weight, side by side"
    )  # fmt: skip
    assert len(told) == (3 if head == LEFT else 4) and all("on the right" in line for line in told[3:])
