"""The real compiler on small nets: three chips, the vendor's bytes, the kernel JIT, and true failures."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import toolchain_nets as nets

from llmconv.errors import ToolError
from llmconv.toolchain import tpuc_opt
from llmconv.toolchain.environment import environment
from llmconv.toolchain.find import Toolchain
from llmconv.toolchain.flags import CompileFlags, passes
from llmconv.toolchain.model_tool import model_tool
from llmconv.toolchain.tpuc_opt import CompileResult, compile_mlir

pytestmark = pytest.mark.compiler
CHIPS = {"bm1684x": 1, "bm1688": 2, "cv186x": 1}


@pytest.fixture
def build(compiler: Toolchain, tmp_path: Path):
    """build(mlir, flags, place) -> (.bmodel, result); `place` names a folder of its own."""

    def run(
        mlir: Path, flags: CompileFlags, place: str = "one", tc: Toolchain = compiler
    ) -> tuple[Path, CompileResult]:
        base = tmp_path / place
        out = base / f"{mlir.stem}.bmodel"
        return out, compile_mlir(tc, mlir, flags, out, base / "scratch", base / "log.txt", tmp_path / "kernels")

    return run


def _flags(chip: str, mode: str = "BF16", **more) -> CompileFlags:
    return CompileFlags(chip, mode, CHIPS[chip], **more)


def _vendor(tc: Toolchain, mlir: Path, flags: CompileFlags, folder: Path) -> Path:
    """The vendor's three calls as they were recorded, for comparison."""
    folder.mkdir()
    shutil.copy(mlir.with_suffix(".npz"), folder)
    group = flags.q_group_size
    lowering = [
        str(mlir),
        "--init",
        f"--processor-assign=chip={flags.chip} mode={flags.mode} num_device=1 num_core={flags.num_core} addr_mode=basic high_precision=True",
        "--processor-top-optimize",
        f"--convert-top-to-tpu=weightFileName=n_tpu_weights.npz asymmetric=False doWinograd=False q_group_size={group} "
        "q_symmetric=False matmul_perchannel=False gelu_mode=normal",
        "--canonicalize",
        "--weight-fold",
        "--deinit",
        "--mlir-print-debuginfo",
        "-o",
        "n_tpu.mlir",
    ]
    optimise = [
        "n_tpu.mlir",
        "--init",
        "--mlir-disable-threading",
        "--strip-io-quant=quant_input=True quant_output=True quant_input_list= quant_output_list= "
        "quant_output_bf16=False quant_input_int8=False quant_output_int8=False ",
        "--processor-tpu-optimize",
        "--dev-parallel",
        "--weight-reorder",
        "--subnet-divide=dynamic=False",
        "--op-reorder",
        "--topo-sort",
        "--layer-group=opt=2 group_by_cores=auto compress_mode=none debugger=0 "
        "disable_group_overlap=false lgcache=true config_filename= enable_lghash=False lghash_dir=",
        "--affine-opt",
        "--core-parallel",
        "--after-layergroup-weight-reorder",
        "--address-assign",
        "--deinit",
        "--mlir-print-debuginfo",
        "-o",
        "n_final.mlir",
        "--debug_cmd=",
    ]
    codegen = [
        "n_final.mlir",
        "--init",
        "--codegen=model_file=n.bmodel embed_debug_info=False model_version=latest bmodel_only=False gdma_check=False rvti=False",
        "--deinit",
        "--mlir-print-debuginfo",
        "-o",
        "/dev/null",
    ]
    env = environment(tc, folder / "kernels", 1) | {"PWD": str(folder)}
    for call in (lowering, optimise, codegen):
        subprocess.run([tc.root / "bin/tpuc-opt", *call], cwd=folder, env=env, check=True, capture_output=True)
    return folder / "n.bmodel"


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize(
    "net, mode, group",
    [(nets.embedding, "BF16", 0), (nets.linear, "BF16", 0), (nets.linear, "W4BF16", 64), (nets.linear, "F16", 0)],
)
def test_the_bytes_are_the_vendors(
    compiler: Toolchain, build, tmp_path: Path, chip: str, net, mode: str, group: int
) -> None:
    mlir, flags = net(tmp_path / "nets"), _flags(chip, mode, q_group_size=group)
    out, result = build(mlir, flags)
    assert nets.without_time(out) == nets.without_time(_vendor(compiler, mlir, flags, tmp_path / "vendor"))
    assert result.cycles and result.cpu_seconds > 0 and result.peak_rss > 10 << 20
    assert not list((tmp_path / "one/scratch").glob("*_weight*.npz")), "no copies of weights are left"


@pytest.mark.parametrize("chip", CHIPS)
def test_one_process_gives_the_same_bytes_as_two(compiler: Toolchain, build, tmp_path: Path, chip: str) -> None:
    """`passes` in one process, against codegen apart (which bm1688 and cv186x need for their estimate, and debug for
    its MLIR)."""
    mlir, flags, folder = nets.linear(tmp_path / "nets"), _flags(chip), tmp_path / "single"
    folder.mkdir()
    shutil.copy(mlir.with_suffix(".npz"), folder)
    subprocess.run(
        [compiler.root / "bin/tpuc-opt", mlir, *passes(flags, "n.bmodel")],
        cwd=folder,
        env=environment(compiler, folder / "k", 1),
        check=True,
        capture_output=True,
    )
    assert nets.without_time(folder / "n.bmodel") == nets.without_time(build(mlir, flags)[0])


