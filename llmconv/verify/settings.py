"""The settings of a verification, and the versions that its record names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from llmconv.engine import own_code
from llmconv.errors import InputError

TOKENS = 16
JUDGES = ("verify", "runtime", "simulator", "families", "checkpoint")  # our packages that a verdict depends on
LIBRARIES = ("torch", "transformers", "numpy")  # libraries that it depends on


@dataclass(frozen=True)
class Settings:
    """nets: only these, by themselves; full: everything however long it takes. By default a model whose verification
    takes minutes is verified in full, of a larger one a decode block of each kind of layer. tokens: how many to
    generate; seed: of the random prompt and inputs. lengths: of the prompts that blocks are launched for by themselves,
    and decode blocks behind (default: the shortest, the longest and others; of nets that take seconds one that tells
    the most)."""

    nets: tuple[str, ...] = ()
    full: bool = False
    tokens: int = TOKENS
    seed: int = 0
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tokens", "seed"):
            if getattr(self, name) < 0:
                raise InputError(
                    f"{name} {getattr(self, name)}",
                    "it is a number of 0 or more",
                    f"Leave it out for {getattr(Settings, name)}.",
                )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"nets": list(self.nets), "lengths": list(self.lengths)}

    @classmethod
    def of_dict(cls, given: Mapping[str, Any]) -> Settings:
        """What `to_dict` gave."""
        return cls(**{**given, "nets": tuple(given["nets"]), "lengths": tuple(given["lengths"])})

    def kept(self, record: Mapping[str, Any] | None) -> Settings:
        """These settings, or the same with `full` if `record` is a successful verification of that: it covers these."""
        whole = replace(self, full=True)
        return (
            whole
            if not self.nets and record and record.get("ok") and record.get("settings") == whole.to_dict()
            else self
        )


def code() -> str:
    """sha256 (hex) of the code that verifies."""
    return own_code.digest(*JUDGES)
