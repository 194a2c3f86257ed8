"""What the simulator's tests prove, as the README's matrix: for every family and chip, the quantisations whose
conversions are verified. The registry of families has the rows, the parameters of the tests the cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import test_chips
import test_experts
import test_families_simulator as text
import test_gemma3_simulator
import test_hearing_simulator
import test_hybrid
import test_internvl_simulator
import test_janus_simulator
import test_mllama_simulator
import test_naflex_simulator
import test_short_conv
import test_slices_simulator
import test_vision_simulator as vision

from llmconv.chips import CHIPS
from llmconv.families import families, family_of
from llmconv.request.options import BY_NAME

Pair = tuple[str, str]  # quantisation, chip
ORDER = [name for name in BY_NAME["quantize"].choices if name != "auto"]


def parameters(test: Callable[..., Any]) -> set[Pair]:
    """Of a test's parametrizations; bf16 where they do not say."""
    axes: list[list[dict[str, Any]]] = []
    for mark in test.pytestmark:
        if mark.name == "parametrize":
            names = (
                [name.strip() for name in mark.args[0].split(",")] if isinstance(mark.args[0], str) else mark.args[0]
            )
            values = list(mark.args[1])
            values = [value if len(names) > 1 else (value,) for value in values]
            axes.append([dict(zip(names, value)) for value in values])
    combined = ({name: value for one in every for name, value in one.items()} for every in product(*axes))
    return {(one.get("quantize", "bf16"), one["chip"]) for one in combined}


def given(builds: Iterable[tuple], options: Iterable[tuple[str, dict[str, Any]]] = ()) -> set[Pair]:
    """Of tables of builds (quantisation, chip, ...) and of options (chip, {...})."""
    return {(quantize, chip) for quantize, chip, *_ in builds} | {
        (more.get("quantize", "bf16"), chip) for chip, more in options
    }


DENSE = given(text.BUILDS.values(), text.OPTIONS.values())
SEEING = given(vision.BUILDS.values())
INTERNVL = ("internvl", "internvl_chat")
# by family
PROVED: dict[str, set[Pair]] = {
    **{family_of(config["model_type"]).name: DENSE for config in text.CONFIGS.values()},
    **dict.fromkeys(("llama", "qwen2", "qwen3"), parameters(test_chips.test_every_family_chip_and_precision)),
    **{family_of(name).name: SEEING for name in vision.CONFIGS},
    **{family_of(name).name: set(product(["bf16"], CHIPS)) for name in vision.HYBRIDS},
    "gemma3": DENSE | given(test_gemma3_simulator.BUILDS),
    **{name: {("w4bf16", "bm1684x"), ("bf16", "bm1688"), ("bf16", "cv186x")} for name in INTERNVL},
    **dict.fromkeys(("janus", "multi_modality"), given(test_janus_simulator.BUILDS)),
    "mllama": given(test_mllama_simulator.BUILDS),
    "lfm2": parameters(test_short_conv.test_edges),
    "lfm2_vl": given(test_naflex_simulator.BUILDS),
    "minicpmv": parameters(test_slices_simulator.test_everything),
    "qwen3_5": parameters(test_hybrid.test_edges),
    "qwen3_5_moe": parameters(test_experts.test_whole_files),
    **{name: given(test_hearing_simulator.BUILDS) for name in families() if name in test_hearing_simulator.SEQ},
}
assert tuple(CHIPS) == test_internvl_simulator.CHIPS


def matrix() -> str:
    """Rows of families that are proved alike, by their model_types."""
    head = ["| `model_type` | " + " | ".join(CHIPS) + " |", "| --- |" + " --- |" * len(CHIPS)]
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, family in sorted({family.name: family for family in families().values()}.items()):
        proved = PROVED.get(name, set())
        cells = tuple(", ".join(quantize for quantize in ORDER if (quantize, chip) in proved) for chip in CHIPS)
        rows.setdefault(cells, []).extend(family.model_types)
    lines = [f"| {', '.join(f'`{one}`' for one in types)} | {' | '.join(cells)} |" for cells, types in rows.items()]
    return "\n".join([*head, *lines]) + "\n"