@pytest.mark.parametrize("chip", CHIPS)
def test_steps_one_by_one_give_the_same_bytes(compiler: Toolchain, build, tmp_path: Path, chip: str) -> None:
    mlir, flags, out = nets.linear(tmp_path / "nets"), _flags(chip, "W4BF16", q_group_size=64), tmp_path / "n.bmodel"
    with tpuc_opt.opened(compiler, mlir, tmp_path / "scratch", tmp_path / "log", tmp_path / "kernels") as bench:
        lowered = tpuc_opt.lower(bench, bench.source, flags)
        assert "tpu.A16MatMul" in lowered.read_text() and tpuc_opt.weight_file(lowered).is_file()
        arranged = tpuc_opt.arrange(bench, lowered, flags)
        assert "module.coeff_addr" in arranged.read_text() and tpuc_opt.weight_file(arranged).is_file()
        assert not out.exists()
        apart = tpuc_opt.codegen(bench, arranged, flags, out)
    together, result = build(mlir, flags)
    assert nets.without_time(out) == nets.without_time(together) and apart.cycles == result.cycles
    assert not list((tmp_path / "scratch").glob("*_weight*.npz")), "no copies of weights are left"


@pytest.mark.parametrize("chip", CHIPS)
def test_attention_kernels_are_made_once(build, tmp_path: Path, chip: str) -> None:
    mlir = nets.attention(tmp_path / "nets")
    cold, _ = build(mlir, _flags(chip), "cold")
    made = sorted((tmp_path / "kernels").rglob("*.so"))
    assert made
    stamps = [p.stat().st_mtime_ns for p in made]
    warm, result = build(mlir, _flags(chip), "warm")
    assert nets.without_time(cold) == nets.without_time(warm)
    assert [p.stat().st_mtime_ns for p in sorted((tmp_path / "kernels").rglob("*.so"))] == stamps
    assert result.cpu_seconds < 2, "nothing was built"


def test_builds_at_once_share_kernels(build, tmp_path: Path) -> None:
    mlir = nets.attention(tmp_path / "nets", heads=8)
    with ThreadPoolExecutor(4) as pool:
        outs = list(pool.map(lambda i: nets.without_time(build(mlir, _flags("bm1684x"), f"place{i}")[0]), range(4)))
    assert len(set(outs)) == 1
    assert not list((tmp_path / "kernels").glob("part.*"))


def test_a_shape_that_does_not_fit_at_first(build, tmp_path: Path) -> None:
    """Block sizes that do not fit are remembered as such, and the search ends the same with them and without."""
    mlir = nets.attention(tmp_path / "nets", length=1024, heads=16, kv_heads=8, dim=128)
    cold, _ = build(mlir, _flags("bm1688"), "cold")
    assert list((tmp_path / "kernels").glob("*.unfit"))
    assert nets.without_time(build(mlir, _flags("bm1688"), "warm")[0]) == nets.without_time(cold)


def test_a_broken_machine_is_told_and_not_remembered(build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlir = nets.attention(tmp_path / "nets", heads=2)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "cp", "mkdir", "rm"):
        (tools / name).symlink_to(shutil.which(name))
    with monkeypatch.context() as broken:
        broken.setenv("PATH", str(tools))
        with pytest.raises(
            ToolError, match="net attention: .*the kernel JIT did not find cmake or make.*llmconv doctor"
        ):
            build(mlir, _flags("bm1684x"))
    build(mlir, _flags("bm1684x"))


def test_paths_with_spaces_and_quotes(compiler: Toolchain, build, tmp_path: Path) -> None:
    """The JIT's shell lines quote nothing; a build in an odd place works all the same, with the compiler in one too."""
    mlir = nets.attention(tmp_path / "my 'nets'", heads=6)
    odd = tmp_path / "the compiler: $HOME"
    odd.symlink_to(compiler.root)
    out, _ = build(mlir, _flags("bm1688"), "it's a place", Toolchain(odd, compiler.version, compiler.digest))
    assert nets.without_time(out) == nets.without_time(build(mlir, _flags("bm1688"), "plain")[0])


def test_dynamic_and_debug(compiler: Toolchain, build, tmp_path: Path) -> None:
    mlir = nets.linear(tmp_path / "nets")
    out, result = build(mlir, _flags("bm1684x", dynamic=True), "dynamic")
    assert "dynamic" in model_tool(compiler, "--info", out)
    out, result = build(mlir, _flags("bm1684x", debug=True), "debug")
    assert (tmp_path / "debug/scratch/net_final.mlir").exists() and result.cycles


def test_model_tool(compiler: Toolchain, build, tmp_path: Path) -> None:
    out, _ = build(nets.embedding(tmp_path / "nets"), _flags("bm1684x"))
    text = model_tool(compiler, "--info", out)
    assert "net 0: [embedding]" in text and "chip: BM1684X" in text
    with pytest.raises(ToolError, match="model_tool --info .* returned"):
        model_tool(compiler, "--info", tmp_path / "none")


def test_a_missing_tensor(build, tmp_path: Path) -> None:
    mlir = nets.embedding(tmp_path / "nets")
    mlir.write_text(mlir.read_text().replace('loc("emb.weight")', 'loc("other.weight")'))
    with pytest.raises(
        ToolError, match="net embedding: the compiler died of SIGABRT: the weight file lacks the tensor other.weight"
    ):
        build(mlir, _flags("bm1684x"))


def test_text_that_is_no_mlir(build, tmp_path: Path) -> None:
    mlir = nets.embedding(tmp_path / "nets")
    mlir.write_text(mlir.read_text().replace('"top.Gather"', '"top.Gater"'))
    with pytest.raises(
        ToolError, match="net embedding: the compiler ended with exit code 1: .*unregistered operation 'top.Gater'"
    ):
        build(mlir, _flags("bm1684x"))
