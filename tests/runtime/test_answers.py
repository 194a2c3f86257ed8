"""`llmconv run` and `llmconv chat`: the text is that of transformers' own greedy generation."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_tokenizer
from plans import planned
from test_nets_of_options import Interpreted
from verify_helpers import transformers_model

from llmconv.cli.main import main
from llmconv.runtime import opened
from llmconv.runtime.answer import Dialogue, Manner, Prompt, answers
from llmconv.runtime.chip import Plain
from llmconv.runtime.runtime import Runtime
from llmconv.runtime.tokenizer import Tokenizer, Words
from llmconv.simulator import device

SEQ, MOST, VOCAB = 64, 10, 384
PROMPT = "quick fox?"
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCAB,
}


@pytest.fixture(scope="module")
def speaking(checkpoint) -> Callable[..., Path]:
    """speaking("qwen2", chats=False, ...) -> a checkpoint with a tokenizer."""

    def make(name: str = "qwen2", chats: bool = True, **options) -> Path:
        changes = {**SMALL, **options}
        return tiny_tokenizer.write(checkpoint(name, seed=7 + chats, **changes), chats, size=VOCAB)

    return make


@pytest.fixture
def interpreted(monkeypatch) -> list[Interpreted]:
    """Builds run in the interpreter, where no simulator is needed; the chips that were opened."""
    chips: list[Interpreted] = []

    class Chip(Interpreted):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def open_one(file, chip, root):
        plan = opened.manifest.told(file.parent).plan()
        chips.append(Chip(plan))
        return chips[-1]

    monkeypatch.setattr(opened, "Simulator", open_one)
    return chips


def built(model: Path, out: Path, **options) -> Path:
    """An output directory with all that a run reads, but a .bmodel without contents."""
    from llmconv.tasks.actions import copy_config

    plan = planned(model, seq=SEQ, quantize="bf16", out=out, **options)
    out.mkdir(exist_ok=True)
    disk = plan.disk_tensors[0] if plan.disk_tensors else ""
    copy_config(str(model), list(plan.copied), disk, plan.job.half, {}, {"config": str(out / "config")})
    manifest = {
        "job": plan.job.to_dict(),
        "bmodel": "x.bmodel",
        "sha256": "",
        "nets": [{"name": net.name} for net in plan.nets],
        "device": {"tokens": {"eos": [2]}},
        "checkpoint": {"table": {n: f"{one.dtype} {list(one.shape)}" for n, one in plan.checkpoint.tensors.items()}},
    }
    (out / "x.bmodel").write_bytes(b"")
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def expected(model: Path, ids: np.ndarray, most: int = MOST) -> list[int]:
    """The tokens that transformers generates greedily behind others."""
    import torch

    with torch.no_grad():
        found = transformers_model(model).generate(
            torch.from_numpy(ids)[None], max_new_tokens=most, do_sample=False, eos_token_id=2, pad_token_id=0
        )
    return found[0, len(ids) :].tolist()


def asked(model: Path, *said: str) -> np.ndarray:
    """A conversation in the chat template, by transformers itself: user, assistant, user and so on."""
    from transformers import AutoTokenizer

    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]
    known = AutoTokenizer.from_pretrained(model)
    return np.array(known.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def text(model: Path, ids: list[int]) -> str:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model).decode(ids, skip_special_tokens=True)


def ran(capsys, *words: object) -> str:
    """What a command prints; it ends well."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    return told.out


