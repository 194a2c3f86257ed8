"""`llmconv doctor`: what this machine has and lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmconv.toolchain import doctor
from llmconv.toolchain.doctor import Check


@dataclass(frozen=True)
class Machine:
    """checks: in the order in which they are shown."""

    checks: Sequence[Check]

    @property
    def ready(self) -> bool:
        """Whether all that a build needs is there."""
        return not self.missing

    @property
    def missing(self) -> list[Check]:
        return [check for check in self.checks if check.state == doctor.MISSING]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields = ("name", "state", "found", "why", "mend")
        checks = [{name: getattr(check, name) for name in fields} for check in self.checks]
        return {"ready": self.ready, "checks": checks, "mend": doctor.mend(self.missing)}


def machine() -> Machine:
    """Every check of this machine."""
    return Machine(doctor.check())


def text(found: Machine) -> str:
    """The checks as a table for people, with what to do about each that failed."""
    return "\n".join(_lines(found)).rstrip()


def _lines(found: Machine) -> Iterator[str]:
    width = max((len(check.name) for check in found.checks), default=0)
    for check in found.checks:
        yield f"{check.state:<7}  {check.name:<{width}}  {check.found}"
        for label, told in (("needed: ", check.why), ("mend:   ", check.mend)):
            if told and not check.ok:
                yield f"{'':9}{'':<{width}}  {label}{told}"
    if found.ready:
        whole = all(check.ok for check in found.checks)
        yield "\nAll is there." if whole else "\nAll that a conversion needs is there."
    if len(found.missing) > 1:
        yield "\n" + doctor.mend(found.missing)
