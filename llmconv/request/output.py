"""The layout of an output directory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The files of one output directory. Results lie at the top; `.llmconv` holds what the build needs to go on."""

    out: Path

    @property
    def state(self) -> Path:
        return _below(self.out, ".llmconv")

    @property
    def job(self) -> Path:
        """The options of the run that was last started here."""
        return _below(self.out, ".llmconv/job.json")

    @property
    def tuned(self) -> Path:
        """The graphs that --tune has chosen, and what it measured."""
        return _below(self.out, ".llmconv/tuned.json")

    @property
    def config(self) -> Path:
        return self.out / "config"

    @property
    def manifest(self) -> Path:
        return self.out / "manifest.json"

    @property
    def sums(self) -> Path:
        """Digests of what a device loads, for sha256sum -c."""
        return self.out / "SHA256SUMS"

    @property
    def verified(self) -> Path:
        return self.out / "verify.json"

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    @property
    def quality(self) -> Path:
        """What `llmconv quality` found."""
        return self.out / "quality.json"

    @property
    def quality_page(self) -> Path:
        return self.out / "quality.html"

    @property
    def kept(self) -> Path:
        """Its suggestion as a job file."""
        return self.out / "keep_half.toml"

    @property
    def toolchain(self) -> Path:
        return _below(self.out, ".llmconv/toolchain.json")

    def bmodel(self, folder: str) -> Path:
        return self.out / f"{folder}.bmodel"

    def combination(self, folder: str) -> Path:
        """Which nets are on which device."""
        return self.out / f"{folder}_combine.json"

    def mlir(self, net: str) -> Path:
        return _below(self.out, f"mlir/{net}.mlir")

    def weights(self, net: str) -> Path:
        return _below(self.out, f"mlir/{net}.weights.json")

    def log(self, net: str) -> Path:
        return _below(self.out, f"logs/{net}.log")

    def net(self, net: str) -> list[Path]:
        """The parts of a finished net (llmconv.compile.records.NetFiles): program, coefficients, facts, what making it
        took.
        """
        return list(_net(self.out, net))

    def program(self, net: str) -> list[Path]:
        """The same of a program that is compiled from made-up weights; its coefficients are not kept."""
        return list(_net(self.out, net, "programs"))

    def facts(self, net: str) -> Path:
        """A finished net's facts; under the name "merged" those of the .bmodel."""
        return _net(self.out, net)[2]

    def addresses(self, net: str) -> Path:
        """Input and output addresses of a decode net, which its further stages use too."""
        return _below(self.out, f".llmconv/nets/{net}.io.json")

    def program_addresses(self, net: str) -> Path:
        """The same of such a program."""
        return _below(self.out, f".llmconv/programs/{net}.io.json")

    @property
    def unfinished(self) -> Path:
        """The .bmodel while coefficients are moved into it."""
        return _below(self.out, ".llmconv/nets/merged.unfinished")

    def scratch(self, net: str) -> Path:
        return _below(self.out, f".llmconv/scratch/{net}")

    def digests(self, run: str) -> Path:
        """Of the tensors of a run (llmconv.checkpoint.runs)."""
        return _below(self.out, f".llmconv/checkpoint/{run}.json")

    def check(self, net: str) -> Path:
        """The result of the check of a net's linears: whether our coefficients are right."""
        return _below(self.out, f".llmconv/checks/{net}.json")


@cache
def _below(out: Path, name: str) -> Path:
    """One Path for each file, because a graph of tasks names most files many times."""
    return out / name


@cache
def _net(out: Path, net: str, place: str = "nets") -> tuple[Path, ...]:
    folder = _below(out, f".llmconv/{place}")
    return tuple(folder / f"{net}.{ending}" for ending in ("bmodel", "coeff", "json", "run.json"))