# nets of any length are for the simulator, see below
OPTIONS = [
    {},
    {"use_block_with_kv": 1},
    {"share_prompt": 1},
    {"chunk_length": 16},
    {"batch": 2},
    {"embedding_disk": 1},
    {"lora_max_rank": 4},
    {"do_sample": 1},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_text_is_that_of_transformers(options, speaking, interpreted, tmp_path, capsys):
    model = speaking()
    right = expected(model, asked(model, PROMPT))
    assert len(right) == MOST and len(set(right)) > 3 and text(model, right)
    out = built(model, tmp_path / "out", **options)
    assert ran(capsys, "run", out, PROMPT, "--max_tokens", MOST) == text(model, right) + "\n"
    (chip,) = interpreted
    assert any(name.startswith("block_cache_0") for name in chip.runs)


def said(monkeypatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


@pytest.mark.parametrize("options", [{}, {"use_block_with_kv": 1}], ids=str)
def test_a_chat_goes_on_behind_what_was_said(options, speaking, interpreted, tmp_path, capsys, monkeypatch):
    """Nets that read on behind a history read what is new alone; the others read all of it again."""
    model, first, second, length = speaking(), "fox?", "Paris", 8 if options else SEQ
    before = asked(model, first)
    tokens = expected(model, before, 4)
    whole = asked(model, first, text(model, tokens), second)
    again = text(model, expected(model, whole, 4))
    out = built(model, tmp_path / "out", **options, max_input_length=length)
    said(monkeypatch, first, "", second)
    assert ran(capsys, "chat", out, "--max_tokens", 4) == f"{text(model, tokens)}\n{again}\n"
    read = [*before, *tokens[:3]]  # the last token of an answer is not read
    same = next((n for n, (one, other) in enumerate(zip(read, whole)) if one != other), len(read))
    new = len(whole) - same if options else len(whole)
    assert same >= len(before)
    assert interpreted[0].runs.count("block_0") == -(-len(before) // length) + -(-new // length)


def test_a_chat_goes_back_where_the_template_changes_what_was_said(speaking, interpreted, tmp_path):
    plan = planned(speaking(), seq=SEQ, quantize="bf16", use_block_with_kv=1, max_input_length=8)
    runtime = Runtime.of(plan)
    chip, rng = Interpreted(plan), np.random.default_rng(0)
    assert runtime
    dialogue = Dialogue(Plain(plan, chip), runtime)
    one, other = (rng.integers(4, VOCAB, 20) for _ in range(2))
    other[:12] = one[:12]
    manner = Manner(4, frozenset())
    dialogue.read(Prompt(one))
    list(answers([dialogue], manner))
    before = chip.runs.count("block_0")
    dialogue.read(Prompt(other))
    assert (before, chip.runs.count("block_0")) == (3, 4), "the common tokens were read again"
    found = [token for (token,) in answers([dialogue], manner)]
    fresh = Dialogue(Plain(plan, chip), runtime)
    fresh.read(Prompt(other))
    assert found == [token for (token,) in answers([fresh], manner)]


def test_a_text_as_it_is(speaking, interpreted, tmp_path, capsys):
    """--plain, or a checkpoint without a chat template, which cannot chat."""
    for chats, options in ((True, ["--plain"]), (False, [])):
        model = speaking(chats=chats)
        out = built(model, tmp_path / f"out{chats}")
        ids = Tokenizer(out / "config").plain(PROMPT)
        assert ids[0] > 3, "no token of the template"
        right = text(model, expected(model, ids))
        assert ran(capsys, "run", out, PROMPT, "--max_tokens", MOST, *options) == right + "\n"
    assert main(["chat", str(out)]) == 2
    assert "no chat template" in capsys.readouterr().err


def test_an_answer_ends_with_a_token_of_the_manifest(speaking, interpreted, tmp_path, capsys):
    model = speaking()
    right = expected(model, asked(model, PROMPT))
    out = built(model, tmp_path / "out")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["device"]["tokens"]["eos"] = [2, right[4]]
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert ran(capsys, "run", out, PROMPT) == text(model, right[: right.index(right[4])]) + "\n"


def test_an_answer_ends_where_the_cache_is_full(speaking, interpreted, tmp_path, capsys):
    model = speaking()
    ids = asked(model, PROMPT)
    ran(capsys, "run", built(model, tmp_path / "out"), PROMPT, "--max_tokens", 10 * SEQ)
    assert interpreted[0].runs.count("block_cache_0") <= SEQ - len(ids)


def test_several_prompts_are_answered_together(speaking, interpreted, tmp_path, capsys):
    """Three prompts with nets for two sequences: two together, then one beside an idle place."""
    model, prompts = speaking(), [PROMPT, "dog!", "What is Paris?"]
    right = [text(model, expected(model, asked(model, prompt))) for prompt in prompts]
    out = built(model, tmp_path / "out", batch=2)
    assert ran(capsys, "run", out, *prompts, "--max_tokens", MOST) == "".join(f"{one}\n" for one in right)
    assert interpreted[0].runs.count("block_cache_0") == 2 * (MOST - 1)


def test_a_prompt_from_standard_input(speaking, interpreted, tmp_path, capsys, monkeypatch):
    model = speaking()
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROMPT))
    right = text(model, expected(model, asked(model, PROMPT)))
    assert ran(capsys, "run", built(model, tmp_path / "out"), "--max_tokens", MOST) == right + "\n"


def test_sampling_is_that_of_the_checkpoint(speaking, interpreted, tmp_path, capsys):
    """One candidate is the best token; with many, a seed gives the same text again, and another seed another."""
    model = speaking()
    out = built(model, tmp_path / "out", do_sample=1)
    greedy = ran(capsys, "run", out, PROMPT, "--max_tokens", MOST)
    config = out / "config" / "generation_config.json"
    config.write_text(json.dumps({"top_k": 1, "repetition_penalty": None}))
    assert ran(capsys, "run", out, PROMPT, "--max_tokens", MOST, "--do_sample") == greedy
    config.write_text(json.dumps({"top_k": 50, "temperature": 5.0}))
    found = [ran(capsys, "run", out, PROMPT, "--max_tokens", MOST, "--do_sample", "--seed", n) for n in (1, 1, 2)]
    assert found[0] == found[1] != found[2] and found[0] != greedy
    assert main(["run", str(built(model, tmp_path / "other")), PROMPT, "--do_sample"]) == 2
    assert "no sample_head" in capsys.readouterr().err


def test_the_system_message_comes_first(speaking, interpreted, tmp_path, capsys):
    model = speaking()
    known = Tokenizer(model)
    ids = known.chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}])
    right = text(model, expected(model, ids))
    found = ran(capsys, "run", built(model, tmp_path / "out"), PROMPT, "--system", "Be brief.", "--max_tokens", MOST)
    assert found == right + "\n" and known.text(ids.tolist()).startswith("system\nBe brief.")


