"""AutoRound: GPTQ's or AWQ's tensors, and layers with bits, groups or float weights of their own (extra_config).

packing_format "auto_round:auto_gptq" has GPTQ's first zero points (one less). AutoRound's own packing ("auto_round",
also with the name of a kernel behind it) has the later ones. "auto_round:auto_awq" is AWQ's gemm form.
"""

from __future__ import annotations

from llmconv.checkpoint.config import Config
from llmconv.checkpoint.quantised import awq, gptq
from llmconv.checkpoint.quantised.base import Quantisation, Scheme, matches, overridden, refused, rules, scheme

LESS = ("auto_round:auto_gptq", "auto_round:gptq")
OWN = (
    "auto_round",
    "auto_round:gptqmodel",
    "auto_round:exllamav2",
    "auto_round:tritonv2",
    "autoround:exllamav2",
    "autoround:tritonv2",
)
AWQ = ("auto_round:auto_awq", "auto_round:awq")


def read(section: Config) -> Quantisation:
    """The quantisation that a quantization_config of quant_method auto-round declares."""
    field = "packing_format" if section.get("packing_format") else "backend"
    packing = section.get(field) or LESS[0]
    if packing not in (*LESS, *OWN, *AWQ):
        raise refused(section, field, ", ".join((LESS[0], OWN[0], AWQ[0])))
    if section.get("data_type") not in (None, "int"):
        raise refused(section, "data_type", '"int"')
    if section.get("act_bits") not in (None, 16, 32):
        raise refused(section, "act_bits", "16: activations are not quantised")
    base = scheme(section, symmetric=bool(section.get("sym", True)))
    table = rules(section, "extra_config")

    def of(path: str) -> Scheme:
        """The layer's own name decides, else the first pattern that is found in it."""
        given = (rule for rule in table if table[rule])
        patterns = (rule for rule in given if matches(rule, path, section, "extra_config", anywhere=True))
        found = path if path in table else next(patterns, "")
        return overridden(base, table[found], section, f"extra_config[{found!r}]") if table.get(found) else base

    words = f"auto-round ({packing})"
    if packing in AWQ:
        if base.bits != awq.BITS:
            raise refused(section, "bits", f"4 bits in {packing}")
        return awq.quantisation(words, base, of)
    return gptq.quantisation(words, base, of, less=packing in LESS)
