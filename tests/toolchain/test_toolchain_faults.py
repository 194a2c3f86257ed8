"""What becomes of a compiler that crashes, hangs, lies or leaves half a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import SOON, living, numbers, wait_for

from llmconv.errors import ToolError
from llmconv.toolchain.flags import CompileFlags
from llmconv.toolchain.tpuc_opt import CompileResult, compile_mlir

FLAGS = CompileFlags("bm1684x", "BF16")
MLIR = 'module @block_0 attributes {module.chip = "ALL", module.weight_file = "../weights/w.npz"} {\n}\n'
# A whole .bmodel, by its header: 64 bytes, 16 of flatbuffer, 8 of data.
WHOLE = (
    r"printf '\356\252\125\377\100\0\0\0\020\0\0\0\010\0\0\0\0\0\0\0' > net.bmodel; head -c 68 /dev/zero >> net.bmodel"
)


@pytest.fixture
def compile_with(fake, tmp_path: Path):
    """Compiles a net with a tpuc-opt that runs the given shell text."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/w.npz").write_bytes(b"npz")
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/block_0.mlir").write_text(MLIR)

    def run(script: str, flags: CompileFlags = FLAGS) -> CompileResult:
        return compile_mlir(
            fake(script.replace("WHOLE", WHOLE)),
            tmp_path / "nets/block_0.mlir",
            flags,
            tmp_path / "out/block_0.bmodel",
            tmp_path / "scratch",
            tmp_path / "logs/block_0.log",
            tmp_path / "kernels",
        )

    return run


def test_whole(compile_with, tmp_path: Path) -> None:
    result = compile_with(
        'WHOLE; cat "$1" > seen.mlir; cat weights.npz > seen.npz; pwd > seen.pwd; env > seen.env; '
        'echo "API_END total_cycle:7|b:1" > compiler_profile_0.txt; echo "API_END total_cycle:5|b" >> compiler_profile_0.txt'
    )
    assert (tmp_path / "out/block_0.bmodel").stat().st_size == 88
    assert result.cycles == 12 and result.seconds > 0
    scratch = tmp_path / "scratch"
    assert (scratch / "seen.npz").read_bytes() == b"npz" and 'weight_file = "weights.npz"' in (
        scratch / "seen.mlir"
    ).read_text()
    assert (scratch / "seen.pwd").read_text().strip() == str(scratch)
    assert f"PWD={scratch}\n" in (scratch / "seen.env").read_text()
    assert not list(scratch.glob("ppl.*")), "the compile's own kernels folder goes"