def test_half_characters_wait_for_the_other_half(speaking):
    known = Tokenizer(speaking())
    ids = known.plain("a你🙂é.")
    words = Words(known)
    parts = [words.add(int(token)) for token in ids]
    assert "".join([*parts, words.rest()]) == "a你🙂é." and "\ufffd" not in "".join(parts)
    assert "" in parts, "no character of several tokens was there"
    half = Words(known)
    assert [half.add(int(token)) for token in known.plain("🙂")[:1]] == [""] and half.rest() == "\ufffd"


def test_what_does_not_fit_is_wrong_input(speaking, interpreted, tmp_path, capsys, monkeypatch):
    model = speaking()
    out = built(model, tmp_path / "out")
    assert main(["run", str(out), "fox " * SEQ]) == 2
    assert f"the nets take {SEQ}" in capsys.readouterr().err
    assert main(["run", str(out), "", "--plain"]) == 2
    assert "the prompt is empty" in capsys.readouterr().err
    said(monkeypatch, "fox " * SEQ, PROMPT)
    assert main(["chat", str(out), "--max_tokens", "3"]) == 0
    told = capsys.readouterr()
    assert f"the nets take {SEQ}" in told.err
    assert told.out == text(model, expected(model, asked(model, PROMPT), 3)) + "\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--max_tokens", "0"], "an answer has at least one"),
        (["--seed", "-1"], "0 or more"),
        (["--image", "x.png"], "takes no image"),
        (["--audio", "x.wav"], "takes no sound"),
        (["--on", "device"], "not on this machine"),
    ],
)
def test_wrong_usage(words, why, speaking, interpreted, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(device, "PLACES", ())
    out = built(speaking(), tmp_path / "out")
    assert main(["run", str(out), PROMPT, *words]) == 2
    told = capsys.readouterr().err
    assert why in told and told.count("\n") == 1


def test_a_build_without_a_tokenizer(speaking, checkpoint, interpreted, tmp_path, capsys):
    out = built(checkpoint("qwen2", **SMALL), tmp_path / "out")
    assert main(["run", str(out), PROMPT]) == 2
    assert "no tokenizer that can be read" in capsys.readouterr().err


def test_control_c_ends_quietly(speaking, interpreted, tmp_path, capsys, monkeypatch):
    out = built(speaking(), tmp_path / "out")

    def interrupt(self, name, inputs, read=()):
        raise KeyboardInterrupt

    monkeypatch.setattr(Interpreted, "run", interrupt)
    assert main(["run", str(out), PROMPT]) == 130
    assert capsys.readouterr().err == ""
