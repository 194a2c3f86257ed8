"""Special tokens: every file and form that names one, and values that name none."""

from __future__ import annotations

import json

import pytest

from llmconv.checkpoint import tokens
from llmconv.checkpoint.config import Config
from llmconv.errors import InputError

QWEN = {
    "added_tokens_decoder": {"151643": {"content": "<|endoftext|>"}, "151645": {"content": "<|im_end|>"}},
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": {"content": "<|endoftext|>"},
}


def read(folder, config, **files) -> tokens.SpecialTokens:
    for name, content in {"config": {"model_type": "x"} | config, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return tokens.read(Config.read(folder), folder)


def test_all_that_end_an_answer_are_kept(tmp_path):
    """An instruct model: the end of a turn is in generation_config.json or the tokenizer, the end of a text in
    config.json."""
    found = read(
        tmp_path,
        {"eos_token_id": 151643, "bos_token_id": 151643},
        generation_config={"eos_token_id": [151645, 151643], "pad_token_id": 151643},
    )
    assert found == tokens.SpecialTokens(151643, (151645, 151643), 151643, {})
    assert read(
        tmp_path, {"eos_token_id": 151643}, generation_config={}, tokenizer_config=QWEN
    ) == tokens.SpecialTokens(None, (151643, 151645), 151643, {})


def test_the_first_file_that_names_one_wins(tmp_path):
    nested = {"bos_token_id": None, "text_config": {"bos_token_id": 2, "eos_token_id": [1, 106]}}
    assert read(tmp_path, nested) == tokens.SpecialTokens(2, (1, 106), None, {})
    assert read(tmp_path, nested, generation_config={"bos_token_id": 5, "eos_token_id": 106}) == tokens.SpecialTokens(
        5, (106, 1), None, {}
    )


def test_tokens_of_images_have_their_names_in_config_json(tmp_path):
    named = {
        "image_token_id": 9,
        "vision_start_token_id": 7,
        "boi_token_index": 6,
        "image_token_index": 8,
        "audio_token_id": 3,
    }
    other = {
        "decoder_start_token_id": 1,
        "image_size": 224,
        "video_token_id": None,
        "vision_config": {"image_token_id": 4},
    }
    assert read(tmp_path, named | other).seen == named


@pytest.mark.parametrize("value", [None, -1, "2", 2.0, True, [], [None]])
def test_what_is_no_id_names_none(tmp_path, value):
    found = read(
        tmp_path,
        {"eos_token_id": value, "pad_token_id": value, "image_token_id": value},
        generation_config={"bos_token_id": value},
        tokenizer_config={"eos_token": "<gone>", "added_tokens_decoder": []},
    )
    assert found == tokens.SpecialTokens()


@pytest.mark.parametrize("name", ["generation_config", "tokenizer_config"])
@pytest.mark.parametrize("text, word", [("{", "is not valid JSON"), ("[]", "is no JSON object")])
def test_a_broken_file(tmp_path, name, text, word):
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    (tmp_path / f"{name}.json").write_text(text)
    with pytest.raises(InputError, match=f"{name}.json {word}"):
        tokens.read(Config.read(tmp_path), tmp_path)
