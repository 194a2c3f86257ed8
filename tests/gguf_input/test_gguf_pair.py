"""A model that sees as two GGUF files: the nets are those of the checkpoint that both were made from; two files that do
not go together end in one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gguf
import numpy as np
import pytest
import vision_checkpoints
from bmodels import content
from fuzzing import cases
from gguf_files import write
from gguf_towers import write_tower
from hypothesis import given
from hypothesis import strategies as st
from plans import planned, refused
from quantised_graphs import exact
from test_families_graph import EXACT, far
from verify_helpers import verify
from vision_graphs import PIXELS, Both, some

import llmconv
from llmconv.checkpoint.gguf import clip
from llmconv.cli.main import main
from llmconv.errors import ConvertError, InputError
from llmconv.plan.plan import Plan
from llmconv.runtime import manifest

NAMES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture
def seeing(tmp_path):
    """seeing("qwen2_vl") -> the directory of a checkpoint that two GGUF files can say all about."""

    def run(name: str, **changes) -> Path:
        return vision_checkpoints.make(tmp_path, name, **changes)

    return run


def pair(model: Path, kind: str, tower: str = "BF16", **how) -> dict[str, Path]:
    """The two files, as options. how: as for write_tower."""
    place = model.parent / "files"
    place.mkdir(exist_ok=True)
    found = {"model": write(model, place / "text.gguf", kind)}
    return found | {"mmproj": write_tower(model, place / "mmproj.gguf", tower, **how)}


def of(files: dict[str, Path], name: str, **options) -> Plan:
    return planned(**files, out=files["model"].parents[1] / "out", max_pixels=PIXELS[name], **options)


@pytest.mark.parametrize("name", NAMES)
def test_nets_are_those_of_the_checkpoint(seeing, name):
    """The same tensors, to the bit, whole and in part, and the same programs."""
    model = seeing(name)
    made, wanted = of(pair(model, "BF16"), name), planned(model, max_pixels=PIXELS[name])
    assert made.family == wanted.family and made.spec == wanted.spec
    assert [spec for _, spec in made.towers] == [spec for _, spec in wanted.towers]
    assert made.checkpoint.tensors.keys() == wanted.checkpoint.tensors.keys()
    for tensor in wanted.checkpoint.tensors:
        ours, theirs = made.checkpoint.float32(tensor), wanted.checkpoint.float32(tensor)
        np.testing.assert_array_equal(ours, theirs, err_msg=tensor)
        half = slice(len(theirs) // 3, len(theirs) // 3 * 2 + 1)
        np.testing.assert_array_equal(made.checkpoint.float32(tensor, half), theirs[half], err_msg=tensor)
    assert [net.mlir for net in made.nets] == [net.mlir for net in wanted.nets]


CASES = [
    ("qwen2_vl", "Q4_0", "F16", {}), ("qwen2_vl", "Q4_1", "Q8_0", {"older": True}), ("qwen2_5_vl", "Q8_0", "Q5_0", {}),
    ("qwen3_vl", "Q4_0", "Q8_0", {}),
]  # fmt: skip


@pytest.mark.parametrize("name, kind, tower, how", CASES, ids=[f"{n}-{k}-{t}" for n, k, t, _ in CASES])
def test_towers_and_blocks_equal_the_class(seeing, name, kind, tower, how):
    """Whose weights come from the gguf package alone. The language model's integers stay, a tower's do not."""
    made = of(pair(seeing(name), kind, tower, **how), name)
    exact(made)
    both = Both(made)
    for grids in some(made.towers[0].spec):
        found, right = both.see(grids)
        assert all(far(found[output], right[output]) < EXACT for output in right), grids
    assert made.job.quantize == {"Q4_0": "w4bf16", "Q8_0": "w8bf16"}.get(kind, "bf16")
    assert tower == "F16" or any(f"of {tower}, dequantised to bf16" in note for note in made.notes)


MISTAKES = {
    "another order of queries, keys and values": ("QKV", ("attn_k", "attn_q", "attn_v")),
    "the other frame": ("KERNELS", ("v.patch_embd.weight.1", "v.patch_embd.weight")),
    "one norm for the other": ("BLOCK", clip.BLOCK | {"ln1": "norm2", "ln2": "norm1"}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(seeing, mistake, monkeypatch):
    monkeypatch.setattr(clip, *MISTAKES[mistake])
    made = of(pair(seeing("qwen2_vl"), "Q8_0"), "qwen2_vl")
    both = Both(made)
    found, right = both.see(next(iter(some(made.towers[0].spec))))
    assert all(far(found[output], right[output]) > 0.01 for output in right)


def test_what_a_runtime_reads(seeing):
    """The processor's file, and the ids of the tokens around an image."""
    folder = of(pair(seeing("qwen3_vl"), "F16"), "qwen3_vl").checkpoint.path
    told = json.loads((folder / "preprocessor_config.json").read_text())
    assert (told["image_mean"], told["image_std"]) == ([0.5, 0.25, 0.125], [0.5, 0.3, 0.2])
    assert (told["patch_size"], told["merge_size"]) == (16, 2)
    config = json.loads((folder / "config.json").read_text())
    ids = vision_checkpoints.CONFIGS["qwen3_vl"]
    assert {key: config[key] for key in config if key.endswith("_token_id")} == {
        key: ids[key] for key in ids if key.endswith("_token_id")
    }


