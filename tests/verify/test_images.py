"""A prompt with an image against a chip made of the NumPy interpreter: what is launched, that it is what transformers
generates, and that every fault is seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from speaking import converse, generate_batch
from test_generate import right
from test_nets_of_options import Interpreted
from verify_helpers import alone, conversation, hold_answers, look_alone, plan_of
from vision_checkpoints import CONFIGS, pixel_values, whole

from llmconv.blocks.vision import grid
from llmconv.blocks.vision.images import Images, random, shapes
from llmconv.checkpoint import recipe
from llmconv.errors import ConvertError
from llmconv.request.output import Layout
from llmconv.runtime import launches
from llmconv.runtime.seen import Shown
from llmconv.verify import prompt as towers
from llmconv.verify.generate import CHAIN, Runtime, Turn
from llmconv.verify.session import Session

SEQ, TOKENS = 48, 5
PIXELS = {"qwen2_vl": "56,84", "qwen2_5_vl": "56,140", "qwen3_vl": "64,96", "glm4v": "56,84", "paddleocr_vl": "56,84"}


def planned(vision_checkpoint, name: str, **options):
    """The plan, and beside it the files that a runtime reads for the tower."""
    plan = plan_of(vision_checkpoint(name), seq=SEQ, max_pixels=PIXELS[name], **options)
    for one in plan.beside:
        place = Layout(plan.job.out_dir).config
        place.mkdir(parents=True, exist_ok=True)
        np.save(place / one.name, recipe.evaluate(one.recipe, plan.checkpoint))
    return plan


def chosen(model, ids: np.ndarray, shown: Images | None, tokens: list[int]) -> list[int]:
    """What transformers' whole model would choose behind a prompt, and behind that and each of `tokens` but the
    last."""
    import torch

    given = torch.tensor([[*ids.tolist(), *tokens[:-1]]])
    more = {}
    if shown is not None:
        more = {
            "pixel_values": pixel_values(model, shown.patches),
            "image_grid_thw": torch.tensor(shown.grids),
            "mm_token_type_ids": (given == 1000).int(),
        }
    with torch.inference_mode():
        return whole(model)(given, **more).logits[0, len(ids) - 1 :].argmax(-1).tolist()


def image(shown: Sequence[Shown]) -> Images | None:
    """What a prompt of one tower shows it."""
    return shown[0].items if shown else None


@pytest.mark.parametrize("name", CONFIGS)
def test_a_prompt_with_an_image_is_what_transformers_generates(name, vision_checkpoint):
    plan = planned(vision_checkpoint, name)
    chip = Interpreted(plan)
    session, (turn,), found = conversation(plan, chip, TOKENS)
    assert right(session, found)
    (where,) = np.nonzero(turn.ids == 1000)
    assert (
        len(where) == image(turn.shown).tokens(2) == plan.towers[0].spec.tokens
        and where[0] > 0
        and where[-1] < len(turn.ids) - 1
    )
    tokens = [t.found for t in found.tokens]
    assert [t.expected for t in found.tokens] == chosen(plan.job.model_path, turn.ids, image(turn.shown), tokens)
    layers = range(plan.spec.layers)
    prefill = [
        run for i in layers for run in (f"block_{i}", *(["add"] if i < len(plan.towers[0].spec.deepstack) else []))
    ]
    assert chip.runs[: 2 + len(prefill)] == ["vit", "embedding", *prefill]
    assert chip.runs.count("vit") == 1 and chip.runs.count("add") == len(plan.towers[0].spec.deepstack)
    assert {c.net for c in session.compared} == {*chip.runs, CHAIN} - {"lm_head"}


@pytest.mark.parametrize(
    "options", [{"use_block_with_kv": 1}, {"share_prompt": 1, "max_prefill_kv_length": 28}], ids=str
)
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "glm4v", "paddleocr_vl"])
def test_an_image_in_a_conversation(name, options, vision_checkpoint):
    """In chunks, and shared by two questions: every answer is what transformers gives behind all that was read."""
    plan = planned(vision_checkpoint, name, **options)
    session, said, found = conversation(plan, Interpreted(plan), TOKENS)
    assert right(session, found) and len(found.tokens) == TOKENS and said[0].shown
    hold_answers(said, found, lambda read, tokens: chosen(plan.job.model_path, read, image(said[0].shown), tokens))


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl", "glm4v"])
def test_a_batch_with_images(name, vision_checkpoint):
    plan = planned(vision_checkpoint, name, batch=2)
    assert next(net for net in plan.nets if net.name == "block_cache_0").inputs[1].shape == (2, 3, 1)
    session = Session(plan, Interpreted(plan))
    prompts = [towers.prompt(plan, np.random.default_rng(n), n) for n in (13, 30)]
    prompts.append((np.array([5, 6, 7]), ()))
    for pair in ((0, 1), (1, 2)):
        found = generate_batch(session, Runtime.of(plan), *zip(*(prompts[n] for n in pair)), TOKENS)
        assert right(session, found)
        for n, first in zip(pair, (0, TOKENS)):
            judged = found.tokens[first : first + TOKENS]
            ids, shown = prompts[n]
            tokens = [t.found for t in judged]
            assert [t.expected for t in judged] == chosen(plan.job.model_path, ids, image(shown), tokens)


@pytest.mark.parametrize("name", CONFIGS)
def test_several_images_in_a_prompt(name, vision_checkpoint):
    plan = planned(vision_checkpoint, name)
    shown = random(plan.towers[0].spec, ((1, 2, 4), (1, 4, 2), (1, 2, 2)), np.random.default_rng(0))
    ids = np.array([5, 998, 1000, 1000, 999, 7, 8, 998, 1000, 1000, 999, 998, 1000, 999, 9])
    session = Session(plan, Interpreted(plan))
    found = converse(session, Runtime.of(plan), [Turn(ids, TOKENS, shown=[Shown(plan.towers[0], shown)])])
    assert right(session, found)
    assert [t.expected for t in found.tokens] == chosen(
        plan.job.model_path, ids, shown, [t.found for t in found.tokens]
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_text_alone(name, vision_checkpoint):
    """No image in the prompt: no vit, no sums, positions one behind the other."""
    plan = planned(vision_checkpoint, name)
    chip = Interpreted(plan)
    session = Session(plan, chip)
    found = converse(session, Runtime.of(plan), [Turn(np.arange(3, 20), TOKENS)])
    assert right(session, found) and not {"vit", "add"} & set(chip.runs)
    assert [t.expected for t in found.tokens] == chosen(
        plan.job.model_path, np.arange(3, 20), None, [t.found for t in found.tokens]
    )


@pytest.mark.parametrize(
    "name, net, spoil, wrong",
    [
        ("qwen2_vl", "vit", lambda out: {k: v[::-1] for k, v in out.items()}, {"vit", CHAIN}),
        ("qwen2_5_vl", "vit", lambda out: {k: np.roll(v, 1, 0) for k, v in out.items()}, {"vit", CHAIN}),
        (
            "qwen3_vl",
            "vit",
            lambda out: dict(zip(out, [next(iter(out.values())), *list(out.values())[:0:-1]])),
            {"vit", CHAIN},
        ),
        ("qwen3_vl", "add", lambda out: {k: 0.5 * v for k, v in out.items()}, {"add", CHAIN}),
        ("glm4v", "vit", lambda out: {k: np.roll(v, 1, 0) for k, v in out.items()}, {"vit", CHAIN}),
        ("paddleocr_vl", "vit", lambda out: {k: v[::-1] for k, v in out.items()}, {"vit", CHAIN}),
    ],
    ids=[
        "qwen2_vl-backwards",
        "qwen2_5_vl-rolled",
        "qwen3_vl-deepstack",
        "qwen3_vl-sum",
        "glm4v-rolled",
        "paddleocr_vl-backwards",
    ],
)
def test_faults_of_the_chip_are_seen(name, net, spoil, wrong, vision_checkpoint):
    plan = planned(vision_checkpoint, name)
    chip = Interpreted(plan, spoil=lambda *_: None)
    sound = chip.run
    chip.run = lambda run, inputs, read=(): spoil(sound(run, inputs, read)) if run == net else sound(run, inputs, read)
    session, _, _found = conversation(plan, chip, TOKENS)
    assert {c.net for c in session.compared if not c.ok} == wrong


@pytest.mark.parametrize("name", CONFIGS)
def test_positions_of_text_for_an_image_are_seen(name, vision_checkpoint, monkeypatch):
    monkeypatch.setattr(
        grid,
        "token_positions",
        lambda tower, ids, grids, first=0: (first + np.tile(np.arange(len(ids)), (3, 1)), first + len(ids)),
    )
    plan = planned(vision_checkpoint, name)
    session, _, _found = conversation(plan, Interpreted(plan), TOKENS)
    assert {c.net for c in session.compared if not c.ok} == {CHAIN}


def test_a_tower_and_a_sum_by_themselves(vision_checkpoint):
    plan = planned(vision_checkpoint, "qwen3_vl")
    chip = Interpreted(plan)
    session, by_name = Session(plan, chip), {net.name: net for net in plan.nets}
    look_alone(session, by_name["vit"], np.random.default_rng(0), 5)
    alone(session, by_name["add"], np.random.default_rng(0), thorough=True)
    assert right(session) and session.ledger.launches == {"vit": 5, "add": 1}
    assert len([c for c in session.compared if c.net == "vit"]) == 4
    spec = plan.towers[0].spec
    grids = list(shapes(spec, masked=True))
    assert grids[0] == ((1, 6, 4),) and len(grids[1]) == 2 and len(grids) == 5
    assert all(sum(t * h * w for t, h, w in g) <= spec.patches for g in grids)
    assert all(len(g) == 1 for g in shapes(spec, masked=False))


def test_a_launch_of_the_tower_follows_the_net(vision_checkpoint):
    plan = planned(vision_checkpoint, "qwen2_5_vl", dynamic=1)
    net, tower = next(n for n in plan.nets if n.name == "vit"), plan.towers[0].spec
    shown = random(tower, ((1, 2, 4), (1, 4, 2)), np.random.default_rng(0))
    launch = launches.tower(net, shown)
    assert {name: values.shape for name, values in launch.inputs.items()} == {
        "input_states": (16, 1176),
        "position_ids": (16, 2),
        "full_attn_mask": (1, 1, 16, 16),
        "window_attn_mask": (1, 1, 16, 16),
        "reverse_index": (tower.tokens,),
    }
    assert launch.count == 4 and launch.inputs["reverse_index"].dtype == np.int32


@pytest.fixture
def table(vision_checkpoint, tmp_path):
    """A plan of GLM-4V in a place of its own, and the file of its learned positions."""
    plan = planned(vision_checkpoint, "glm4v", out=tmp_path / "out")
    return plan, tmp_path / "out" / "config" / "pos_embed_weight.npy"


@pytest.mark.parametrize(
    "spoil",
    [lambda t: t.swapaxes(2, 3), lambda t: t[:, ::-1], lambda t: np.roll(t, 1, 3), lambda t: 0 * t],
    ids=["turned", "channels backwards", "shifted", "empty"],
)
def test_wrong_positions_beside_the_bmodel_are_seen(spoil, table):
    """What a runtime would read is what verification reads."""
    plan, file = table
    net, rng = next(n for n in plan.nets if n.name == "vit"), np.random.default_rng(0)
    for wrong in (False, True):
        session = Session(plan, Interpreted(plan))
        look_alone(session, net, rng, 1)
        assert right(session) is not wrong
        np.save(file, spoil(np.load(file)))


def test_positions_that_cannot_be_read(table):
    plan, file = table
    net, session = next(n for n in plan.nets if n.name == "vit"), Session(plan, Interpreted(plan))
    for content, word in (
        (lambda: np.save(file, np.load(file)[:, :, 1:]), r"is an array \[1, 192, 7, 8\] of float32"),
        (lambda: np.save(file, np.zeros((1, 192, 8, 8))), "of float64"),
        (lambda: np.save(file, np.array([None])), "cannot be read"),
        (lambda: file.write_bytes(b"?"), "cannot be read"),
        (file.unlink, "cannot be read"),
    ):
        content()
        with pytest.raises(ConvertError, match=f"pos_embed_weight.npy.*{word}"):
            look_alone(session, net, np.random.default_rng(0), 1)
