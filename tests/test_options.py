"""Every option, alone and in pairs: which nets it adds, takes away and changes, and that what it makes is right on the
simulator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import verify_helpers
from checkpoints import SPLIT
from plans import planned

from llmconv.cli.main import main
from llmconv.errors import InputError
from llmconv.plan.net import Net
from llmconv.plan.plan import Plan
from llmconv.request.job import Job
from llmconv.request.options import parse
from llmconv.request.request import Request

# A model that the simulator runs in seconds
# The usual random models have weights of 1.5 times unit scale and lose almost what is tolerated in bf16. An adapter
# adds two roundings to every
# linear: NumPy that rounds every operation to bf16, torch in bf16 and the chip all come to 0.011 to 0.014 there. So
# these have unit scale.
SMALL = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 256,
    "gain": 1.0,
}
SEQ = 32
CHIPS = ("bm1684x", "bm1688", "cv186x")
W4 = {"quantize": "w4bf16"}

# option -> (beside what, kinds of nets that change, kinds that come in addition, kinds that go)
EFFECTS = {
    "do_sample": ({"do_sample": 1}, {}, {"lm_head"}, {"greedy_head", "sample_head"}, set()),
    "lora_max_rank": (
        {"lora_max_rank": 8},
        {},
        {"block", "block_cache", "lm_head"},
        {"lora", "greedy_head", "sample_head"},
        set(),
    ),
    "embedding_disk": ({"embedding_disk": 1}, {}, set(), set(), {"embedding"}),
    "dynamic": ({"dynamic": 1}, {}, {"block"}, set(), set()),
    "max_input_length": ({"max_input_length": 16}, {}, {"block", "embedding"}, set(), set()),
    "use_block_with_kv": ({"use_block_with_kv": 1}, {"max_input_length": 8}, {"block"}, set(), set()),
    "max_prefill_kv_length": ({"max_prefill_kv_length": 16}, {"use_block_with_kv": 1}, {"block"}, set(), set()),
    "share_prompt": ({"share_prompt": 1}, {"use_block_with_kv": 1}, {"embedding"}, {"block_prompt"}, set()),
    "use_history_kv": (
        {"use_history_kv": 1},
        {"max_input_length": 0},
        {"block", "block_cache", "embedding"},
        {"block_kv", "block_cache"},
        set(),
    ),
    "chunk_length": ({"chunk_length": 8}, {}, {"block_cache"}, {"block_cache"}, set()),
    "batch": ({"batch": 2}, {}, {"block_cache"}, set(), set()),
    "symmetric": ({"symmetric": 1}, W4, {"block", "block_cache"}, set(), set()),
    "symmetric, not quantised": ({"symmetric": 1}, {}, set(), set(), set()),
    "q_group_size": ({"q_group_size": 32}, W4, {"block", "block_cache"}, set(), set()),
    "quantize": (W4, {}, {"block", "block_cache"}, set(), set()),
    "num_core": ({"num_core": 1}, {"chip": "bm1688"}, {"block", "block_cache", "embedding", "lm_head"}, set(), set()),
    "num_device, pp": ({"num_device": 3, "distribute_strategy": "pp"}, {}, set(), set(), set()),
    "debug": ({"debug": 1}, {}, set(), set(), set()),
}

PAIRS = [
    {"do_sample": 1, "embedding_disk": 1},
    {"do_sample": 1, "dynamic": 1},
    {"do_sample": 1, "batch": 3},
    {"do_sample": 1, "share_prompt": 1},
    {"do_sample": 1, "use_history_kv": 1},
    {"do_sample": 1, "lora_max_rank": 4},
    {"lora_max_rank": 8, "embedding_disk": 1},
    {"lora_max_rank": 8, "dynamic": 1},
    {"lora_max_rank": 8, "use_block_with_kv": 1},
    {"lora_max_rank": 8, "chunk_length": 8},
    {"lora_max_rank": 8, "quantize": "w4f16"},
    {"lora_max_rank": 8, "batch": 2},
    {"embedding_disk": 1, "batch": 2},
    {"embedding_disk": 1, "share_prompt": 1},
    {"embedding_disk": 1, "quantize": "w8f16"},
    {"embedding_disk": 1, "num_device": 3, "distribute_strategy": "pp"},
    {"dynamic": 1, "use_block_with_kv": 1},
    {"dynamic": 1, "share_prompt": 1, "max_prefill_kv_length": 16},
    {"dynamic": 1, "max_input_length": 16},
    {"dynamic": 1, "chunk_length": 8},
    {"dynamic": 1, "quantize": "w4bf16", "symmetric": 1},
    {"use_block_with_kv": 1, "quantize": "w4bf16"},
    {"use_block_with_kv": 1, "max_prefill_kv_length": 16, "max_input_length": 4},
    {"use_history_kv": 1, "chunk_length": 16},
    {"use_history_kv": 1, "quantize": "w4bf16", "q_group_size": 128},
    {"share_prompt": 1, "max_input_length": 16},
    {"batch": 4, "quantize": "w8bf16"},
    {"batch": 2, "max_input_length": 16},
    {"batch": 2, "dynamic": 1},
    {"num_device": 3, "distribute_strategy": "pp", "lora_max_rank": 4},
]


def made(checkpoint, model: str = "qwen2", seq: int = SEQ, **options) -> Plan:
    return planned(checkpoint(model, **SMALL), seq=seq, **options)


def identity(net: Net) -> tuple:
    """All that a compile is made from."""
    return net.mlir, json.dumps([weight.to_dict() for weight in net.weights]), json.dumps(net.flags.to_dict())


@pytest.mark.parametrize("option", EFFECTS)
def test_an_option_changes_its_nets_and_no_others(option, checkpoint):
    options, beside, changes, more, fewer = EFFECTS[option]
    before, after = ({net.name: net for net in made(checkpoint, **given).nets} for given in (beside, beside | options))
    if option == "use_block_with_kv":
        changes = changes - {"embedding"}
    assert {
        net.kind for name, net in after.items() if name in before and identity(net) != identity(before[name])
    } == changes
    assert {net.kind for name, net in after.items() if name not in before} == more
    assert {net.kind for name, net in before.items() if name not in after} == fewer


def kinds(job: Job) -> list[str]:
    """The kinds of nets per layer, by the options."""
    stages = 0
    while job.chunk_length and job.chunk_length << stages < job.seq_length:
        stages += 1
    prefill = ["block"] + ["block_kv"] * job.use_history_kv + ["block_prompt"] * job.share_prompt
    return sorted(["block_cache"] * (1 + stages) + prefill)


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("options", PAIRS, ids=lambda o: " ".join(f"{k}={v}" for k, v in o.items()))
def test_pairs(options, chip, checkpoint):
    """Every net once, blocks of every layer, inputs and flags as all the options ask for."""
    found = made(checkpoint, chip=chip, **options)
    job, nets = found.job, found.nets
    assert len({net.name for net in nets}) == len(nets)
    for layer in range(2):
        assert sorted(net.kind for net in nets if net.layer == layer) == kinds(job)
    ends = {net.name for net in nets if net.layer is None}
    wanted = {"lm_head"} | (set() if job.embedding_disk else {"embedding", "embedding_cache"})
    if job.do_sample or job.lora_max_rank:
        wanted |= {"greedy_head", "sample_head"}
    if job.lora_max_rank:
        wanted |= {"embedding_lora", "embedding_cache_lora", "lm_head_lora"}
    assert ends == wanted
    for net in nets:
        ios = {tensor.name: tensor.shape for tensor in net.inputs}
        assert (net.flags.chip, net.flags.num_device) == (chip, 1)
        if net.layer is None:
            continue
        assert net.flags.dynamic == (job.dynamic and net.kind != "block_cache")
        assert net.flags.mode == job.quantize.upper() and net.flags.q_group_size == job.q_group_size
        assert bool(net.places) == bool(job.lora_max_rank)
        decode = net.kind == "block_cache"
        assert ios["input_states"][:2] == (
            (job.batch, 1)
            if decode
            else (1, job.max_prefill_kv_length if net.kind == "block_prompt" else job.max_input_length)
        )
        assert ("attention_mask" in ios) == (decode or not job.use_history_kv)
        assert net.flags.addr_mode == ("io_alone" if decode else "basic")


REFUSED = [
    ({"num_device": 0}, "num_device 0"),
    ({"num_device": 2, "distribute_strategy": "pp"}, "Use 3"),
    ({"num_device": 9, "distribute_strategy": "pp"}, "Use 4"),
    ({"num_device": 2}, "splits no MLP"),
    ({"num_device": 2, "chip": "bm1688"}, "only bm1684x"),
    ({"num_device": 2, "dynamic": 1}, "does not split"),
    ({"num_core": 3, "chip": "bm1688"}, "num_core 3"),
    ({"num_core": -1}, "num_core -1"),
    ({"max_input_length": -1}, "max_input_length -1"),
    ({"q_group_size": 96, "quantize": "w4bf16"}, "q_group_size 96"),
    ({"lora_max_rank": -1}, "lora_max_rank -1"),
    ({"batch": 2, "chunk_length": 8}, "batch 2"),
    ({"quantise": "w4bf16"}, "Did you mean quantize?"),
    ({"embeding_disk": 1}, "Did you mean embedding_disk?"),
    ({"chip": "bm1684"}, "Did you mean bm1684x?"),
    ({"distribute_strategy": "dp"}, "one of tp, pp"),
]


@pytest.mark.parametrize("options, says", REFUSED, ids=lambda v: v if isinstance(v, str) else None)
def test_what_is_refused_before_any_work(options, says, checkpoint):
    with pytest.raises(InputError) as refused:
        made(checkpoint, **options)
    assert says in str(refused.value)


def test_tensor_parallel_needs_large_matrices(checkpoint):
    path = checkpoint("llama", **SMALL | {"num_key_value_heads": 2})
    with pytest.raises(InputError, match="more than 4194304 weights"):
        planned(path, seq=SEQ, num_device=2)


@pytest.mark.parametrize("layers, devices, runs", [(6, 3, [6]), (6, 4, [3, 3]), (5, 4, [3, 2]), (7, 5, [3, 3, 1])])
def test_a_pipeline_has_equal_runs_of_layers(layers, devices, runs, checkpoint):
    from llmconv.plan.devices import configuration, groups

    path = checkpoint("llama", **SMALL, num_hidden_layers=layers)
    found = planned(path, seq=SEQ, num_device=devices, distribute_strategy="pp", do_sample=1)
    members = [set(group.nets) for group in groups(found)]
    assert members[0] == {"embedding", "embedding_cache"} and members[-1] == {"lm_head", "greedy_head", "sample_head"}
    assert [len(m) for m in members[1:-1]] == [2 * n for n in runs]
    assert sum(map(len, members)) == len(found.nets)
    told = json.loads(configuration(found))
    assert told["num_device"] == devices and [set(g["bmodels"]) for g in told["groups"]] == members


def test_dry_run_tells_each_devices_memory(checkpoint, capsys, tmp_path):
    import time

    argv = [
        "convert",
        "-m",
        str(checkpoint("llama", **SMALL)),
        "-s",
        str(SEQ),
        "-o",
        str(tmp_path / "out"),
        "--dry_run",
    ]
    start = time.process_time()
    assert main([*argv, "--num_device", "3", "--distribute_strategy", "pp"]) == 0
    assert time.process_time() - start < 1
    told = capsys.readouterr().out
    assert all(f"memory dev{k} " in told for k in range(3)) and "max_input_length       = 32" in told
    assert not (tmp_path / "out").exists()


def test_version_names_everything(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["-V"])
    assert not ended.value.code
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "llmconv",
        "tpu_mlir",
        "transformers",
        "torch",
    ]


def test_doit_variables_suggest_the_near_miss():
    with pytest.raises(InputError, match="Did you mean quantize"):
        parse({"model": "m", "quantise": "bf16"})
    with pytest.raises(InputError, match="bm1690e"):
        Job.create({"model": "m", "seq": "8", "rvti": "1"})


@pytest.mark.compiler
def test_only_mlir_writes_every_net_and_a_build_reuses_it(checkpoint, llmconv_env, tmp_path):
    from llmconv import convert

    given = {"model": str(checkpoint("qwen2", **SMALL)), "out": str(tmp_path / "out"), "seq": str(SEQ)}
    assert convert.run(Request.create(given | {"only_mlir": "1"})) == 0
    texts = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "mlir").glob("*.mlir")}
    assert {path.stem for path in texts} == {net.name for net in made(checkpoint).nets}
    assert not list((tmp_path / "out").glob("*.bmodel"))
    assert convert.run(Request.create(given)) == 0
    assert {path: path.stat().st_mtime_ns for path in texts} == texts and list((tmp_path / "out").glob("*.bmodel"))


def verified(out: Path, tokens: int) -> None:
    """Verify a conversion on the simulator: everything is right, and nothing was left out."""
    ok, found, printed = verify_helpers.verified(out, full=True, tokens=tokens)
    assert ok, printed
    names = {net["name"] for net in json.loads((out / "manifest.json").read_text())["nets"]}
    assert names <= {net["name"] for net in found["nets"] if net["ok"]} and found["generation"]["tokens"]


TOGETHER = {
    "sampling, table on disk, any length": (
        "bm1684x",
        "qwen2_tied",
        {"do_sample": 1, "embedding_disk": 1, "dynamic": 1},
    ),
    "adapters behind a shared prompt": (
        "cv186x",
        "qwen2",
        {"lora_max_rank": 8, "share_prompt": 1, "max_prefill_kv_length": 16, "quantize": "w4f16"},
    ),
    "history at any length": ("bm1688", "qwen2", {"use_block_with_kv": 1, "dynamic": 1}),
    "chunks": ("cv186x", "llama", {"use_history_kv": 1}),
    "three sequences": ("bm1688", "qwen2", {"batch": 3}),
    "pipeline": ("cv186x", "llama", {"num_device": 3, "distribute_strategy": "pp"}),
}


@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("case", TOGETHER)
def test_options_together_on_the_simulator(case, checkpoint, convert):
    chip, model, options = TOGETHER[case]
    verified(convert(checkpoint(model, **SMALL), seq=16 if chip == "bm1684x" else SEQ, chip=chip, **options), tokens=6)


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("option", EFFECTS)
def test_every_option_on_every_chip(option, chip, checkpoint, convert):
    options, beside, *_ = EFFECTS[option]
    verified(convert(checkpoint("qwen2", **SMALL), **{"seq": SEQ} | beside | options | {"chip": chip}), tokens=8)


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("options", PAIRS, ids=lambda o: " ".join(f"{k}={v}" for k, v in o.items()))
def test_every_pair_on_the_simulator(options, checkpoint, convert):
    verified(convert(checkpoint("llama", **SMALL), seq=SEQ, chip="cv186x", **options), tokens=6)


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("quantize, devices", [("bf16", 2), ("w4bf16", 2), ("bf16", 4)])
def test_tensor_parallel(quantize, devices, checkpoint, convert):
    """Layers that the compiler splits, with biases and grouped heads: their parts on the simulator, and coefficients in
    equal shares."""
    verified(convert(checkpoint("qwen2", **SPLIT), seq=16, quantize=quantize, num_device=devices), tokens=3)
