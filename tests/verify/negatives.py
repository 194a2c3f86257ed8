"""Negative controls: the usual ways in which a net of any family is wrong, applied to the reference or to what the chip
is fed.

The chip's net is right and stays as it is; what it gave is judged once more with the reference, or its own inputs, made
wrong.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from verify_helpers import plan_of

from llmconv.runtime import launches
from llmconv.verify.reference import Reference
from llmconv.verify.session import Session

if TYPE_CHECKING:
    import torch

    from llmconv.plan.plan import Plan

CHIP, SEQ, COUNT, PAST = "cv186x", 64, 41, 37
SOME = 8  # rows that are wrong at once: sharp attention may have no eye for a single one
BLOCKS = ("block_0", "block_cache_0")
Tensors = dict[str, "torch.Tensor"]


# --------------------------------------------------------------------------------------------------------- what the
# chip is fed


def tried(plan: Plan, strict: bool = False) -> dict[str, launches.Launch]:
    """A prefill and a decode launch of layer 0, and by "net: what" variants with wrong inputs. strict: also those that
    sharp attention may have no eye for."""
    by_name, rng = {net.name: net for net in plan.nets}, np.random.default_rng(9)
    hidden = np.zeros((1, SEQ, plan.spec.hidden), np.float32)
    hidden[:, :COUNT] = Reference(plan).embed(rng.integers(0, plan.spec.vocab, (1, COUNT)))
    shape = (1, SEQ, plan.spec.kv_heads, plan.spec.head_dim)
    made = {
        "block_0": launches.step(by_name["block_0"], hidden, COUNT),
        "block_cache_0": launches.step(
            by_name["block_cache_0"], hidden, 1, PAST, {name: rng.standard_normal(shape) for name in ("k", "v")}
        ),
    }
    for name, launch in list(made.items()):
        for what, change in (WRONG_INPUTS | STRICT_INPUTS if strict else WRONG_INPUTS).items():
            if (inputs := change(dict(launch.inputs))) is not None:
                made[f"{name}: {what}"] = replace(launch, inputs=inputs)
    return made


def _shift(inputs: dict) -> dict:
    return inputs | {"position_ids": inputs["position_ids"] + 1}


def _see_more(rows: int) -> Callable[[dict], dict]:
    """The mask lets tokens look too far: prefill at the next token, decode at rows beyond the history, which are an
    earlier conversation's."""

    def change(inputs: dict) -> dict:
        mask = inputs["attention_mask"].copy()
        if mask.shape[2] == 1:
            mask[..., PAST : PAST + rows] = 0
        else:
            mask[..., 1:][mask[..., :-1] == 0] = 0
        return inputs | {"attention_mask": mask}

    return change


def _see_less(rows: int) -> Callable[[dict], dict]:
    """The oldest tokens are hidden from those behind them."""

    def change(inputs: dict) -> dict:
        mask = inputs["attention_mask"].copy()
        mask[:, :, (0 if mask.shape[2] == 1 else rows) :, :rows] = launches.HIDDEN
        return inputs | {"attention_mask": mask}

    return change


def _see_all(inputs: dict) -> dict:
    return inputs | {"attention_mask": inputs["attention_mask"] * 0}


def _stale(part: str) -> Callable[[dict], dict | None]:
    """The newest rows of the history were not written: they are an earlier conversation's, as are those behind them."""

    def change(inputs: dict) -> dict | None:
        if part not in inputs:  # prefill
            return None
        rows = inputs[part].copy()
        rows[:, PAST - SOME : PAST] = rows[:, PAST : PAST + SOME]
        return inputs | {part: rows}

    return change


WRONG_INPUTS = {
    "positions": _shift,
    "mask sees more": _see_more(SOME),
    "mask sees less": _see_less(SOME),
    "mask sees all": _see_all,
    "stale keys": _stale("history_k"),
    "stale values": _stale("history_v"),
}
STRICT_INPUTS = {"mask sees one more": _see_more(1), "mask sees one less": _see_less(1)}


# ------------------------------------------------------------------------------------------------------ what the
# reference has


