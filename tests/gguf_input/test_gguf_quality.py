"""What quantisation costs, of a GGUF file: its weights and its tokenizer are those of the checkpoint that it was made of
(tests/test_quality.py holds that one against transformers)."""

from __future__ import annotations

import json

from gguf_files import write
from test_gguf_tokenizer import gguf_of, trained

from llmconv.quality import quality
from llmconv.quality.quality import Wish
from llmconv.request.job import Job


def test_a_file_and_its_checkpoint_cost_the_same(tmp_path, written):
    model, tokenizer = written("qwen2"), trained("qwen2")
    tokenizer.save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    metadata = gguf_of(tokenizer, pre="qwen2", add_bos_token=False)
    file = write(
        model, tmp_path / "m.gguf", "F32", **{key.replace(".", "__"): value for key, value in metadata.items()}
    )
    whole, same = (
        quality.measure(
            Job.create({"model": str(one), "seq": "64", "out": str(tmp_path / out), "quantize": "w4bf16"}),
            Wish(tokens=60, window=32),
        )
        for one, out in ((model, "whole"), (file, "same"))
    )
    assert whole.variants == same.variants and len(whole.variants) > 5
    assert len({one.perplexity for one in whole.variants}) > 5, "they differ from each other"
