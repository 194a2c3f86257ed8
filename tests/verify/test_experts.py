"""Routed experts behind layers that keep states of a fixed size, on the simulator, and what is wrong with them is seen:
of the weights, and of the net itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import family_checkpoints
import numpy as np
import pytest
import test_hybrid
from negatives import CHIP, Tensors, judge, right, with_tensors
from test_images_hybrid import Interpreted
from verify_helpers import alone, conversation, plan_of, verified
from vision_checkpoints import make

from llmconv.blocks.decoder import block
from llmconv.blocks.mixer import Step
from llmconv.blocks.spec import Experts
from llmconv.checkpoint import recipe
from llmconv.runtime import launches, state
from llmconv.simulator.client import Simulator
from llmconv.top.graph import Graph
from llmconv.top.interpret import interpret
from llmconv.top.rewrite import rewrite, same_op
from llmconv.verify import compare, routing, session
from llmconv.verify.generate import CHAIN
from llmconv.verify.reference import Reference

SEQ, COUNT = 64, 41
PIXELS = {"max_pixels": "64,96"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("experts"), "qwen3_5_moe")


@pytest.fixture(scope="module")
def launched(model) -> tuple:
    """The plan, and by name launches of blocks of both kinds."""
    plan = plan_of(model, seq=SEQ, chip=CHIP, **PIXELS)
    by_name, rng = {net.name: net for net in plan.nets}, np.random.default_rng(5)
    hidden = Reference(plan).embed(rng.integers(0, plan.spec.vocab, (1, COUNT)))

    def launch(name: str, count: int, past: int = 0) -> launches.Launch:
        net = by_name[name]
        return launches.step(net, hidden[:, :count], count, past, state.random(net, rng) if past else None)

    made = {name: launch(name, COUNT) for name in ("block_0", "block_2")}
    return plan, made | {name: launch(name, 1, 30) for name in ("block_cache_0", "block_cache_2")}


@pytest.fixture(scope="module")
def runs(compiler, session_cache, model, launched, tmp_path_factory) -> Iterator[tuple]:
    """The plan, and by name launches with what the chip gave."""
    out = test_hybrid.built(compiler, session_cache, model, tmp_path_factory.mktemp("out"), seq=SEQ, **PIXELS)
    plan, given = launched
    (bmodel,) = out.glob("*.bmodel")
    with Simulator(bmodel, CHIP, compiler.root) as simulator:

        def run(one: launches.Launch) -> dict:
            written = state.written(one.net)
            return simulator.run(one.net.name, one.inputs, *([list(written)] if written else []))

        yield plan, {name: (one, run(one)) for name, one in given.items()}


@pytest.mark.compiler
@pytest.mark.simulator
def test_what_is_right_passes(runs):
    plan, found = runs
    for name, (launch, made) in found.items():
        judged = judge(plan, launch, made)
        assert right(judged), (name, [(c.output, c.difference.relative_l2, c.limit) for c in judged.compared])
        assert max(c.difference.rows for c in judged.compared) >= (COUNT // 2 if launch.count > 1 else 1)


def _named(end: str, change: Callable) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: change(values.clone()) if n.endswith(end) else values for n, values in tensors.items()}


def _two_swapped(values):
    """Experts 2 and 5 in each other's place."""
    values[[2, 5]] = values[[5, 2]]
    return values


WRONG_WEIGHTS = {
    "experts in other places": _named("experts.down_proj", _two_swapped),
    "experts' gate and up in each other's place": _named(
        "experts.gate_up_proj", lambda w: w.view(8, 2, -1, w.shape[-1]).flip(1).reshape(w.shape)
    ),
    "router's rows in other places": _named("mlp.gate.weight", _two_swapped),
    "no gate of the shared expert": _named("shared_expert_gate.weight", lambda w: w * 0),
    "no shared expert": _named("shared_expert.down_proj.weight", lambda w: w * 0),
}


@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("what", WRONG_WEIGHTS)
def test_wrong_weights_are_seen(what, runs, tmp_path):
    plan, found = runs
    other = with_tensors(plan, WRONG_WEIGHTS[what], tmp_path)
    for name in ("block_0", "block_2"):
        assert not right(judge(other, *found[name])), name


def _sized(**changes) -> Callable[[Experts], Experts]:
    return lambda experts: replace(experts, **changes)


WRONG_NETS = {
    "weights that do not sum to 1": _sized(normalised=False),
    "an expert too few": _sized(chosen=2),
    "an expert too many": _sized(chosen=4),
}


