"""The chips that llmconv builds for: every fact about one, once."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


@dataclass(frozen=True)
class Chip:
    """One kind of chip. name: as options, nets and manifests have it; a .bmodel has it in capitals.

    cores: tensor cores; lanes: of a core, over which the compiler spreads a tensor's rows.
    clock: Hz of the compiler's static cost model, by which its cycles are seconds.
    memory: bytes on the largest common boards; the device's operating system needs a part of them.
    connected: devices with this chip exchange what they compute, so that they can share a layer.
    float_bias: the bias of a MatMul that is not quantised stays float32.
    simulator: the file of the compiler's distribution that simulates it; speed: how fast that is, bm1684x being 1.
    """

    name: str
    cores: int
    lanes: int
    clock: float
    memory: int
    connected: bool
    float_bias: bool
    simulator: str
    speed: float

    @property
    def mask_tile(self) -> int:
        """Edge of the constant causal mask of mask-free prefill: four times the lanes."""
        return 4 * self.lanes


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("bm1684x", 1, 64, 1.0e9, 16 * GIB, True, False, "libcmodel_bm1684x.so", 1.0),
        Chip("bm1688", 2, 32, 0.9e9, 16 * GIB, False, True, "libcmodel_bm1688.so", 3.0),
        Chip("cv186x", 1, 32, 0.9e9, 8 * GIB, False, True, "libcmodel_bm1688.so", 3.0),
    )
}
