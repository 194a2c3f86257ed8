"""tokenizer.json out of a GGUF file gives the tokens of the tokenizer that the file was made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from llmconv.checkpoint.gguf import tokenizer

TEXTS = (
    "The capital of France is Paris.", "", " leading and trailing ", "don't WON'T it'S we'LL", "1234567 8.90",
    "Grüße aus Köln, 東京 é 🎉 \u200b", "a\r\n\r\nb \n  c\t\td", "snake_case camelCase UPPERCase", "<|im_start|>user\nhi<|im_end|>",
    "foo//bar/\n/", "x=1;  y = x**2  # ok", "e\u0301te\u0301", "one<|end|>  two", "  ",
)  # fmt: skip
# the cuts of published tokenizers, as their own tokenizer.json has them
SPLITS = {
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "gpt-4o": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "tekken": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
CONTROL = ["<|start|>", "<|im_start|>", "<|im_end|>"]
OWN = ["<tool>", "  \n"]


def trained(pre: str) -> Tokenizer:
    """A byte-level tokenizer with the cut of a published one."""
    made = Tokenizer(models.BPE(ignore_merges=pre in ("llama-bpe", "tekken")))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in SPLITS)
    if pre in SPLITS:
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLITS[pre]), "isolated"), level])
    elif pre == "smollm":
        made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])
    else:
        made.pre_tokenizer = level
    if pre == "qwen2":
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([text * 3 for text in TEXTS], trainer)
    made.add_tokens(OWN)
    return made


def gguf_of(made: Tokenizer, **more: Any) -> dict[str, Any]:
    """The metadata that llama.cpp's converter writes of a byte-level tokenizer."""
    vocab, model = made.get_vocab(), json.loads(made.to_str())["model"]
    tokens = sorted(vocab, key=lambda token: vocab[token])
    kinds = [3 if token in CONTROL else 4 if token in OWN else 1 for token in tokens]
    keys = {
        "model": "gpt2",
        "tokens": tokens,
        "token_type": kinds,
        "merges": [" ".join(pair) for pair in model["merges"]],
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (keys | more).items()}


def loaded(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(tokenizer.files(metadata)["tokenizer.json"]))


@pytest.mark.parametrize("pre", [*SPLITS, "smollm", "gpt-2"])
def test_bytes(pre):
    theirs = trained(pre)
    ours = loaded(gguf_of(theirs, pre=pre, add_bos_token=False))
    for text in (*TEXTS, "<tool>x  \n<|start|>"):
        wanted = theirs.encode(text)
        assert ours.encode(text).ids == wanted.ids, text
        assert ours.decode(wanted.ids) == theirs.decode(wanted.ids)


@pytest.mark.parametrize(
    "bos, wanted", [({}, True), ({"add_bos_token": False}, False), ({"add_bos_token": True}, True)]
)
def test_what_stands_before_a_text(bos, wanted):
    theirs = trained("llama-bpe")
    ours = loaded(gguf_of(theirs, pre="llama-bpe", bos_token_id=0, eos_token_id=2, add_eos_token=True, **bos))
    ids = theirs.encode("hi").ids
    assert ours.encode("hi").ids == [0] * wanted + ids + [2]
    assert ours.encode("hi", add_special_tokens=False).ids == ids


def pieces(prefix: bool) -> tuple[Tokenizer, dict[str, Any]]:
    """A tokenizer with SentencePiece's vocabulary, and its metadata: scores fall with the rank of a piece."""
    steps = [normalizers.Replace(" ", "▁")]
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *steps] if prefix else steps)
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    made.train_from_iterator([text for text in TEXTS if text.isascii()], trainer)
    data = json.loads(made.to_str())
    vocab = data["model"]["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    last = [decoders.Strip(" ", 1, 0)] if prefix else []
    theirs = Tokenizer.from_str(json.dumps(data))
    theirs.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    tokens = sorted(vocab, key=lambda token: vocab[token])
    ranks = {"".join(pair): i for i, pair in enumerate(data["model"]["merges"])}
    kinds = [2 if i == 0 else 3 if i < 3 else 6 if token.startswith("<0x") else 1 for i, token in enumerate(tokens)]
    keys = {"model": "llama", "tokens": tokens, "token_type": kinds, "add_space_prefix": prefix, "unknown_token_id": 0,
            "scores": [-float(ranks.get(token, 1000)) for token in tokens], "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    return theirs, {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces(prefix):
    theirs, metadata = pieces(prefix)
    ours = loaded(metadata)
    for text in TEXTS:
        wanted = theirs.encode(text).ids
        assert ours.encode(text).ids == [1, *wanted], text
        assert ours.decode(wanted) == theirs.decode(wanted)


def test_a_phi_3_takes_the_spaces_behind_its_marks():
    _, metadata = pieces(True)
    for key, value in (("tokens", "<|end|>"), ("token_type", 3), ("scores", -1000.0)):
        metadata[f"tokenizer.ggml.{key}"] = [*metadata[f"tokenizer.ggml.{key}"], value]
    mark = len(metadata["tokenizer.ggml.tokens"]) - 1
    phi, other = loaded(metadata | {"general.architecture": "phi3"}), loaded(metadata)
    assert phi.encode("one<|end|>\n  two").ids == phi.encode("one<|end|>two").ids
    assert mark in phi.encode("one<|end|>\n").ids
    assert other.encode("one<|end|>\n").ids != other.encode("one<|end|>").ids


def test_what_ends_an_answer():
    theirs = trained("qwen2")
    made = tokenizer.files(gguf_of(theirs, pre="qwen2", eos_token_id=0, eot_token_id=1, bos_token_id=1 << 20))
    assert made["generation_config.json"] == {"eos_token_id": [0, 1, 2]}, "and <|im_end|>, a control token"


@pytest.mark.parametrize(
    "change",
    [{"pre": "whatever"}, {"model": "bert"}, {"tokens": ["a", "a"]}, {"tokens": 3}, {"merges": [1]}, {"tokens": [1]}],
)
def test_an_unknown_vocabulary_has_no_tokenizer(change):
    made = tokenizer.files(gguf_of(trained("gpt-2"), **{"pre": "gpt-2"} | change))
    assert made.keys() == {"tokenizer_config.json", "generation_config.json"}


def test_transformers_reads_it(tmp_path):
    from llmconv.runtime.tokenizer import Tokenizer as Own

    metadata = gguf_of(trained("qwen2"), pre="qwen2", eos_token_id=2, padding_token_id=0)
    metadata["tokenizer.chat_template"] = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
    for name, content in tokenizer.files(metadata).items():
        Path(tmp_path, name).write_text(json.dumps(content))
    Path(tmp_path, "config.json").write_text('{"model_type": "qwen2"}')
    found = Own(tmp_path)
    ids = found.chat([{"role": "user", "content": "The capital"}])
    assert ids[0] == 1 and ids[-1] == 2 and found.text(ids.tolist()) == "The capital"
