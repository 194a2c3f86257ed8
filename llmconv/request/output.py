"""Where things lie in an output directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The files of one output directory. What users want lies at the top; `.llmconv` holds what the build needs to go on."""

    out: Path

    @property
    def state(self) -> Path:
        return self.out / ".llmconv"

    @property
    def job(self) -> Path:
        """The options of the run that was last started here."""
        return self.state / "job.json"

    @property
    def config(self) -> Path:
        return self.out / "config"

    @property
    def manifest(self) -> Path:
        return self.out / "manifest.json"

    @property
    def verified(self) -> Path:
        return self.out / "verify.json"

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    @property
    def toolchain(self) -> Path:
        return self.state / "toolchain.json"

    def bmodel(self, folder: str) -> Path:
        return self.out / f"{folder}.bmodel"

    def combination(self, folder: str) -> Path:
        """Which nets are on which device."""
        return self.out / f"{folder}_combine.json"

    def mlir(self, net: str) -> Path:
        return self.out / "mlir" / f"{net}.mlir"

    def weights(self, net: str) -> Path:
        return self.out / "mlir" / f"{net}.weights.json"

    def log(self, net: str) -> Path:
        return self.out / "logs" / f"{net}.log"

    def net(self, net: str) -> list[Path]:
        """The parts of a finished net (llmconv.compile.records.NetFiles): program, coefficients, facts, what making it took."""
        return [self.state / "nets" / f"{net}.{ending}" for ending in ("bmodel", "coeff", "json", "run.json")]

    def facts(self, net: str) -> Path:
        """A finished net's facts; under the name "merged" those of the .bmodel."""
        return self.state / "nets" / f"{net}.json"

    def addresses(self, net: str) -> Path:
        """Input and output addresses of a decode net, which its further stages use too."""
        return self.state / "nets" / f"{net}.io.json"

    def scratch(self, net: str) -> Path:
        return self.state / "scratch" / net

    def digests(self, shard: str) -> Path:
        return self.state / "checkpoint" / f"{shard}.json"

    def check(self, weight: str) -> Path:
        """What was found out about a linear: whether its coefficients are known to us."""
        return self.state / "checks" / f"{weight}.json"