@pytest.mark.compiler
@pytest.mark.simulator
def test_the_same_file(seeing, convert):
    """A conversion, byte for byte, which holds against the class with the weights that the gguf package reads; a
    changed tower builds its own net again and nothing else."""
    model, options = seeing("qwen2_5_vl"), {"seq": 48, "chip": "cv186x", "max_pixels": PIXELS["qwen2_5_vl"]}
    files = pair(model, "BF16")
    wanted, made = convert(model, **options), convert(files["model"], mmproj=files["mmproj"], **options)
    assert content(made) == content(wanted)
    assert verify(made, nets=["vit", "block_0"])
    reader = gguf.GGUFReader(files["mmproj"], "r+")
    tensor = next(one for one in reader.tensors if one.name == "v.blk.1.attn_k.weight")
    tensor.data[3, 6] ^= 1
    reader.data.flush()
    os.utime(files["mmproj"])
    built = llmconv.convert(**files, out=made, **options).built
    assert {name for name in built if name.startswith(("compile:", "checkpoint:"))} == {
        "checkpoint:mmproj.gguf", "compile:vit"
    }  # fmt: skip
    files["mmproj"].unlink()
    assert [net.name for net in manifest.told(made).driven().nets] == list(manifest.told(made).nets)
    with pytest.raises(ConvertError, match=f"the model {files['mmproj']} is gone"):
        manifest.told(made).plan()


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.simulator
@pytest.mark.parametrize("chip", ["cv186x", "bm1688", "bm1684x"])
@pytest.mark.parametrize("name, kind, tower", [one[:3] for one in CASES])
def test_everything(seeing, convert, name, kind, tower, chip):
    files = pair(seeing(name), kind, tower)
    out = convert(files["model"], mmproj=files["mmproj"], seq=48, chip=chip, max_pixels=PIXELS[name])
    assert verify(out, full=True, tokens=4)


def test_both_front_doors(seeing, capsys):
    """The option of the command line, and of a job file with places beside it."""
    files = pair(seeing("qwen2_vl"), "F16")
    text, tower = (str(file) for file in files.values())
    assert main(["plan", "-m", text, "--mmproj", tower, "-s", "64", "-c", "cv186x"]) == 0
    assert "vit" in capsys.readouterr().out
    jobs = files["model"].with_name("jobs.toml")
    jobs.write_text('[[job]]\nmodel = "text.gguf"\nmmproj = "mmproj.gguf"\nseq = 64\nchip = "cv186x"\n')
    assert main(["build", str(jobs), "--dry_run"]) == 0


def test_one_file_without_the_other(tmp_path, seeing, written):
    files = pair(seeing("qwen2_vl"), "F16")
    text, tower = files.values()
    told = refused(text)
    assert f"{text} is of the architecture qwen2vl, the language model of one that sees" in told
    assert told.endswith("Name that too: --mmproj FILE.gguf.")
    told = refused(tower)
    assert f"{tower} is the tower of a model that sees or hears" in told and "-m MODEL.gguf --mmproj" in told
    plain = written("qwen2")
    other = write(plain, tmp_path / "plain.gguf", "F16")
    assert f"{other} is of the architecture qwen2, and llmconv knows no tower for it" in refused(other, mmproj=tower)
    assert f"{other} is of the architecture qwen2: --mmproj takes the file of a tower" in refused(text, mmproj=other)
    assert f"{plain} is no GGUF file, and has its tower in itself" in refused(plain, mmproj=tower)
    assert "it is not there" in refused(text, mmproj=tmp_path / "nope.gguf")


