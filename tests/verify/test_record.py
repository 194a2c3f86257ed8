"""One verification, two ways in: what `llmconv verify` has found doit knows, and the other way round. Nothing is
simulated twice, and what failed or was interrupted is never done."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import wait_for
from schemas import check

from llmconv.cli.main import main
from llmconv.engine import history
from llmconv.request.output import Layout

pytestmark = [pytest.mark.compiler, pytest.mark.simulator]
ROOT = Path(__file__).parents[2]
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 16,
    "long_factor": [1.0 + 0.1 * i for i in range(16)],
    "original_max_position_embeddings": 16,
}
MODEL = {
    "num_hidden_layers": 1,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "rope_scaling": LONG,
    "max_position_embeddings": 64,
    "gain": 1.0,
}
OPTIONS = {"seq": 32, "quantize": "w4bf16", "chip": "cv186x"}


class Build:
    """An output directory and all that tells whether its verification is done."""

    def __init__(self, model: Path, out: Path, env: dict[str, str], capfd: pytest.CaptureFixture):
        self.out, self.layout, self.env, self.capfd = out, Layout(out), env, capfd
        self.variables = [f"model={model}", f"out={out}", *(f"{name}={value}" for name, value in OPTIONS.items())]

    def doit(self, *argv: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "doit", *argv, *self.variables],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done.stdout + done.stderr

    def verify(self, *argv: str, ends: int = 0) -> tuple[str, str]:
        """Run `llmconv verify OUT ...`: what it printed on stdout and stderr."""
        self.capfd.readouterr()
        assert main(["verify", str(self.out), *argv]) == ends
        return self.capfd.readouterr()

    def simulated(self) -> bool:
        """Whether the last run did."""
        return bool(history.read(self.layout.state)[-1].spans)

    def done(self) -> bool:
        """What doit and the drawn graph say, which agree."""
        (line,) = [line for line in self.doit("list", "-s", "verify").splitlines() if "verify" in line]
        assert (line.split()[0] == "U") is (self.state() == "up to date")
        return line.split()[0] == "U"

    def state(self) -> str:
        self.capfd.readouterr()
        assert main(["graph", str(self.out), "--to", "-"]) == 0
        (line,) = [line for line in self.capfd.readouterr().out.splitlines() if line.strip().startswith('"verify" [')]
        return line.split('tooltip="')[1].split("\\n")[0].split('"')[0]

    def page(self) -> str:
        return self.layout.report.read_text()

    @property
    def record(self) -> dict:
        return json.loads(self.layout.verified.read_text())


@pytest.fixture
def built(checkpoint, convert, llmconv_env, capfd) -> Callable[[], Build]:
    def make(**changes) -> Build:
        model = checkpoint("llama", **MODEL | changes)
        return Build(model, convert(model, **OPTIONS), llmconv_env, capfd)

    return make


def test_what_llmconv_verified_is_done_everywhere(built):
    build = built()
    assert not build.done() and "Not verified yet" in build.page()
    told, _ = build.verify()
    table = told[told.index("net  ") :]  # without what a slow machine says meanwhile
    assert build.simulated() and "verified: llama" in table and "already" not in table
    assert (
        "rel L2  limit   original" in table and "quantisation: relative L2 0." in table and "worst layer 0 (" in table
    )
    note = "longrope: the nets' table has the long factors, because seq_length 32 is more than original_max_position_embeddings 16"
    manifest = json.loads(build.layout.manifest.read_text())
    assert (
        note in table
        and note.replace("'", "&#x27;") in build.page()
        and manifest["notes"][0].startswith(note)
        and manifest["device"]["rope"] == "long"
    )

    found = build.record
    assert found["sha256"] == manifest["sha256"] and found["settings"] == {
        "nets": [],
        "full": False,
        "tokens": 16,
        "seed": 0,
        "lengths": [],
    }
    assert len(found["code"]) == 64 and {"torch", "transformers"} <= found["versions"].keys()
    block = next(net for net in found["nets"] if net["name"] == "block_0")
    assert (
        block["relative_l2"] <= 0.01 < block["relative_l2_original"] < 0.5
        and f"{block['relative_l2_original']:.4f}" in table
    )
    assert (
        f"({block['relative_l2_original']:.4f} to the original weights)" in build.page()
        and found["cost"] in build.page()
    )

    kept = build.layout.verified.read_bytes()
    assert build.done() and "Built and verified" in build.page()
    assert "1 built" not in build.doit("verify") and build.layout.verified.read_bytes() == kept
    again, _ = build.verify()
    assert not build.simulated() and again.startswith(table.strip()) and "already verified" in again
    data, _ = build.verify("--json")
    assert data.encode() == kept and json.loads(data) == found and not build.simulated()
    check("verify", found)
    _, error = build.verify("--max-loss", "0.01", ends=1)
    assert (
        "2 of 2 nets lose more by quantisation: block" in error
        and "block_cache_0 (0." in error
        and not build.simulated()
    )
    build.verify("--max-loss", "0.9")
    assert build.done() and not build.simulated()


def test_what_doit_verified_is_known_to_llmconv(built):
    build = built()
    assert "[" in build.doit("verify") and build.done()
    table, _ = build.verify()
    assert "already verified" in table and not build.simulated()

    for options in (
        ["--nets", "block_cache_0", "--seed", "3"],
        ["--nets", "block_cache_0"],
        ["--nets", "block_cache_0", "--again"],
    ):
        table, _ = build.verify(*options)
        assert build.simulated() and "already" not in table and "1 of 1 net right" in table
    assert build.record["settings"]["nets"] == ["block_cache_0"] and not build.done(), "a part is not the whole"
    _, error = build.verify("--nets", "lm_head", "--max-loss", "0.5", ends=1)
    assert "no layer was verified" in error
    _, error = build.verify("--nets", "blok_0", ends=2)
    assert "Did you mean block_0?" in error
    build.verify("--nets", "embedding", "--full")
    build.layout.verified.unlink()
    build.verify("--nets", "embedding", "--full")
    assert build.simulated(), "its record is gone"


def test_what_failed_is_shown_as_failed(built, checkpoint):
    """The .bmodel of one model beside the weights of another."""
    build = built()
    manifest = build.layout.manifest.read_text()
    data = json.loads(manifest)
    data["job"]["model_path"] = str(checkpoint("llama", **MODEL, seed=9))
    build.layout.manifest.write_text(json.dumps(data))
    table, error = build.verify("--nets", "block_0,block_cache_0", ends=1)
    assert "WRONG" in table and "FAILED: llama" in table and "the .bmodel is not right" in error
    assert (
        not build.record["ok"]
        and "Built, but not right" in build.page()
        and build.state() == "failed"
        and not build.done()
    )
    printed, _ = build.verify("--nets", "block_0,block_cache_0", "--json", ends=1)
    assert json.loads(printed) == build.record and build.simulated(), "what failed is tried again"

    build.layout.manifest.write_text(manifest)
    told = build.doit("convert")  # another run, which has nothing to say of the verification
    assert (
        "verified  WRONG" in told
        and build.state() == "failed"
        and "Built, but not right" in build.page()
        and not build.done()
    )
    build.verify("--nets", "block_0,block_cache_0")
    assert build.record["ok"] and "Built and verified" in build.page()


@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 130), pytest.param(signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_what_was_interrupted_is_not_done(built, number, status):
    build = built()
    run = subprocess.Popen(
        [sys.executable, "-m", "llmconv.cli.main", "verify", str(build.out)],
        env=build.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait_for(lambda: build.simulated() and history.read(build.layout.state)[-1].only("verify"))
    wait_for(build.layout.log("verify").exists)  # it is at work
    run.send_signal(number)
    run.communicate(timeout=60)
    assert run.returncode == status and not build.layout.verified.exists() and not build.done()
    if number == signal.SIGINT:
        assert "the verification was stopped" in build.page()
    build.verify("--nets", "embedding")
    assert build.record["ok"] and not list(build.out.glob("*.part.*"))


def test_a_changed_file_is_not_taken_for_what_was_verified(built):
    build = built()
    build.verify("--nets", "embedding")
    path = next(build.out.glob("*.bmodel"))
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    _, error = build.verify("--nets", "embedding", ends=1)
    assert "has changed since it was built" in error and not build.done()
    path.write_bytes(content)
    build.verify("--nets", "embedding")
    assert build.record["ok"]