def _of(
    pattern: str, change: Callable[[torch.Tensor, slice], torch.Tensor], heads: tuple[str, ...] = ()
) -> Callable[[Tensors, Plan], Tensors]:
    """change(tensor, rows) of the tensors whose names match; rows: of a fused qkv those of `heads`, else all."""

    def apply(tensors: Tensors, plan: Plan) -> Tensors:
        made = dict(tensors)
        for name, values in tensors.items():
            if re.search(pattern, name) and "vision" not in name:
                values = values.clone()
                for rows in _rows(name, plan, heads):
                    values[rows] = change(values[rows])
                made[name] = values
        return made

    return apply


def _rows(name: str, plan: Plan, heads: tuple[str, ...]) -> Iterator[slice]:
    """The rows of a tensor that belong to `heads`, of "qkv": parts of a tensor that holds all of them."""
    if not re.search("qkv|query_key", name):
        yield slice(None)
        return
    spec = plan.spec
    q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    parts = {"q": slice(0, q), "k": slice(q, q + kv), "v": slice(q + kv, q + 2 * kv)}
    yield from (parts[role] for role in heads)


def _roll(values: torch.Tensor) -> torch.Tensor:
    return values.roll(len(values) // 2, 0)


def _projection(roles: str, part: str) -> str:
    return rf"([{roles}]_proj|qkv_proj|query_key_value)\.{part}$"


def _larger(percent: int, pattern: str, norms: dict[str, str], *heads: str) -> Callable[[Tensors, Plan], Tensors]:
    """What the tensors that match give is larger; in a model that has a norm behind them, by that norm, which would undo
    it otherwise. norms: what only models with such a norm have -> the norm. A norm may be stored less 1."""
    factor = percent / 100

    def apply(tensors: Tensors, plan: Plan) -> Tensors:
        behind = [norm for given, norm in norms.items() if any(given in n and "vision" not in n for n in tensors)]
        if behind:
            return _of(rf"{behind[0]}\.weight$", lambda v: v + factor * (v + (v.float().mean() < 0.5)))(tensors, plan)
        return _of(pattern, lambda v: v * (1 + factor), heads)(tensors, plan)

    return apply


QUERIES, OLMO2, GLM4 = _projection("q", "(weight|bias)"), "post_feedforward_layernorm", "post_mlp_layernorm"
ATTENTION, MLP = r"(o_proj|attention\.dense)\.weight$", r"(down_proj|dense_4h_to_h)\.weight$"
WRONG_TENSORS = {
    "q bias dropped": _of(_projection("q", "bias"), lambda v: v * 0, ("q",)),
    "k bias dropped": _of(_projection("k", "bias"), lambda v: v * 0, ("k",)),
    "v bias dropped": _of(_projection("v", "bias"), lambda v: v * 0, ("v",)),
    "kv heads swapped": _of(_projection("kv", "(weight|bias)"), _roll, ("k", "v")),
    "query heads swapped": _of(_projection("q", "(weight|bias)"), _roll, ("q",)),
    "softmax scale 10% too large": _larger(10, QUERIES, {"q_norm": "q_norm"}, "q"),
    "norm of one": _of(r"input_layernorm\.weight$", lambda v: v * 0 + 1),
    "attention 6% too large": _larger(
        6, ATTENTION, {OLMO2: "post_attention_layernorm", GLM4: "post_self_attn_layernorm"}
    ),
    "MLP 6% too large": _larger(6, MLP, {OLMO2: OLMO2, GLM4: GLM4}),
}


def _gate_is_up(tensors: Tensors, _: Plan) -> Tensors:
    swapped = {"gate_proj": "up_proj", "up_proj": "gate_proj"}
    return {re.sub("gate_proj|up_proj", lambda m: swapped[m[0]], name): values for name, values in tensors.items()}


STRICT_TENSORS = {
    "gate and up swapped": _gate_is_up,
    "down_proj 4% too large": _of(r"down_proj\.weight$", lambda v: v * 1.04),
}
STRICT_CONFIG = {"rope scaling": {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}}


def wrong_config(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By what is wrong, the config with it."""
    part = config.get("text_config", config)

    def whole(changed: dict) -> dict:
        return config | {"text_config": part | changed} if "text_config" in config else part | changed

    default = {"rope_ratio": 1.0} if part["model_type"] == "chatglm" else {"rope_theta": 10000.0}
    known = default | {
        name: part[name] for name in ("rope_theta", "rope_ratio", "rope_local_base_freq") if name in part
    }
    bases: dict[str, Any] = {name: 0.01 * base for name, base in known.items()}
    nested = ("rope_scaling", "rope_parameters")
    inside = {name: part[name] for name in nested if "rope_theta" in (part.get(name) or {})}
    bases |= {name: rope | {"rope_theta": 0.01 * rope["rope_theta"]} for name, rope in inside.items()}
    eps = next(name for name in ("rms_norm_eps", "layernorm_epsilon") if name in part)
    return {"rope base": whole(bases), "eps": whole({eps: 0.05})}


def _changed(plan: Plan, place: Path, tensors: Tensors, config: dict[str, Any]) -> Plan:
    """The plan with another checkpoint behind it."""
    from safetensors.torch import save_file

    place.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(config))
    other = plan_of(place, seq=SEQ, chip=CHIP)
    return replace(plan, config=other.config, checkpoint=other.checkpoint)


def wrong_plans(plan: Plan, place: Path, strict: bool = False) -> Iterator[tuple[str, Plan]]:
    """What is wrong, and the plan with that; only what the checkpoint has can be wrong. strict: as in `tried`."""
    from safetensors.torch import load_file

    source = plan.job.model_path
    tensors, config = load_file(source / "model.safetensors"), json.loads((source / "config.json").read_text())
    for number, (what, change) in enumerate((WRONG_TENSORS | STRICT_TENSORS if strict else WRONG_TENSORS).items()):
        made = change(tensors, plan)
        if any(made[name] is not tensors[name] for name in tensors):
            yield what, _changed(plan, place / str(number), made, config)
    more = {what: config | fields for what, fields in STRICT_CONFIG.items()} if strict else {}
    for what, other in (wrong_config(config) | more).items():
        yield what, _changed(plan, place / what, tensors, other)


# -----------------------------------------------------------------------------------------------------------------
# judgement


def judge(plan: Plan, launch: launches.Launch, found: dict) -> Session:
    """A session that was told what the chip gave."""

    class Told:
        def run(self, *_):
            return found

    session = Session(plan, Told())
    session.launch(launch)
    return session


def right(session: Session) -> bool:
    return all(c.ok for c in session.compared) and all(p.ok for p in session.picked)


def controls(plan: Plan, runs: dict[str, tuple[launches.Launch, dict]], place: Path) -> Iterator[tuple[str, Session]]:
    """("net: what is wrong", the session that has to see it) of everything that can be wrong with the nets of layer
    0."""
    for name, (_, found) in runs.items():
        if ": " in name:
            yield name, judge(plan, runs[name.partition(": ")[0]][0], found)
    for what, other in wrong_plans(plan, place):
        for name in BLOCKS:
            yield f"{name}: {what}", judge(other, *runs[name])


def with_tensors(plan: Plan, change: Callable[[Tensors], Tensors], place: Path) -> Plan:
    """The plan with another checkpoint behind it, of one file, whose tensors are changed."""
    from safetensors.torch import load_file, save_file

    job = plan.job
    tensors = change(load_file(job.model_path / "model.safetensors"))
    save_file({name: values.contiguous() for name, values in tensors.items()}, place / "model.safetensors")
    shutil.copy(job.model_path / "config.json", place)
    pixels = {"max_pixels": job.max_pixels} if job.max_pixels else {}
    return replace(plan, checkpoint=plan_of(place, seq=job.seq_length, chip=job.chip, **pixels).checkpoint)


def with_tensor(plan: Plan, name: str, change: Callable[[torch.Tensor], torch.Tensor], place: Path) -> Plan:
    """As with_tensors, with another tensor of that name."""

    def changed(tensors: Tensors) -> Tensors:
        made = change(tensors[name].float()).to(tensors[name].dtype)
        assert made.shape == tensors[name].shape and not made.equal(tensors[name])
        return tensors | {name: made}

    return with_tensors(plan, changed, place)
