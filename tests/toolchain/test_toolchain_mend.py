"""The script that mends the source of the insert kernel on its way to the JIT."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from llmconv.toolchain import mend

BROKEN = '// "quoted" \\ $HOME `x` %d\n__KERNEL__ void insert_tensor(void *ptr_dst, void *ptr_src, int axis,\n  f((int8 *)ptr_dst);\n'


@pytest.fixture
def call(tmp_path: Path):
    """call(source, function) -> (exit code, the arguments that the compiler's own script gets)."""
    (tmp_path / "ppl" / "bin").mkdir(parents=True)
    own = tmp_path / "ppl" / "bin" / "ppl_jit.sh"
    own.write_text('printf "%s\\0" "$@" > "$0.args"\nexit 17\n')
    env = mend.put(tmp_path / "bin", {"PATH": "/usr/bin:/bin", "PPL_PROJECT_ROOT": str(tmp_path / "ppl")})

    def run(source: str, function: str) -> tuple[int, list[str]]:
        done = subprocess.run(["ppl_jit.sh", source, function, "inc", "out/", "tpu_6_0", "1-2-", "1"], env=env)
        return done.returncode, own.with_name("ppl_jit.sh.args").read_text().split("\0")[:-1]

    return run


def test_the_insert_kernel_gets_typed_pointers(call) -> None:
    status, arguments = call(BROKEN, "insert_tensor")
    assert status == 17, "the JIT's status comes through"
    assert arguments[0] == BROKEN.replace("void *ptr_dst, void *ptr_src", "bf16 *ptr_dst, bf16 *ptr_src").rstrip("\n")
    assert arguments[1:] == ["insert_tensor", "inc", "out/", "tpu_6_0", "1-2-", "1"]


def test_other_kernels_are_left_alone(call) -> None:
    assert call(BROKEN, "flash_attention")[1] == [BROKEN, "flash_attention", "inc", "out/", "tpu_6_0", "1-2-", "1"]


def test_the_compilers_digest_knows_the_mend(tmp_path: Path, monkeypatch) -> None:
    from llmconv.toolchain import digests

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tpuc-opt").write_text("x")
    before = digests.remember(tmp_path, tmp_path / "cache")
    assert digests.recall(tmp_path, tmp_path / "cache") == before
    monkeypatch.setattr(mend, "SCRIPT", mend.SCRIPT + "# other\n")
    assert digests.recall(tmp_path, tmp_path / "cache") == ""
    assert digests.remember(tmp_path, tmp_path / "cache") != before
