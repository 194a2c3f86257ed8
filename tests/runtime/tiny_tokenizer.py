"""A tokenizer of a few hundred tokens, with a chat template, for tiny checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

TEXT = [
    "The quick brown fox jumps over the lazy dog.",
    "Pack my box with five dozen liquor jugs.",
    "Größe, naïve café, 你好世界, приветствие, 🙂🙃",
    "What is the capital of France? Paris is the capital of France.",
]
SPECIAL = ["<pad>", "<s>", "<|im_end|>", "<|im_start|>"]  # ids 0 to 3; configs have bos 1, eos 2
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write(model: Path, chats: bool = True, special: tuple[str, ...] = (), size: int = 400) -> Path:
    """Add tokenizer files to a checkpoint; special: further special tokens, with the ids behind those of SPECIAL.
    Returns the checkpoint."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokens = [*SPECIAL, *special]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXT, trainer)
    made.save(str(model / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[2], "pad_token": SPECIAL[0]}
    (model / "tokenizer_config.json").write_text(json.dumps(config | ({"chat_template": TEMPLATE} if chats else {})))
    return model