# what is otherwise in the tower's metadata, and words of the sentence
KEYS = {
    "clip.projector_type": ("ldp", "has the projector ldp: llmconv reads qwen2vl_merger, qwen2.5vl_merger,"),
    "clip.has_audio_encoder": (True, "has the projector qwen2.5vl_merger and hears: "),
    "clip.vision.block_count": (None, "lacks the key clip.vision.block_count"),
    "clip.vision.embedding_length": ("x", "clip.vision.embedding_length in {file} is x"),
    "clip.vision.n_wa_pattern": (None, "lacks the key clip.vision.n_wa_pattern"),
    "clip.vision.patch_size": (0, "clip.vision.patch_size in {file} is 0"),
    "clip.vision.attention.head_count": (3, "3 heads of vision_config"),
}


@pytest.mark.parametrize("key", KEYS)
def test_what_the_metadata_may_not_say(seeing, key):
    value, words = KEYS[key]
    files = pair(seeing("qwen2_5_vl"), "F16", **{key: value})
    assert words.format(file=files["mmproj"]) in refused(files["model"], mmproj=files["mmproj"])


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> dict[str, Path]:
    return pair(vision_checkpoints.make(tmp_path_factory.mktemp("sound"), "qwen3_vl"), "F16")


@cases(60)
@given(data=st.data())
def test_damage_anywhere_in_the_header(tmp_path_factory, sound, data):
    """A plan, or one sentence."""
    file, content = tmp_path_factory.mktemp("damage") / "m.gguf", bytearray(sound["mmproj"].read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at, new = data.draw(st.integers(4, 5000)), data.draw(st.binary(min_size=1, max_size=9))
        content[at : at + len(new)] = new
    file.write_bytes(content)
    try:
        made = planned(sound["model"], mmproj=file, max_pixels=PIXELS["qwen3_vl"])
        for name in made.nets[0].tensors:
            made.checkpoint.raw(name)
    except InputError as error:
        assert str(error).isprintable() and error.what


def test_two_that_do_not_go_together(tmp_path, seeing):
    small, large, new = (tmp_path / name for name in ("small", "large", "new"))
    text = pair(vision_checkpoints.make(small, "qwen2_vl"), "F16")["model"]
    wide = {"hidden_size": 512, "num_attention_heads": 4}
    tower = pair(vision_checkpoints.make(large, "qwen2_vl", text=wide, vision={"hidden_size": 512}), "F16")["mmproj"]
    told = refused(text, mmproj=tower)
    assert f"{tower} gives tokens of 512 elements: the language model in {text} takes 256" in told
    files = pair(vision_checkpoints.make(new, "qwen3_vl"), "F16")
    told = refused(text, mmproj=files["mmproj"])
    assert f"{files['mmproj']} is the tower of a qwen3_vl: {text} is of the architecture qwen2vl" in told
    text = write(new / "qwen3_vl", new / "text.gguf", "F16", qwen3vl__n_deepstack_layers=2)
    assert f"gives states to 3 layers of the language model: {text} takes them in 2" in refused(
        text, mmproj=files["mmproj"]
    )
    text = files["mmproj"].rename(new / "text.gguf")
    assert "have one name" in refused(files["model"], mmproj=text)


def test_doctor_looks_at_both(seeing, capsys):
    files = pair(seeing("qwen2_vl"), "Q8_0")
    assert main(["doctor", str(files["model"])]) == 2
    assert "Name that too: --mmproj FILE.gguf." in capsys.readouterr().out
    assert main(["doctor", str(files["model"]), "--mmproj", str(files["mmproj"])]) == 0
    told = capsys.readouterr().out
    assert f"tower in   {files['mmproj']}" in told and "towers     vision" in told
    assert f"llmconv convert -m {files['model']} --mmproj {files['mmproj']} -s N (-q auto is w8bf16)" in told
    assert main(["doctor", "--mmproj", str(files["mmproj"])]) == 2
    assert "Name that file before it." in capsys.readouterr().err
