"""Build and run transformers' class for a checkpoint, without its weights and with one layer or none.

Only documented behaviour is used: a class is made from a config, runs through its own forward with the given weights,
and is observed through torch's hooks.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmconv.checkpoint.config import Config
from llmconv.families.oracle import Oracle

if TYPE_CHECKING:
    import torch


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what transformers says about itself and not about the model: warnings, and its log below errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import logging

        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(before)


def settings(oracle: Oracle, config: Any) -> Any:
    """The class's own config object for a config.json. Quantisation is left out: weights are given in float."""
    left_out = ("quantization_config", "compression_config")
    given = {name: value for name, value in oracle.config(config).items() if name not in left_out}
    with quiet():
        import transformers

        return transformers.CONFIG_MAPPING[given["model_type"]].from_dict(copy.deepcopy(given))


def build(oracle: Oracle, config: Any, layer: int | None) -> Any:
    """The class's model in eval mode, with layer `layer` as its only one, or with none: parameters without storage,
    buffers (rotary frequencies, scales) real. config: what `settings` gave.
    """
    with quiet():
        import torch
        import transformers

        cut = copy.deepcopy(config)
        text = cut.get_text_config()
        fields: dict[str, Any] = {"layer_types": []} if layer is None else oracle.layer(text.to_dict(), layer)
        fields["num_hidden_layers"] = 0 if layer is None else 1
        # it counts rows of the whole embedding table, and a call gets only a few of them; training alone needs it
        fields["pad_token_id"] = None
        for name, value in fields.items():
            setattr(text, name, value)
        maker = getattr(transformers, oracle.auto)
        with _no_storage():
            return maker.from_config(cut, dtype=torch.float32, attn_implementation="eager").eval()


def towers(oracle: Oracle, config: Config) -> Any:
    """The towers of a config.json where the class has none, in eval mode and without storage; None where it has."""
    if oracle.towers is None:
        return None
    with quiet(), _no_storage():
        return oracle.towers(config).eval()


@contextmanager
def _no_storage() -> Iterator[None]:
    """Put the parameters of modules that are built meanwhile on the meta device."""
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    def bare(_: Any, __: str, value: torch.nn.Parameter) -> Any:  # torch declares None alone
        return torch.nn.Parameter(value.to("meta"), requires_grad=False)

    with register_module_parameter_registration_hook(bare):
        yield


def call(module: Any, weights: Mapping[str, torch.Tensor], **inputs: Any) -> Any:
    """Run the module's forward with these weights, by its parameters' names, in place of its own."""
    import torch

    with quiet(), torch.inference_mode():
        return torch.func.functional_call(module, dict(weights), (), inputs)


def cache_argument(decoder: Any) -> str:
    """The name of the Cache argument of the decoder's forward: past_key_values, or cache from transformers 5.24 on."""
    return "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"


def before(
    module: Any, given: torch.Tensor | None = None, seen: Callable[[torch.Tensor], None] = lambda _: None
) -> Any:
    """Hook the module's first argument, its hidden states: pass it to `seen`, and put `given` in its place, if given.

    Returns a context manager that removes the hook.
    """

    def hook(_: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if args:
            seen(args[0])
            return None if given is None else ((given, *args[1:]), kwargs)
        name = next(iter(kwargs))
        seen(kwargs[name])
        return None if given is None else (args, kwargs | {name: given})

    return module.register_forward_pre_hook(hook, with_kwargs=True)
