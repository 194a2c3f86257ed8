"""The model's own maths: transformers' class for the checkpoint, in torch f32, part by part.

Nothing of our graph is used here, only config.json, the tensors and the class's own forward, mask, cache and rotary
tables included. A layer is run in a model of the class that has this layer alone, embedding and head in one that has
none; a part's weights are read when the part runs, so that memory does not grow with the number of layers.
Hidden states and the layers' states go in and out as NumPy float32, in the runtime's layout.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmconv.checkpoint import recipe
from llmconv.checkpoint.patterns import any_of
from llmconv.families.oracle import Oracle
from llmconv.runtime import state
from llmconv.runtime.across import Across
from llmconv.verify import across, classes, routing
from llmconv.verify.adapters import Adapter
from llmconv.verify.stored import stored
from llmconv.verify.vision import Sight
from llmconv.verify.weights import Precision

if TYPE_CHECKING:
    import numpy as np
    import torch

    from llmconv.blocks.mixer import State
    from llmconv.plan.plan import Plan

KEEP_BYTES = 256 << 20  # layers kept for the next token; more are read again
HEAD_BYTES = 128 << 20  # of the head's float32 weight in memory at a time


class Reference:
    """The model of a plan.

    routing: of the layer that ran last, if it has routed experts: the router's logits [L, experts].
    config: the class's own config.
    frame: the class without layers; its parameters have no storage, unless they are of its towers.
    precision: how the weights are rounded (default: as the chip has them; Precision() for the checkpoint's own values).
    dtype: torch type of the maths; a half type tells what half precision costs any implementation of this model.
    adapter: LoRA of the layers' linears (and where `adapted` is asked for, of the embedding and the head).
    like: a reference to the same model, whose class and tensors are taken: another one differs in precision alone.
    """

    def __init__(
        self,
        plan: Plan,
        precision: Precision | None = None,
        dtype: str = "f32",
        adapter: Adapter | None = None,
        like: Reference | None = None,
    ):
        import torch

        self.adapter = adapter
        self.plan, self.oracle = plan, plan.family.reference or Oracle()
        self.precision = Precision.of(plan) if precision is None else precision
        self.tensors = like.tensors if like else stored(plan, self.precision.scales)
        self.dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
        self.config = like.config if like else classes.settings(self.oracle, plan.config)
        self.frame = like.frame if like else classes.build(self.oracle, self.config, None)
        self.layers: int = self.config.get_text_config().num_hidden_layers
        self.routing: np.ndarray | None = None
        self._paths = {id(module): path for path, module in self.frame.named_modules()}
        self._kinds: dict[str, Any] = like._kinds if like else {}
        self._kept: OrderedDict[int, dict[str, torch.Tensor]] = OrderedDict()

    @cached_property
    def sight(self) -> Sight:
        """The towers, of a model that has some."""
        return Sight(self.frame, classes.towers(self.oracle, self.plan.config), self._converted, self.dtype)

    @property
    def longrope(self) -> str | None:
        """Which of longrope's two tables of factors all positions have, "short" or "long": a compiled net has one, that
        of its whole capacity. None for any other rope."""
        rope = self.config.get_text_config().rope_parameters
        if rope.get("rope_type") != "longrope":
            return None
        return "long" if self.plan.job.seq_length > rope["original_max_position_embeddings"] else "short"

    def embed(self, ids: np.ndarray, adapted: bool = False) -> np.ndarray:
        """Token ids [1, L] -> hidden states [1, L, H], in float32 whatever `dtype`. Reads only the tokens' rows."""
        import numpy as np
        import torch

        decoder = self.frame.get_decoder()
        table = decoder.get_input_embeddings()
        source = self.source(self._paths[id(table)] + ".weight")
        used, where = np.unique(ids, return_inverse=True)
        rows = np.concatenate([recipe.evaluate(("rows", source, int(i), int(i) + 1), self.tensors) for i in used])
        rows = self.precision.of_other(rows) + (self.adapter.rows(used) if adapted and self.adapter else 0)
        name = next(n for n, module in decoder.named_modules() if module is table)
        norm = {f"{self.oracle.norm}.{n}": w.float() for n, w in self._norm.items()}
        weights = {f"{name}.weight": torch.from_numpy(rows)} | norm
        found: list[torch.Tensor] = []
        with classes.before(self._final(decoder), seen=found.append):
            classes.call(decoder, weights, input_ids=torch.from_numpy(where.reshape(ids.shape)), use_cache=False)
        return found[0].numpy()

    def block(
        self,
        layer: int,
        hidden: np.ndarray,
        positions: np.ndarray,
        past: Mapping[str, np.ndarray] | None = None,
        seen: Across | None = None,
        experts: np.ndarray | None = None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """One decoder layer. The last one ends with the final norm, as in the nets, unless they are split over devices.

        hidden [1, L, H]: each token attends to itself, to those before it and to the history, as far as the layer's
        window goes. positions: [1, L] (or [3, 1, L]). past: the layer's states by name, [1, history, ...] if they grow,
        else [1, ...]; a missing one is empty, or zeros. seen: what the tokens see where the layer looks across (None:
        nothing was shown, and the class leaves the layer out). experts: those that the tokens are sent to [L, chosen],
        if not those that the router chooses. Returns hidden [1, L, H] and the new states, [1, L, ...]
        if they grow.
        """
        import torch

        model, mixer = self._kind(layer), self.plan.spec.kinds[layer].mixer
        decoder, count, memory = model.get_decoder(), hidden.shape[1], self.oracle.memories[mixer.kind]
        x, places = self._tensor(hidden), torch.from_numpy(positions).long()
        places = places[0] if self.oracle.one_position and places.ndim > 2 else places
        if "positions" in mixer.takes:
            # a last token, which nobody attends to, stands at the last position of the whole capacity: longrope picks
            # its table by the longest position that it is shown, and a compiled net has one table for all positions
            x = torch.cat([x, x[:, -1:]], 1)
            places = torch.cat([places, torch.full_like(places[..., :1], self.plan.job.seq_length - 1)], -1)
        states = mixer.states(self.plan.spec)
        looking = mixer.across and seen is not None
        kept = self._past(states, past or {} if looking or not mixer.across else {})
        cache = memory.fill(decoder.config, kept)
        inputs = {"inputs_embeds": x, "position_ids": places, classes.cache_argument(decoder): cache, "use_cache": True}
        run, weights = decoder, self._layer(layer)
        if seen is not None and looking:
            # the class around the decoder makes its masks
            run, prefix = model.base_model, _name(model.base_model, decoder)
            weights = {f"{prefix}.{name}": weight for name, weight in weights.items()}
            inputs |= across.given(seen, self._tensor, new=not kept)
        routed = hasattr(decoder.config, "output_router_logits")
        inputs |= {"output_router_logits": True} if routed else {}
        made: list[torch.Tensor] = []
        with ExitStack() as hooks:
            for hook in self._hooks(decoder, layer, x, made):
                hooks.enter_context(hook)
            if experts is not None:
                router = decoder.layers[0].get_submodule(self.oracle.router)
                hooks.enter_context(router.register_forward_hook(routing.sends(experts)))
            out = classes.call(run, weights, **inputs)
        logits = out.router_logits if routed else None
        self.routing = logits[0][:count].float().numpy() if logits else None
        final = layer == self.layers - 1 and not self.plan.job.splits
        new = {name: values.float().numpy() for name, values in memory.read(cache, kept, count).items()}
        found = out.last_hidden_state if final else made[0] if made else x
        return found[:, :count].float().numpy(), state.copied(states, new)

    def logits(self, hidden: np.ndarray, adapted: bool = False) -> np.ndarray:
        """Hidden states [N, H] (after the final norm, unless the nets have it in the head) -> logits [N, V], by the
        class's own forward."""
        import numpy as np

        return np.concatenate(list(self.logit_parts(hidden, adapted)), -1)

    def logit_parts(self, hidden: np.ndarray, adapted: bool = False) -> Iterator[np.ndarray]:
        """As `logits`, for one part of the vocabulary after the other."""
        head, norm = self.frame.get_output_embeddings(), self._final(self.frame.get_decoder())
        table = head if self._has_head else self.frame.get_input_embeddings()
        source, path = self.source(self._paths[id(table)] + ".weight"), self._paths[id(head)]
        (vocab, width), state = head.weight.shape, self._tensor(hidden)[None]
        weights = {f"{self._paths[id(norm)]}.{n}": w for n, w in self._norm.items()}
        step = max(1, HEAD_BYTES // (4 * width))
        with ExitStack() as hooks:
            hooks.enter_context(classes.before(norm, state))
            if not self.plan.job.splits:
                hooks.enter_context(norm.register_forward_hook(lambda *_: state))
            for first in range(0, vocab, step):
                last = min(first + step, vocab)
                rows = self.precision.of_head(recipe.evaluate(("rows", source, first, last), self.tensors), first)
                weight = self._tensor(rows + self.adapter.of_head(first, last) if adapted and self.adapter else rows)
                weights[f"{path}.weight"] = weight
                found = classes.call(self.frame, weights, inputs_embeds=state, use_cache=False)
                yield found.logits[0].float().numpy()

    def forget(self) -> None:
        """Let go of the layers' weights."""
        self._kept.clear()

    def source(self, name: str) -> tuple:
        """The recipe of one of the class's parameters, by the names that the checkpoint has."""
        spec = self.plan.spec
        found = self.oracle.tensor(name, spec.published)
        naming = spec.naming
        return recipe.replaced(found, lambda one: ("tensor", naming.of(one))) if naming else found

    def _converted(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The class's parameters by their names, but for those of parts that are not converted."""
        left_out = any_of(self.plan.family.left_out)
        return self.weights(name for name in names if not any(map(left_out, recipe.names(self.source(name)))))

    def weights(
        self, names: Iterable[str], linear: Iterable[str] = (), layer: int | None = None
    ) -> dict[str, torch.Tensor]:
        """The class's parameters by their names, read from the checkpoint. linear: those that may be quantised, of
        block `layer`."""
        linear = set(linear)
        return {name: self._tensor(self._rounded(self.source(name), name in linear, layer)) for name in names}

    @property
    def _has_head(self) -> bool:
        """Whether the checkpoint has a head of its own. transformers ties a head that is there only if it is equal to
        the table, so that its own values are right in any case."""
        path = self.plan.spec.path("head")
        return f"{path}.weight" in self.plan.checkpoint.tensors or path in self.plan.spec.stored

    def _past(self, states: Sequence[State], past: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """The states of a layer, without copies; those that are missing are as at the beginning."""
        whole = state.first(states, 0) | dict(past)
        return {name: self._tensor(values) for name, values in state.bare(states, whole).items()}

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        import numpy as np
        import torch

        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self.dtype)

    def _rounded(self, source: tuple, linear: bool, layer: int | None) -> np.ndarray:
        """A parameter as the chip has it."""
        if linear:
            return self.precision.of_parameter(source, self.tensors, layer)
        return self.precision.of_other(recipe.evaluate(source, self.tensors))

    def _kind(self, layer: int) -> Any:
        """The class with the layer alone. Layers that the config does not tell apart share it."""
        fields = repr(sorted(self.oracle.layer(self.config.get_text_config().to_dict(), layer).items()))
        if fields not in self._kinds:
            self._kinds[fields] = classes.build(self.oracle, self.config, layer)
        return self._kinds[fields]

    def _hooks(self, decoder: Any, layer: int, given: torch.Tensor, made: list[torch.Tensor]) -> Iterable[Any]:
        """Hooks of the decoder's only layer. One feeds it `given`, whatever the class makes of its embeddings. One
        appends its output to `made`. The others add the adapter to the outputs of its linears, as PEFT does: x A^T B,
        in the dtype of the maths."""
        import torch

        only = decoder.layers[0]
        yield classes.before(only, given)
        yield only.register_forward_hook(lambda _, __, output: made.append(output))
        adapter = self.adapter
        for name, module in only.named_modules():
            if adapter and isinstance(module, torch.nn.Linear):
                parts = adapter.parts_of(self.source(f"{self._path(layer)}.{name}.weight"))
                parts = [(first, last, self._tensor(a), self._tensor(b)) for first, last, a, b in parts]

                def add(_, given, output, parts=parts):
                    for first, last, a, b in parts:
                        output[..., first:last] += given[0] @ a.T @ b
                    return output

                yield module.register_forward_hook(add)

    def _path(self, layer: int) -> str:
        """What the class calls a layer."""
        return f"{self._paths[id(self.frame.get_decoder())]}.layers.{layer}"

    @cached_property
    def _norm(self) -> dict[str, torch.Tensor]:
        """The final norm's parameters by their names in it."""
        norm = self._final(self.frame.get_decoder())
        path = self._paths[id(norm)]
        found = self.weights(f"{path}.{n}" for n, _ in norm.named_parameters())
        return {name.removeprefix(f"{path}."): weight for name, weight in found.items()}

    def _final(self, decoder: Any) -> Any:
        """The norm behind the last layer."""
        return getattr(decoder, self.oracle.norm)

    def _layer(self, layer: int) -> dict[str, torch.Tensor]:
        """The parameters of a decoder with this layer alone, by their names in it. Its linears may be quantised, except
        one with a single output: the gate of a shared expert."""
        if layer not in self._kept:
            only, path = self._kind(layer).get_decoder().layers[0], self._path(layer)
            linear = [f"{path}.{name}" for name in _linears(only)]
            found = self.weights((f"{path}.{n}" for n, _ in only.named_parameters()), linear, layer)
            weights = {f"layers.0.{name.removeprefix(f'{path}.')}": w for name, w in found.items()}
            self._kept[layer] = weights | {f"{self.oracle.norm}.{n}": w for n, w in self._norm.items()}
            while len(self._kept) > 1 and sum(t.nbytes for w in self._kept.values() for t in w.values()) > KEEP_BYTES:
                self._kept.popitem(last=False)
        return self._kept[layer]


def _name(module: Any, part: Any) -> str:
    """What a module calls a part of it."""
    return next(name for name, one in module.named_modules() if one is part)


def _linears(layer: Any) -> Iterator[str]:
    """The names of a layer's weights that may be quantised: those of linears with more than one output, and those of
    three axes, which hold all experts. A convolution's weight has three axes too, and is left out."""
    import torch

    for path, module in layer.named_modules():
        if isinstance(module, torch.nn.Linear):
            if module.out_features > 1:
                yield f"{path}.weight"
        elif not isinstance(module, torch.nn.Conv1d):
            own = module.named_parameters(recurse=False)
            yield from (f"{path}.{name}" for name, values in own if values.ndim == 3)
