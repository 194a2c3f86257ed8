"""Towers of other kinds than those that families have, through plan, handover, verification and report: shared code
knows nothing of them but what they say themselves."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest
from test_generate import right
from test_nets_of_options import SMALL, Interpreted
from verify_helpers import conversation, look_alone, plan_of

from llmconv import families
from llmconv.blocks.tower import Tower
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError
from llmconv.plan.devices import groups
from llmconv.plan.handover import Handover, rows
from llmconv.plan.plan import Plan
from llmconv.report import latency, sizes, summary
from llmconv.runtime.seen import Course, Seen
from llmconv.runtime.towers import look
from llmconv.top.graph import Graph
from llmconv.verify import prompt as towers
from llmconv.verify.generate import CHAIN
from llmconv.verify.session import Session

SEQ, TOKENS = 32, 3
HIDDEN, BANDS, SIDE, TILES = 128, 8, 8, 4  # hidden size; bands of a frame of sound; side of an image, tokens of it


@dataclass(frozen=True)
class Fixed:
    """Sizes of a tower that is one matrix. rows [most, width] become hidden states."""

    token: int
    tokens: int
    out: int

    def check(self, layers: int, hidden: int) -> None:
        if self.out != hidden:
            raise InputError(f"output size {self.out}", f"the hidden size is {hidden}", "Repair config.json.")


@dataclass(frozen=True)
class Toy(Tower[Fixed, tuple]):
    """What the two towers below share: a weight [out, in], and items that are arrays of rows."""

    weight: np.ndarray
    tensor: str
    most: int
    joins: Literal["tokens", "cross"] = "tokens"

    def spec(self, config: Config, tensors: Container[str], options: Mapping[str, str]) -> Fixed | None:
        if f"{self.tensor}.weight" not in tensors:
            return None
        return Fixed(config.int(*self.token), self.most, len(self.weight))

    def project(self, g: Graph, spec: Fixed, x: Any) -> Graph:
        size = x.shape[-1]
        weight = g.weight(f"{self.tensor}.weight", (size, spec.out), ("transpose", ("tensor", f"{self.tensor}.weight")))
        return g.output(g.MatMul(x, weight, g.none, name=self.tensor))

    def each(self, items: tuple) -> Iterator[tuple]:
        return ((item,) for item in items)

    def label(self, items: tuple) -> str:
        return f"{len(items)} of {self.item}"

    def reference(self, model: Any, items: tuple, dtype: Any) -> list:
        import torch

        rows = np.concatenate([np.reshape(item, (-1, self.weight.shape[1])) for item in items])
        return [torch.from_numpy(rows).to(dtype) @ torch.from_numpy(self.weight).to(dtype).T]


class Sound(Toy):
    """Frames of sound [n, bands], two of which become a token; a second has eight."""

    net, title, item, one, token = "audio", "Ear", "sound", "a sound", ("audio_token_id", 7)

    def largest(self, spec: Fixed) -> dict[str, float]:
        return {"seconds": spec.tokens / 4, "frames": 2 * spec.tokens, "tokens": spec.tokens}

    def graph(self, spec: Fixed, dynamic: bool) -> Graph:
        g = Graph(self.net)
        x = g.input("mel", (2 * spec.tokens, BANDS))
        shape = (spec.tokens, 2 * BANDS)
        return self.project(g, spec, g.Reshape(x, to=shape, shape=(-1, 2 * BANDS), name="pairs"))

    def prepare(self, spec: Fixed, items: tuple, dynamic: bool) -> dict[str, np.ndarray]:
        (frames,) = items
        made = np.zeros((len(frames) if dynamic else 2 * spec.tokens, BANDS), np.float32)
        made[: len(frames)] = frames
        return {"mel": made}

    def count(self, spec: Fixed, items: tuple) -> int:
        return sum(len(frames) // 2 for frames in items)

    def trials(self, spec: Fixed, dynamic: bool, rng: np.random.Generator) -> Iterator[tuple]:
        return ((_noise(rng, 2 * n, BANDS),) for n in (spec.tokens, 1))

    def sample(self, spec: Fixed, room: int, rng: np.random.Generator) -> tuple | None:
        """Two sounds, of one token and of others."""
        return (_noise(rng, 2, BANDS), _noise(rng, 2 * min(spec.tokens, room - 1), BANDS)) if room > 1 else None


class Tile(Toy):
    """Images of one size [1, 3, side, side], one a launch, always as many tokens [1, N, H]."""

    net, title, item, one, token = "eye", "Eye", "image", "an image", ("tile_token_id", 9)
    dynamic = False

    def largest(self, spec: Fixed) -> dict[str, float]:
        return {"width": SIDE, "height": SIDE, "tokens": spec.tokens}

    def graph(self, spec: Fixed, dynamic: bool) -> Graph:
        g = Graph(self.net)
        shape = (1, spec.tokens, 3 * SIDE**2 // spec.tokens)
        return self.project(g, spec, g.Reshape(g.input("pixel_values", (1, 3, SIDE, SIDE)), to=shape, name="bands"))

    def prepare(self, spec: Fixed, items: tuple, dynamic: bool) -> dict[str, np.ndarray]:
        (image,) = items
        return {"pixel_values": image}

    def count(self, spec: Fixed, items: tuple) -> int:
        return len(items) * spec.tokens

    def trials(self, spec: Fixed, dynamic: bool, rng: np.random.Generator) -> Iterator[tuple]:
        return ((_noise(rng, 1, 3, SIDE, SIDE),) for _ in range(2))

    def sample(self, spec: Fixed, room: int, rng: np.random.Generator) -> tuple | None:
        return (_noise(rng, 1, 3, SIDE, SIDE),) if room >= spec.tokens else None


def _noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture
def planned(checkpoint, tmp_path, monkeypatch):
    """planned(joins, ...) -> the plan of a Qwen2 that hears and sees; joins: of what it sees."""
    import torch
    from safetensors.torch import load_file, save_file

    model = checkpoint("qwen2", **SMALL)
    config = json.loads((model / "config.json").read_text()) | {"tile_token_id": 11}
    made, rng = tmp_path / "model", np.random.default_rng(4)
    made.mkdir()
    (made / "config.json").write_text(json.dumps(config))
    weights = {}
    for name, size in (("ear", 2 * BANDS), ("eye", 3 * SIDE**2 // TILES)):
        drawn = torch.from_numpy(_noise(rng, HIDDEN, size) / np.float32(size**0.5)).to(torch.bfloat16)
        weights[name] = drawn
    tensors = load_file(model / "model.safetensors")
    extra = {f"{name}.weight": value for name, value in weights.items()}
    save_file(tensors | extra, made / "model.safetensors", metadata={"format": "pt"})
    ear, eye = (weights[name].float().numpy() for name in ("ear", "eye"))

    def plan(joins: Literal["tokens", "cross"] = "tokens", **options) -> Plan:
        kinds = (Sound(ear, "ear", 6), Tile(eye, "eye", TILES, joins), Tile(eye, "third eye", TILES))
        family = replace(families.family_of("qwen2"), towers=kinds)
        monkeypatch.setattr(families, "families", lambda: {"qwen2": family})
        monkeypatch.setattr("llmconv.plan.settle.family_of", lambda _: family)
        return plan_of(made, seq=SEQ, **options)

    return plan


def test_nets_of_a_plan(planned):
    plan = planned(dynamic=1, quantize="w4bf16")
    assert [tower.net for tower, _ in plan.towers] == ["audio", "eye"], "no tensors, no tower"
    found = {net.name: net for net in plan.nets}
    assert list(found)[:3] == ["audio", "eye", "embedding"]
    ear, eye = found["audio"], found["eye"]
    assert ear.tower == plan.towers[0] and found["embedding"].tower is None
    assert [(io.name, io.shape, io.dtype) for io in ear.inputs] == [("mel", (12, BANDS), "f32")]
    assert [(io.shape, io.dtype) for io in eye.outputs] == [((1, TILES, HIDDEN), "bf16")]
    assert (ear.flags.mode, ear.flags.dynamic, eye.flags.dynamic) == ("BF16", True, False)
    several = groups(planned(num_device=3, distribute_strategy="pp"))
    assert several[0].nets[:3] == ("audio", "eye", "embedding")
    with pytest.raises(InputError, match="max_pixels 8,8 with a qwen2 model: its eye takes images of one size"):
        planned(max_pixels="8,8")


def test_what_a_device_has_to_know(planned):
    device = json.loads(json.dumps(Handover.of(planned()).to_dict()))
    assert device["sound"] == {"seconds": 1.5, "frames": 12, "tokens": 6}
    assert device["image"] == {"width": SIDE, "height": SIDE, "tokens": TILES}
    assert device["tokens"]["seen"] == {"audio_token_id": 7, "tile_token_id": 11}
    told = dict(rows(device))
    assert told["largest sound"] == "1.5 seconds, 12 frames, 6 tokens"
    assert told["largest image"] == f"{SIDE} x {SIDE} pixels, {TILES} tokens"


def test_what_is_told_of_a_build(planned):
    planned()
    common = {"layer": None, "inputs": [{"name": "input", "shape": [1, 1]}]}
    nets = [common | {"name": "audio", "cycles": 900_000}, common | {"name": "eye", "cycles": None}]
    manifest = {"job": {"chip": "bm1688", "seq_length": 64, "batch": 1}, "nets": nets}
    steps = latency.firsts(manifest)
    assert {name: step.seconds for name, step in steps.items()} == {"sound": 0.001, "image": None}
    device = {"sound": {"seconds": 1.5, "frames": 12, "tokens": 6}}
    assert summary.estimates(summary._estimated(manifest) | {"chip": "bm1688"}, device)[0] == (
        "a sound of 1.5 seconds in 1.00 ms"
    )
    assert sizes._part("audio", sizes.parts_of(device), "ear.weight") == "Ear"


def test_a_prompt_of_sounds_and_an_image(planned):
    plan = planned()
    chip = Interpreted(plan)
    session, (turn,), found = conversation(plan, chip, TOKENS)
    assert right(session, found) and len(found.tokens) == TOKENS
    assert chip.runs[:4] == ["audio", "audio", "eye", "embedding"], "one launch for each item"
    heard, seen = turn.shown
    assert np.count_nonzero(turn.ids == 7) == heard.fitted.tower.count(heard.fitted.spec, heard.items) >= 3
    assert np.count_nonzero(turn.ids == 11) == TILES and len(seen.items) == 1
    assert {c.net for c in session.compared} >= {"audio", "eye", CHAIN}


@pytest.mark.parametrize("net", ["audio", "eye"])
def test_faults_are_seen(net, planned):
    plan = planned()
    chip = Interpreted(plan)
    sound = chip.run

    def spoiled(run: str, inputs: Mapping[str, np.ndarray], read: Sequence[str] = ()) -> dict[str, np.ndarray]:
        found = sound(run, inputs, read)
        return {k: np.roll(v, 1, -2) for k, v in found.items()} if run == net else found

    chip.run = spoiled
    session, _, _found = conversation(plan, chip, TOKENS)
    assert {c.net for c in session.compared if not c.ok} == {net, CHAIN}


def test_towers_by_themselves(planned):
    plan = planned()
    session, nets = Session(plan, Interpreted(plan)), {net.name: net for net in plan.nets}
    for net in ("audio", "eye"):
        look_alone(session, nets[net], np.random.default_rng(0), 5)
    assert right(session) and session.ledger.launches == {"audio": 2, "eye": 2}


def test_layers_that_look_across(planned):
    """Their hidden states are for those layers: the placeholder's own stay, and there is one for each item."""
    plan = planned("cross")
    assert plan.towers[1].tower.joins == "cross"
    ids, shown = towers.prompt(plan, np.random.default_rng(1), 20)
    assert np.count_nonzero(ids == 11) == 1 and np.count_nonzero(ids == 7) == 5
    session, nets = Session(plan, Interpreted(plan)), {net.name: net for net in plan.nets}
    seen, places = look(session, nets, ids, shown, 0)
    own, _ = session.reference.sight.look(ids, shown, 0)
    assert right(session) and places is None
    assert isinstance(seen, Seen) and seen.cross is not None and own.cross is not None
    assert seen.cross.shape == own.cross.shape == (TILES, HIDDEN) and len(seen.at) == 5
    np.testing.assert_allclose(seen.cross, own.cross, atol=0.02)
    hidden = np.zeros((1, 20, HIDDEN), np.float32)
    assert set(np.flatnonzero(seen.enter(hidden)[0].any(-1))) == set(np.flatnonzero(ids == 7))
    course = Course(1)
    course.show(seen, places)
    positions, here = course.go(20)
    assert positions.tolist() == [list(range(20))] and here is not None and here.cross is seen.cross
    alone = Seen.of(ids, [(shown[1].fitted, [seen.cross])])
    assert len(alone.at) == 0 and not alone.enter(hidden).any() and alone.after(0, 20) is None
