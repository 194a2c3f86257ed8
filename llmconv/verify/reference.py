"""The model's own maths: transformers' class for the checkpoint, in torch f32, part by part.

Nothing of our graph is used here, only config.json, the tensors and the class's own forward. The class is built without weights;
a part's weights are read when the part runs, so that memory does not grow with the number of layers.
Hidden states and caches go in and out as NumPy float32, keys and values in the runtime's layout [1, L, KV, D], keys after rope.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmconv.checkpoint import recipe
from llmconv.families.oracle import Oracle
from llmconv.verify.adapters import Adapter
from llmconv.verify.dequantise import Dequantised
from llmconv.verify.vision import Sight
from llmconv.verify.weights import Precision

if TYPE_CHECKING:
    import numpy as np
    import torch

    from llmconv.plan.plan import Plan

KEEP_BYTES = 256 << 20  # layers kept for the next token; more are read again
HEAD_BYTES = 128 << 20  # of the head's float32 weight in memory at a time


class Reference:
    """The model of a plan.

    routing: of the layer that ran last, if it has routed experts: the router's logits [L, experts].
    precision: how the weights are rounded (default: as the chip has them; Precision() for the checkpoint's own values).
    dtype: torch type of the maths; a half type tells what half precision costs any implementation of this model.
    adapter: LoRA of the layers' linears (and where `adapted` is asked for, of the embedding and the head).
    """

    def __init__(self, plan: Plan, precision: Precision | None = None, dtype: str = "f32", adapter: Adapter | None = None):
        import torch

        self.adapter = adapter
        self.plan, self.oracle = plan, plan.family.reference or Oracle()
        self.precision = Precision.of(plan) if precision is None else precision
        self.tensors = Dequantised.of(plan, self.precision.scales) if plan.spec.stored else plan.checkpoint
        self.dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
        self.model = _build(self.oracle, plan.config)
        self.decoder = self.model.get_decoder()
        self.routing: np.ndarray | None = None
        self.paths = {id(module): path for path, module in self.model.named_modules()}
        self._kept: OrderedDict[int, dict[str, torch.Tensor]] = OrderedDict()

    @cached_property
    def sight(self) -> Sight:
        """The vision module, of a model that has one."""
        return Sight(self)

    @property
    def layers(self) -> int:
        return len(self.decoder.layers)

    def embed(self, ids: np.ndarray, adapted: bool = False) -> np.ndarray:
        """Token ids [1, L] -> hidden states [1, L, H], in float32 whatever `dtype`. Reads only the tokens' rows."""
        import numpy as np
        import torch

        table = self.decoder.get_input_embeddings()
        source = self.source(self.paths[id(table)] + ".weight")
        used, where = np.unique(ids, return_inverse=True)
        rows = np.concatenate([recipe.evaluate(("rows", source, int(i), int(i) + 1), self.tensors) for i in used])
        rows = self.precision.of_other(rows) + (self.adapter.rows(used) if adapted and self.adapter else 0)
        few = copy.copy(table)
        few.padding_idx = None  # it names a row of the whole table, and matters to training alone
        bare = _with_parts(self.decoder, {id(table): few, id(self.decoder.norm): torch.nn.Identity(), id(self.decoder.layers): torch.nn.ModuleList()})
        name = next(n for n, m in bare.named_modules() if m is few)
        ids = torch.from_numpy(where.reshape(ids.shape))
        with torch.inference_mode():
            weights = {f"{name}.weight": torch.from_numpy(rows)}
            return torch.func.functional_call(bare, weights, (), {"input_ids": ids, "use_cache": False}).last_hidden_state.numpy()

    def block(self, layer: int, hidden: np.ndarray, positions: np.ndarray, mask: np.ndarray, past: tuple[np.ndarray, np.ndarray] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One decoder layer; the last one ends with the final norm, as the nets have it (but those that are split over devices).

        hidden [1, L, H]; positions [1, L] (or [3, 1, L]); mask [1, 1, L, history + L], added to the scores, as is the class's own
        sliding window; past: keys and values [1, history, KV, D]. Returns hidden [1, L, H] and the new keys and values [1, L, KV, D].
        """
        import torch

        module = self.decoder.layers[layer]
        cache = _Cache([self._tensor(x).transpose(1, 2) for x in past] if past else None)
        x, positions = self._tensor(hidden), torch.from_numpy(positions).long()
        with torch.inference_mode(), self._routing(module), self._adapted(module):
            given = {
                "attention_mask": self._tensor(mask) + self._beyond_window(layer, *mask.shape[2:]),
                "position_ids": positions,
                "position_embeddings": self._rotary(layer, x, positions),
                "past_key_values": cache,
            }
            y = torch.func.functional_call(module, self._layer(layer), (x,), given)
            y = y[0] if isinstance(y, tuple) else y
            if layer == self.layers - 1 and not self.plan.job.splits:
                y = torch.func.functional_call(self.decoder.norm, self.weights(self.decoder.norm), (y,))
        return tuple(t.float().numpy() for t in (y, *(n.transpose(1, 2) for n in cache.new)))

    def logits(self, hidden: np.ndarray, adapted: bool = False) -> np.ndarray:
        """Hidden states [N, H] (after the final norm, unless the nets have it in the head) -> logits [N, V], by the class's own forward around a given decoder output."""
        import numpy as np
        import torch

        head = self.model.get_output_embeddings()
        name = self.paths[id(self.decoder.get_input_embeddings() if self.plan.spec.tied else head)] + ".weight"
        parts, width = [], head.weight.shape[1]
        step = max(1, HEAD_BYTES // (4 * width))
        state = self._tensor(hidden)[None]
        if self.plan.job.splits:
            with torch.inference_mode():
                state = torch.func.functional_call(self.decoder.norm, self.weights(self.decoder.norm), (state,))
        shell = _with_parts(self.model, {id(self.model.base_model): _given(state)})
        path = self.paths[id(head)]
        with torch.inference_mode():
            for first in range(0, head.weight.shape[0], step):
                last = min(first + step, head.weight.shape[0])
                rows = self.precision.of_other(recipe.evaluate(("rows", self.source(name), first, last), self.tensors))
                weight = self._tensor(rows + self.adapter.of_head(first, last) if adapted and self.adapter else rows)
                parts.append(torch.func.functional_call(shell, {f"{path}.weight": weight}, (), {"use_cache": False}).logits[0].float().numpy())
        return np.concatenate(parts, -1)

    def source(self, name: str) -> tuple:
        """The recipe of one of the class's parameters."""
        return self.oracle.tensor(name, self.plan.spec)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        import numpy as np
        import torch

        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self.dtype)

    @contextmanager
    def _adapted(self, layer: Any) -> Iterator[None]:
        """Adds the adapter's part to what the layer's linears give, as PEFT does: x A^T B, in the dtype of the maths."""
        import torch

        hooks = []
        for module in layer.modules() if self.adapter else ():
            if isinstance(module, torch.nn.Linear):
                parts = self.adapter.parts_of(self.source(f"{self.paths[id(module)]}.weight"))
                parts = [(first, last, self._tensor(a), self._tensor(b)) for first, last, a, b in parts]

                def add(_, given, output, parts=parts):
                    for first, last, a, b in parts:
                        output[..., first:last] += given[0] @ a.T @ b
                    return output

                hooks.append(module.register_forward_hook(add))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _routing(self, layer: Any) -> Iterator[None]:
        """Keeps the logits of the layer's router: the first output of a module that has a top_k."""
        self.routing = None

        def keep(_, __, output) -> None:
            self.routing = output[0].float().numpy()

        hooks = [module.register_forward_hook(keep) for module in layer.modules() if hasattr(module, "top_k") and hasattr(module, "weight")]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _beyond_window(self, layer: int, rows: int, keys: int) -> torch.Tensor:
        """[rows, keys]: -1e9 for keys that the layer's window leaves out, by the class's config; the last `rows` keys are the queries' own."""
        import torch

        config = self.decoder.config
        types = getattr(config, "layer_types", None)
        window = getattr(config, "sliding_window", None) if types is None or types[layer] == "sliding_attention" else None
        if window is None:
            return torch.zeros((), dtype=self.dtype)
        queries = torch.arange(keys - rows, keys)[:, None]
        far = torch.tensor(-1e9).to(self.dtype)  # -inf in float16, which a product with 0 would make NaN
        return torch.where(torch.arange(keys) <= queries - window, far, torch.zeros_like(far))

    def _rotary(self, layer: int, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin of the model's own rotary module, as in a sequence that fills the whole capacity.

        longrope picks its factors by the longest position that it is shown; a compiled net has one table for all of its positions.
        """
        import torch

        last = torch.full_like(positions[..., :1], self.plan.job.seq_length - 1)
        rotary = self.decoder.rotary_emb
        kind = (self.decoder.config.layer_types[layer],) if "layer_type" in inspect.signature(rotary.forward).parameters else ()
        cos, sin = rotary(x, torch.cat([positions, last], -1), *kind)
        return cos[..., :-1, :], sin[..., :-1, :]

    def weights(self, module: Any, quantised: bool = True) -> dict[str, torch.Tensor]:
        """The module's parameters by their names in it, read from the checkpoint. quantised: whether its linears may be; one with a single
        output, the gate of a shared expert, is not."""
        import torch

        linear = {f"{n}.weight" for n, m in module.named_modules() if quantised and isinstance(m, torch.nn.Linear) and m.out_features > 1}
        path = self.paths[id(module)]
        weights = {}
        for n, _ in module.named_parameters():
            source = self.source(f"{path}.{n}")
            values = recipe.evaluate(source, self.tensors)
            values = self._rounded(values, n in linear)
            weights[n] = self._tensor(values)
        return weights

    def _rounded(self, values: np.ndarray, linear: bool) -> np.ndarray:
        """A parameter as the chip has it. One of three axes holds the linears of all experts."""
        import numpy as np

        if values.ndim == 3:
            return np.stack([self.precision.of_linear(one) for one in values])
        return self.precision.of_linear(values) if linear else self.precision.of_other(values)

    def _layer(self, layer: int) -> dict[str, torch.Tensor]:
        if layer not in self._kept:
            self._kept[layer] = self.weights(self.decoder.layers[layer])
            while len(self._kept) > 1 and sum(t.nbytes for w in self._kept.values() for t in w.values()) > KEEP_BYTES:
                self._kept.popitem(last=False)
        return self._kept[layer]


class _Cache:
    """What a layer's attention sees of transformers' Cache: `update` appends to the history and remembers what was new."""

    def __init__(self, past: list | None):
        self.past, self.new = past, ()

    def update(self, keys, values, *_, **__):
        import torch

        self.new = (keys, values)
        return (keys, values) if self.past is None else tuple(torch.cat([old, new], 2) for old, new in zip(self.past, self.new))


def _build(oracle: Oracle, config: Any) -> Any:
    """The class's model in eval mode: parameters without storage, buffers (rotary frequencies, scales) real."""
    import torch
    import transformers

    given = {name: value for name, value in oracle.config(config).items() if name not in ("quantization_config", "compression_config")}
    settings = transformers.CONFIG_MAPPING[given["model_type"]].from_dict(copy.deepcopy(given))
    maker = getattr(transformers, oracle.model) if oracle.model else transformers.AutoModelForCausalLM
    with _no_storage():
        build = maker._from_config if oracle.model else maker.from_config
        return build(settings, dtype=torch.float32, attn_implementation="eager").eval()


@contextmanager
def _no_storage() -> Iterator[None]:
    """Modules that are built meanwhile have their parameters on the meta device."""
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    hook = register_module_parameter_registration_hook(lambda _, __, value: torch.nn.Parameter(value.to("meta"), requires_grad=False))
    try:
        yield
    finally:
        hook.remove()


def _with_parts(module: Any, parts: dict[int, Any]) -> Any:
    """A copy of the module with some of its children (by id) replaced; the module itself stays as it is."""
    bare = copy.copy(module)
    bare._modules = {name: parts.get(id(child), child) for name, child in module._modules.items()}
    return bare


def _given(hidden: torch.Tensor) -> Any:
    """A stand-in for a decoder: whatever goes in, `hidden` [1, N, H] comes out."""
    import torch
    from transformers.modeling_outputs import MoeModelOutputWithPast  # the other fields of a BaseModelOutputWithPast, and router_logits

    class Output(MoeModelOutputWithPast):
        rope_deltas = None  # what models with three positions give too

    class Given(torch.nn.Module):
        def forward(self, *_, **__):
            return Output(last_hidden_state=hidden)

    return Given()