@pytest.mark.parametrize("name", ["block_0", "block_2", "block_cache_0"])
@pytest.mark.parametrize("what", ["", *WRONG_NETS, "no gate of the shared expert", "a gate without its sigmoid"])
def test_wrong_nets_are_seen(what, name, launched):
    """What another net than the right one gives, in float32, is refused."""
    plan, given = launched
    launch = given[name]
    net = launch.net
    made = WRONG_NETS.get(what, lambda experts: experts)(plan.spec.routed)
    decode = net.kind == "block_cache"
    step = Step(
        1 if decode else SEQ, SEQ, SEQ if decode else 0, decode=decode, dynamic=not decode, mask_tile=_tile(net)
    )
    graph = block(net.name, replace(plan.spec, experts=made, float_norms=False), net.layer, step)
    if "gate" in what:
        graph = rewrite(graph, op=_without_gate if what.startswith("no") else _without_sigmoid)
    inputs = {tensor: values.copy() for tensor, values in launch.inputs.items()}
    weights = {w.name: recipe.evaluate(w.recipe, plan.checkpoint) for w in graph.weights.values()}
    found = dict(zip((io.name for io in net.outputs), interpret(graph, inputs, weights)))
    found |= {tensor: inputs[tensor] for tensor in state.written(net)}
    assert right(judge(plan, launch, found)) == (not what)


def _tile(net) -> int:
    """Edge of the constant mask of a net that takes none."""
    return next((w.shape[0] for w in net.weights if w.name == "attention_mask.weight"), 0)


def _without_gate(g: Graph, op, operands, attrs):
    """The sigmoid of the shared expert's gate is 1."""
    if not op.results[0].name.endswith("shared_expert_gate.sigmoid"):
        return same_op(g, op, operands, attrs)
    return g.AddConst(g.MulConst(operands[0], const_val=0.0, name="none"), const_val=1.0, name=op.results[0].name)


def _without_sigmoid(g: Graph, op, operands, attrs):
    if not op.results[0].name.endswith("shared_expert_gate.sigmoid"):
        return same_op(g, op, operands, attrs)
    return g.MulConst(operands[0], const_val=1.0, name=op.results[0].name)


OPTIONS = {
    "history, adapters": {"use_history_kv": 1, "chunk_length": 32, "lora_max_rank": 8},
    "document's history": {"use_block_with_kv": 1, "quantize": "w8f16"},
    "shared prompt, stages": {"share_prompt": 1, "chunk_length": 16, "quantize": "w4f16", "symmetric": 1},
    "two sequences, sampling, table on disk": {"batch": 2, "do_sample": 1, "embedding_disk": 1},
    "pipeline": {"num_device": 3, "distribute_strategy": "pp", "quantize": "w4bf16", "q_group_size": 128},
}


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("quantize", ["bf16", "w4bf16", "w8f16", "f16"])
@pytest.mark.parametrize("chip, cores", [("cv186x", 1), ("bm1688", 1), ("bm1688", 2), ("bm1684x", 1)])
def test_whole_files(chip, cores, quantize, compiler, session_cache, model, tmp_path):
    """Every net, a prompt with an image, and what is generated behind it."""
    options = {"chip": chip, "num_core": cores, "quantize": quantize, "seq": SEQ, **PIXELS}
    out = test_hybrid.built(compiler, session_cache, model, tmp_path, **options)
    ok, _, printed = verified(out, full=True, tokens=4)
    assert ok, printed


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("case", OPTIONS)
def test_options(case, compiler, session_cache, tmp_path):
    """Adapters add two roundings to every linear, which sharp weights would make too large."""
    model = make(tmp_path / "model", "qwen3_5_moe", gain=1.0 if "adapters" in case else 1.5)
    out = test_hybrid.built(compiler, session_cache, model, tmp_path / "out", seq=SEQ, **PIXELS, **OPTIONS[case])
    ok, _, printed = verified(out, full=True, tokens=4)
    assert ok, printed


@pytest.mark.parametrize("chosen", [8, 256])
def test_outputs_of_decode_are_judged(chosen, tmp_path, monkeypatch):
    """Of many experts half precision often cannot tell which are the best: tokens are drawn until it can. Where a token
    has all of them, there is no doubt."""
    sizes = {"num_experts": 256, "num_experts_per_tok": chosen, "moe_intermediate_size": 8, "num_hidden_layers": 1}
    text = family_checkpoints.QWEN3_5_MOE_TEXT | sizes
    plan = plan_of(family_checkpoints.make(tmp_path, "qwen3_5_moe", text_config=text), seq=SEQ)
    net, chip = next(net for net in plan.nets if net.name == "block_cache_0"), Interpreted(plan)

    def judged(seed: int) -> bool:
        made = session.Session(plan, chip)
        alone(made, net, np.random.default_rng(seed), thorough=False)
        assert right(made), seed
        return "output_states" in {one.output for one in made.compared}

    assert all(judged(seed) for seed in (4, 5, 6))
    monkeypatch.setattr(session, "TRIES", 0)
    assert [judged(seed) for seed in (4, 5, 6)] == ([False, True, False] if chosen == 8 else [True] * 3)


