"""--tune: which graphs there are to choose from, in which order they are measured, and which of them is taken. Pure.

The head is chosen by itself. Of the blocks first the pieces of the MLP are measured, then what is joined beside the
best of them: the compiler gets about ten graphs instead of thirty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from llmconv.blocks.drawing import GATE_UP, KV, LEFT, QKV, RIGHT, TABLE, VENDOR, Drawing
from llmconv.blocks.spec import Spec
from llmconv.plan.drawing import may_cut, may_join, plain, stored_twice
from llmconv.request.job import Job

PIECES = (2, 4, 8)
DECODE = "block_cache"  # what the kinds of nets begin with that make a token
HEAD = "lm_head"


@dataclass(frozen=True)
class Candidate:
    """A drawing of the blocks, whatever the head is, or of the head, whatever the blocks are. name: of its tasks and
    its folder."""

    name: str
    drawing: Drawing


@dataclass(frozen=True)
class Measured:
    """By the candidates' names. cycles: by kind of net (of decode those that begin with DECODE), of all layers
    together. failed: why the compiler takes it not."""

    cycles: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    def __contains__(self, candidate: Candidate) -> bool:
        return candidate.name in self.cycles or candidate.name in self.failed

    def of(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Those that the compiler takes, in their order."""
        return [one for one in candidates if one.name in self.cycles]


@dataclass(frozen=True)
class Forms:
    """What a model's graphs may be, simple ones first: the first of heads and of blocks is the vendor's. joins: what
    may be joined beside any pieces. Empty where there is nothing to choose."""

    heads: tuple[Candidate, ...] = ()
    blocks: tuple[Candidate, ...] = ()
    joins: tuple[tuple[tuple[str, ...], ...], ...] = ()

    @classmethod
    def of(cls, spec: Spec, job: Job) -> Forms:
        if plain(spec, job):
            return cls()
        blocks = (VENDOR, Drawing(up_first=True), *(Drawing(True, n) for n in PIECES if may_cut(spec, job, n)))
        heads = tuple(Candidate(f"head-{side}", replace(VENDOR, head=side)) for side in _sides(spec, job))
        if job.dynamic:  # the compiler estimates no cycles of such nets
            return cls(heads) if len(heads) > 1 else cls()
        return cls(heads, tuple(Candidate(_name(one), one) for one in blocks), tuple(_joins(spec, job)))

    def __bool__(self) -> bool:
        return bool(self.heads)

    def _beside(self, measured: Measured) -> list[Candidate]:
        """What is joined beside the best pieces: those that are taken if nothing is joined, and those that save most in
        all, whatever it costs a token, which what is joined may make up for."""
        best = self.best(self.blocks, measured)
        if best is None:
            return []
        most = max(measured.of(self.blocks), key=lambda one: sum(parted(self.saved(one, measured))))
        pieces = dict.fromkeys((best.drawing.pieces, most.drawing.pieces))
        found = (Drawing(True, count, joined=groups) for count in pieces for groups in self.joins)
        return [Candidate(_name(one), one) for one in found]

    def most(self) -> int:
        """How many candidates are measured, as a rule at most."""
        return len(self.heads) + len(self.blocks) + len(self.joins)

    def wanted(self, measured: Measured) -> list[Candidate]:
        """What is to be measured next; [] when all is known."""
        first = [one for one in (*self.heads, *self.blocks) if one not in measured]
        if first:
            return first
        return [one for one in self._beside(measured) if one not in measured]

    def all(self, measured: Measured) -> list[Candidate]:
        """The blocks' candidates of both rounds."""
        return [*self.blocks, *self._beside(measured)]

    def head(self, measured: Measured) -> Candidate | None:
        """The head with the fewest cycles; None where the compiler takes none."""
        return min(measured.of(self.heads), key=lambda one: measured.cycles[one.name][HEAD], default=None)

    def best(self, candidates: Sequence[Candidate], measured: Measured) -> Candidate | None:
        """The blocks with which no token and no prefill, head and all, has more cycles than with the vendor's graphs,
        and among those the largest sum of what both save, as shares. None where the compiler takes none."""
        found = {one: self.saved(one, measured) for one in measured.of(candidates)}
        allowed = [one for one, saved in found.items() if min(saved.values()) >= 0]
        return max(allowed or found, key=lambda one: sum(parted(found[one])), default=None)

    def saved(self, blocks: Candidate, measured: Measured) -> dict[str, float]:
        """By kind of net the share of the cycles of the vendor's graphs that all layers and the head save, with these
        blocks and the head that is taken. A kind stands for a launch of all layers."""
        plain, head = measured.of(self.blocks)[0], self.head(measured)
        before = measured.cycles[self.heads[0].name][HEAD] if self.heads[0].name in measured.cycles else 0
        after = measured.cycles[head.name][HEAD] if head else 0
        before = before or after
        theirs, ours = measured.cycles[plain.name], measured.cycles[blocks.name]
        return {kind: 1 - (ours[kind] + after) / (number + before) for kind, number in theirs.items()}

    def chosen(self, measured: Measured, otherwise: Drawing) -> Drawing:
        """The drawing that is taken. otherwise: gives what could not be measured."""
        blocks, head = self.best(self.all(measured), measured), self.head(measured)
        drawing = blocks.drawing if blocks else otherwise
        return replace(drawing, head=head.drawing.head if head else otherwise.head)

    def allow(self, drawing: Drawing, measured: Measured) -> bool:
        """Whether `chosen` may have given the drawing, from cycles that are whole."""
        blocks = self.all(measured) if _whole(measured, self.blocks) else self.blocks
        heads = {one.drawing.head for one in self.heads}
        inner = {one.drawing for one in blocks}
        if drawing.head not in heads or (self.blocks and replace(drawing, head=LEFT) not in inner):
            return False
        return _whole(measured, blocks) and all(HEAD in measured.cycles[one.name] for one in measured.of(self.heads))


def _whole(measured: Measured, candidates: Iterable[Candidate]) -> bool:
    """Whether all have cycles of the same kinds of nets."""
    return len({frozenset(measured.cycles[one.name]) for one in measured.of(candidates)}) <= 1


def parted(saved: Mapping[str, float]) -> tuple[float, float]:
    """What a token and what a prefill saves: the mean over the kinds of nets that make one."""
    token = [share for kind, share in saved.items() if kind.startswith(DECODE)]
    prefill = [share for kind, share in saved.items() if not kind.startswith(DECODE)]
    return (fmean(token) if token else 0.0, fmean(prefill) if prefill else 0.0)


def _sides(spec: Spec, job: Job) -> Iterator[str]:
    """The sides of the head's weight; codes have a layout of their own."""
    yield LEFT
    if spec.head_bits == 16:
        yield TABLE
        if not stored_twice(spec, job) or job.graph == "fastest":
            yield RIGHT


def _joins(spec: Spec, job: Job) -> Iterator[tuple[tuple[str, ...], ...]]:
    for attention in ((), (KV,), (QKV,)):
        for mlp in ((), (GATE_UP,)):
            groups = (*attention, *mlp)
            if groups and all(may_join(spec, job, roles) for roles in groups):
                yield groups


def _name(drawing: Drawing) -> str:
    if not drawing.up_first:
        return "vendor"
    joined = ("_".join(roles) for roles in drawing.joined)
    return "-".join(("whole" if drawing.pieces == 1 else f"pieces{drawing.pieces}", *joined))
