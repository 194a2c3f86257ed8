"""A prompt with tiles of images against a chip made of the NumPy interpreter, placed as the public demo places them:
that it is what transformers generates, and that faults are seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from internvl_checkpoints import TOKEN
from speaking import converse, generate_batch
from test_generate import right
from test_nets_of_options import Interpreted
from verify_helpers import conversation, hold_answers, plan_of

from llmconv.blocks.vision.square.tower import Squares, random
from llmconv.checkpoint import recipe
from llmconv.runtime.seen import Shown
from llmconv.verify import prompt as towers
from llmconv.verify.generate import CHAIN, Runtime, Turn
from llmconv.verify.reference import Reference
from llmconv.verify.session import Session
from llmconv.verify.weights import Precision

SEQ, TOKENS = 48, 4
CASES = {
    "chat": ("internvl_chat", {}),
    "chat 6b, llama": ("internvl_chat", {"text": "llama", "form": "6b"}),
    "native": ("internvl", {"text": "qwen3"}),
}


def chosen(plan, ids: np.ndarray, shown: Squares | None, tokens: list[int]) -> list[int]:
    """What transformers' whole model would choose behind a prompt, and behind that and each of `tokens` but the last.

    Its weights are those of the chip: the checkpoint's."""
    import torch
    import transformers

    reference = Reference(plan, Precision())
    settings = transformers.CONFIG_MAPPING["internvl"].from_dict(reference.oracle.config(plan.config))
    model = transformers.AutoModelForImageTextToText.from_config(settings, attn_implementation="eager").eval().float()
    found = {name: recipe.evaluate(reference.source(name), plan.checkpoint) for name in model.state_dict()}
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in found.items()})
    more = {} if shown is None else {"pixel_values": torch.from_numpy(shown.pixels)}
    with torch.inference_mode():
        logits = model(torch.tensor([[*ids.tolist(), *tokens[:-1]]]), **more).logits[0]
    return logits[len(ids) - 1 :].argmax(-1).tolist()


@pytest.mark.parametrize("case", [c if "6b" not in c else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_a_prompt_with_tiles_is_what_transformers_generates(case, internvl_checkpoint):
    name, fields = CASES[case]
    plan = plan_of(internvl_checkpoint(name, **fields), seq=SEQ)
    chip = Interpreted(plan)
    session, (turn,), found = conversation(plan, chip, TOKENS)
    assert right(session, found)
    (shown,) = turn.shown
    (where,) = np.nonzero(turn.ids == TOKEN)
    assert len(shown.items.pixels) == 3 and where.tolist() == list(range(where[0], where[0] + 12))
    tokens = [t.found for t in found.tokens]
    assert [t.expected for t in found.tokens] == chosen(plan, turn.ids, shown.items, tokens)
    assert chip.runs[:6] == ["vit", "vit", "vit", "embedding", "block_0", "block_1"], "a launch for each tile"
    assert {c.net for c in session.compared} == {*chip.runs, CHAIN} - {"lm_head"}


SCHEMES = [
    {"use_block_with_kv": 1},
    pytest.param({"share_prompt": 1, "max_prefill_kv_length": 28}, marks=pytest.mark.slow),
    pytest.param({"chunk_length": 16}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("options", SCHEMES, ids=str)
def test_tiles_in_a_conversation(options, internvl_checkpoint):
    plan = plan_of(internvl_checkpoint("internvl_chat"), seq=SEQ, **options)
    session, said, found = conversation(plan, Interpreted(plan), TOKENS)
    assert right(session, found) and len(found.tokens) == TOKENS and said[0].shown
    hold_answers(said, found, lambda read, tokens: chosen(plan, read, said[0].shown[0].items, tokens))


def test_images_apart_and_text_alone(internvl_checkpoint):
    """Two images of two tiles and of one, each between its own text; then a prompt that shows nothing."""
    plan = plan_of(internvl_checkpoint("internvl", text="qwen2"), seq=SEQ)
    shown = random(plan.towers[0].spec, 3, np.random.default_rng(0))
    four = [TOKEN] * 4
    ids = np.array([5, 6, *four, *four, 7, 8, 9, *four, 10])
    chip = Interpreted(plan)
    for prompt, items in ((ids, shown), (np.arange(3, 20), None)):
        chip.runs.clear()
        session = Session(plan, chip)
        runtime = Runtime.of(plan)
        assert runtime
        looks = [] if items is None else [Shown(plan.towers[0], items)]
        found = converse(session, runtime, [Turn(prompt, TOKENS, shown=looks)])
        assert right(session, found) and chip.runs.count("vit") == (0 if items is None else 3)
        assert [t.expected for t in found.tokens] == chosen(plan, prompt, items, [t.found for t in found.tokens])


def test_a_batch_with_tiles(internvl_checkpoint):
    plan = plan_of(internvl_checkpoint("internvl_chat"), seq=SEQ, batch=2)
    session, runtime = Session(plan, Interpreted(plan)), Runtime.of(plan)
    assert runtime
    prompts = [towers.prompt(plan, np.random.default_rng(n), n) for n in (13, 30)]
    assert [len(shown[0].items.pixels) for _, shown in prompts] == [1, 3]
    found = generate_batch(session, runtime, *zip(*prompts), TOKENS)
    assert right(session, found)


def _tiles_in_another_order(found: dict) -> dict:
    return {name: values[::-1] for name, values in found.items()}


def _half_as_much(found: dict) -> dict:
    return {name: 0.5 * values for name, values in found.items()}


@pytest.mark.parametrize("spoil", [_tiles_in_another_order, _half_as_much])
def test_faults_of_the_chip_are_seen(spoil: Callable[[dict], dict], internvl_checkpoint):
    plan = plan_of(internvl_checkpoint("internvl_chat"), seq=SEQ)
    chip = Interpreted(plan)
    sound = chip.run
    chip.run = lambda run, inputs, read=(): (
        spoil(sound(run, inputs, read)) if run == "vit" else sound(run, inputs, read)
    )
    session, _, _found = conversation(plan, chip, TOKENS)
    assert {c.net for c in session.compared if not c.ok} == {"vit", CHAIN}


def test_tiles_in_the_wrong_places_are_seen(internvl_checkpoint, monkeypatch):
    """The second tile on the first one's place, and the other way round."""
    plan = plan_of(internvl_checkpoint("internvl_chat"), seq=SEQ)
    kind = type(plan.towers[0].tower)
    each = kind.each
    monkeypatch.setattr(kind, "each", lambda self, items: reversed(list(each(self, items))))
    session, _, _found = conversation(plan, Interpreted(plan), TOKENS)
    assert {c.net for c in session.compared if not c.ok} == {CHAIN}