def _perturbed(chip: Interpreted, by: float, seed: int) -> Interpreted:
    """A chip whose routers err: their weights are off by this part of their own size."""
    rng = np.random.default_rng(seed)
    wrong: dict[str, np.ndarray] = {}
    for weights in chip.weights.values():
        for name in (one for one in weights if one.endswith("mlp.gate.weight")):
            if name not in wrong:
                wrong[name] = weights[name] + by * weights[name].std() * rng.standard_normal(weights[name].shape)
            weights[name] = wrong[name]
    return chip


def _says(plan, chip) -> bool:
    made, _, said = conversation(plan, chip, 4)
    assert CHAIN in {one.net for one in made.compared}
    return right(made) and all(token.ok for token in said.tokens)


def test_the_model_takes_the_experts_that_the_chip_took_in_doubt(model, monkeypatch):
    """A token that the chip sends elsewhere than the model, with good reason, changes all that is behind it: without
    taking that expert too the model would call the chip wrong."""
    plan = plan_of(model, seq=SEQ, chip=CHIP, **PIXELS)
    flipping = [seed for seed in range(3) if not _follows_nothing(plan, seed, monkeypatch)]
    assert flipping  # such doubts are common
    assert all(_says(plan, _perturbed(Interpreted(plan), 0.004, seed)) for seed in flipping)


def _follows_nothing(plan, seed: int, monkeypatch) -> bool:
    """Whether a chip with small errors of its routers is right by a model that takes its own experts always."""
    with monkeypatch.context() as patched:
        own = lambda logits, half, taken: np.argsort(-logits, -1)[:, : taken.experts.shape[-1]]  # noqa: E731
        patched.setattr(routing, "followed", own)
        return _says(plan, _perturbed(Interpreted(plan), 0.004, seed))


@pytest.mark.parametrize("fault", ["errors ten times as large", "rows in other places"])
def test_a_router_that_errs_without_doubt_is_not_followed(model, fault):
    plan = plan_of(model, seq=SEQ, chip=CHIP, **PIXELS)
    chip = _perturbed(Interpreted(plan), 0.04 if "errors" in fault else 0, 1)
    for weights in chip.weights.values() if "rows" in fault else ():
        for name in (one for one in weights if one.endswith("layers.1.mlp.gate.weight")):
            weights[name] = np.roll(weights[name], 1, int(weights[name].shape[1] == 8))
    made, _, _ = conversation(plan, chip, 4)
    assert not all(one.ok for one in made.compared if one.net == CHAIN)


def test_ways_to_send_a_token():
    """Of logits that half precision has wrong by up to d, experts around the last place may swap."""
    logits = np.array([[5.0, 3.0, 1.0, 0.99, -4.0], [5.0, 3.0, 1.0, -1.0, -4.0], [1.0, 1.01, 1.02, 1.03, 1.04]])
    half = logits + 0.003 * np.array([1, -1, 1, -1, 1])
    assert compare.doubt(logits, half) == pytest.approx(1.5 * 3 * 2**0.5 * 0.003)
    found = routing.ways(logits, half, 3)
    assert [set(one) for one in found[0]] == [{0, 1, 2}, {0, 1, 3}] and found[1] == [(0, 1, 2)]
    # by the bound of 0.019 the last one chosen, of 1.02, may be that of 1.01, and no other
    assert [set(one) for one in found[2]] == [{4, 3, 2}, {4, 3, 1}]
    assert routing.ways(np.zeros((1, 9)), np.full((1, 9), 0.1), 4) == [[(0, 1, 2, 3)]]  # 126 ways are too many


def test_what_was_taken_is_what_is_nearest():
    logits, half = np.array([[2.0, 1.0, 0.995], [2.0, 1.0, -3.0]]), np.array([[2.0, 1.01, 0.985], [2.0, 1.01, -3.0]])

    def gives(experts: np.ndarray) -> np.ndarray:
        return experts[None].astype(float)

    right = gives(np.array([[0, 1], [0, 1]]))
    chip = right + np.array([[[0, 0.9], [0, 0.9]]])  # nearer to expert 2 than to expert 1, of which token 1 is sure
    found = routing.taken(logits, half, 2, chip, right, gives)
    assert found.experts.tolist() == [[0, 2], [0, 1]] and found.known.all()
    assert routing.followed(logits, half, found).tolist() == [[0, 2], [0, 1]]
    far = logits + np.array([[0, 1.0, 0], [0, 0, 0]])  # here there is no doubt: the chip is wrong
    assert routing.followed(far, far + (half - logits), found).tolist() == [[0, 1], [0, 1]]