@pytest.mark.parametrize(
    "script, words",
    [
        (
            "echo 'failed to find tensor model.norm.weight to read'; kill -ABRT $$",
            "net block_0: the compiler died of SIGABRT: the weight file lacks the tensor model.norm.weight",
        ),
        ("kill -KILL $$", "died of SIGKILL: probably out of memory. Run fewer jobs at once"),
        ("kill -SEGV $$", "crashed, ran again and died of SIGSEGV: its files may be damaged. Run llmconv doctor"),
        ("echo '[Running]: x'; echo 'something broke'; exit 255", "ended with exit code 255: something broke"),
        ("exit 0", "ended well but wrote no .bmodel"),
        ("WHOLE; truncate -s 80 net.bmodel", "wrote 80 of 88 bytes"),
        ("WHOLE; truncate -s 10 net.bmodel", "wrote only 10 bytes"),
        ("head -c 200 /dev/zero > net.bmodel", "not a .bmodel"),
        ("WHOLE; exit 3", "ended with exit code 3"),
        ("WHOLE; echo '123 32512' >> $PPL_CACHE_PATH/flag.txt", "the kernel JIT returned 127"),
        ("echo 'LLVM ERROR: IO failure on output stream: No space left on device'; exit 1", "the disk is full"),
    ],
)
def test_failure(compile_with, tmp_path: Path, script: str, words: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/block_0.bmodel").write_text("of an earlier build")
    with pytest.raises(ToolError, match=re.escape(words)) as caught:
        compile_with(script)
    text = str(caught.value)
    assert "\n" not in text and text.startswith("net block_0: ")
    assert caught.value.log == tmp_path / "logs/block_0.log" and caught.value.log.exists()
    assert (tmp_path / "out/block_0.bmodel").read_text() == "of an earlier build", "a failure never touches the output"


@pytest.mark.parametrize("how, runs", [("SEGV", 2), ("BUS", 2), ("ABRT", 1), ("KILL", 1)])
def test_a_compiler_that_crashes_runs_once_more(compile_with, tmp_path: Path, how: str, runs: int) -> None:
    script = f"echo run >> runs; if [ $(wc -l < runs) = 1 ]; then head -c 80 /dev/zero > net.bmodel; kill -{how} $$; fi; WHOLE"
    if runs == 1:
        with pytest.raises(ToolError, match=f"the compiler died of SIG{how}"):
            compile_with(script)
    else:
        compile_with(script)
        assert (tmp_path / "out/block_0.bmodel").stat().st_size == 88
    assert (tmp_path / "scratch/runs").read_text().split() == ["run"] * runs


def test_an_earlier_runs_files_do_not_pass_for_this_ones(compile_with, tmp_path: Path) -> None:
    compile_with('WHOLE; echo "API_END total_cycle:7|" > compiler_profile_0.txt')
    assert compile_with("WHOLE").cycles is None
    (tmp_path / "scratch/net.bmodel").write_bytes((tmp_path / "out/block_0.bmodel").read_bytes())
    with pytest.raises(ToolError, match="wrote no .bmodel"):
        compile_with("exit 0")


def test_missing_weight_file(compile_with, tmp_path: Path) -> None:
    (tmp_path / "weights/w.npz").unlink()
    with pytest.raises(ToolError, match="net block_0: its weight file is missing"):
        compile_with("WHOLE")


def test_missing_program(compile_with, fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ToolError, match="cannot be started"):
        compile_mlir(
            fake().__class__(tmp_path / "nowhere", "1.30.2", ""),
            tmp_path / "nets/block_0.mlir",
            FLAGS,
            tmp_path / "o",
            tmp_path / "scratch",
            tmp_path / "log",
            tmp_path / "kernels",
        )


def test_second_process_fails(compile_with, tmp_path: Path) -> None:
    """On bm1688 codegen is a process of its own; its failure is the net's, and the log has both."""
    with pytest.raises(ToolError, match="the compiler ended with exit code 9: codegen broke"):
        compile_with(
            'case "$*" in *--codegen*) echo codegen broke; exit 9;; *) echo front went well; > net_final.mlir;; esac',
            CompileFlags("bm1688", "BF16", 2),
        )
    assert (tmp_path / "logs/block_0.log").read_text() == "front went well\ncodegen broke\n"


def test_first_process_writes_nothing(compile_with) -> None:
    with pytest.raises(ToolError, match="net block_0: the compiler ended well but wrote no net_final.mlir"):
        compile_with("exit 0", CompileFlags("bm1688", "BF16", 2))


def test_a_hanging_compiler_dies_with_its_group(fake, tmp_path: Path) -> None:
    """A caller that kills its process group takes the compiler along, and nothing is left at the output."""
    tc = fake("echo $$ > pid; exec sleep 600")
    (tmp_path / "n.mlir").write_text('module @n attributes {module.weight_file = "None"} {}')
    code = (
        "import sys; from pathlib import Path; from llmconv.toolchain.find import Toolchain\n"
        "from llmconv.toolchain.flags import CompileFlags; from llmconv.toolchain.tpuc_opt import compile_mlir\n"
        "root, d = map(Path, sys.argv[1:])\n"
        "compile_mlir(Toolchain(root, '', ''), d / 'n.mlir', CompileFlags('bm1684x', 'BF16'), d / 'o', d / 's', d / 'l', d / 'k')"
    )
    caller = subprocess.Popen(
        [sys.executable, "-c", code, str(tc.root), str(tmp_path)], cwd=Path(__file__).parents[2], start_new_session=True
    )
    wait_for(lambda: numbers(tmp_path / "s/pid"))
    os.killpg(caller.pid, signal.SIGKILL)
    caller.wait()
    (pid,) = numbers(tmp_path / "s/pid")
    wait_for(lambda: not living(pid), SOON)
    assert not (tmp_path / "o").exists()


def test_flags_are_plain_data() -> None:
    import json

    flags = CompileFlags("bm1688", "W4BF16", 2, q_group_size=64, q_symmetric=True)
    assert json.loads(json.dumps(flags.to_dict()))["q_group_size"] == 64
    assert CompileFlags(**flags.to_dict()) == flags
