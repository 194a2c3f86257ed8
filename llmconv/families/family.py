"""The declaration of a family."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from llmconv.blocks.decoder import Decoder
from llmconv.blocks.spec import Spec
from llmconv.blocks.tower import Tower
from llmconv.checkpoint.config import Config
from llmconv.families.oracle import Oracle

# options with the values that public demos for nets of one length, without history, can drive
STATIC_DEMO: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "use_block_with_kv": (False,),
        "use_history_kv": (False,),
        "batch": (1,),
        "embedding_disk": (False,),
        "num_device": (1,),
    }
)


@dataclass(frozen=True)
class Family:
    """A model family: the model_types of config.json that it serves, its decoder's knobs, and tensors to leave alone.

    decoder: a function of config.json and the names of the checkpoint's tensors, where the language model may be one
    of several families'; it raises InputError for others.
    towers: those of its towers, for images or sound, that are converted.
    reference: the transformers class whose maths verification trusts (default: what AutoModelForCausalLM picks).
    left_out: name patterns of tensors of parts that are not converted, such as a vision tower; a note says so.
    equal_lengths: its public demo sizes mask and KV cache by the embedding net, and so needs max_input_length ==
    seq_length.
    demo: options, by their fields of Job, with the values that its public demo can drive; a note says of others that it
    cannot.
    part: of config.json, the part that describes what is converted, with fields that count before those of the whole
    ("": the whole does, and where there is no such part).
    three_rows: its public demo uploads three positions for every token, all alike. Nets of any length take them so,
    since rows lie one behind the other there; those of one length take the first row alone.
    name: that of its module, filled in when it is registered.
    forces: options, by their fields of Job, that its nets need whatever was asked for; a note says so.
    unused: name patterns (re.search) of tensors that checkpoints hold and the model does not use.
    """

    model_types: tuple[str, ...]
    decoder: Decoder | Callable[[Config, Container[str]], Decoder]
    towers: tuple[Tower[Any, Any], ...] = ()
    reference: Oracle | None = None
    unused: tuple[str, ...] = (r"rotary_emb\.inv_freq$",)
    left_out: tuple[str, ...] = ()
    equal_lengths: bool = False
    demo: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    forces: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""
    three_rows: bool = False
    name: str = ""

    def converted(self, config: Config) -> Config:
        """What config.json says of the model that is converted, with the model_type of the whole."""
        own = config.sub(self.part)
        return config if own is config else config.under({**own.data, "model_type": config["model_type"]})

    def language(self, config: Config, tensors: Container[str] = ()) -> Decoder:
        """The decoder of one model."""
        return self.decoder if isinstance(self.decoder, Decoder) else self.decoder(config, tensors)

    def spec(self, config: Config, tensors: Container[str] = ()) -> Spec:
        """The decoder's sizes in one model; see `Decoder.spec`."""
        return self.language(config, tensors).spec(config, tensors)
