"""The verdict in every way that a build can end, and the commands that the page gives."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from llmconv.engine.history import Run, Span
from llmconv.report import status
from llmconv.report.facts import Facts
from llmconv.request.output import Layout
from llmconv.request.request import Request

TYPED = {
    "model": "/models/it's mine",
    "seq": "64",
    "quantize": "w4bf16",
    "dynamic": "1",
    "continue": "0",
    "out_dir": "/out",
}
GIVEN = Request.create(TYPED).typed
MANIFEST = {"nets": [], "job": {}, "sha256": "0"}
MERGED = Span("manifest", 1, "", 1, 0, 2, "built")
FAILURE = {"failure": {"what": "it broke", "why": "the .bmodel is wrong", "log": ""}, "repeat": ""}


def failed(kind: str) -> dict:
    return FAILURE | {"failure": FAILURE["failure"] | {"kind": kind}}


def facts(run: Run, manifest: dict | None = None, verified: dict | None = None) -> Facts:
    return Facts(Layout(Path("/out")), GIVEN, None, manifest, None, verified, (run,), {})


@pytest.mark.parametrize(
    ("made", "mood", "title", "text"),
    [
        (facts(Run(0, spans=[MERGED], finished={"status": 0}), MANIFEST), "good", "Built", "can prove it right"),
        (
            facts(
                Run(0, spans=[MERGED], finished={"status": 0}), MANIFEST, {"ok": True, "summary": "7 of 7", "nets": []}
            ),
            "good",
            "Built and verified",
            "7 of 7",
        ),
        (
            facts(
                Run(0, spans=[MERGED], finished={"status": 0}), MANIFEST, {"ok": False, "summary": "6 of 7", "nets": []}
            ),
            "bad",
            "Built, but not right",
            "6 of 7",
        ),
        (
            facts(Run(0, failures={"compile:a": FAILURE, "merge": FAILURE}, finished={"status": 1})),
            "bad",
            "Failed: compile:a, merge",
            "is kept",
        ),
        (
            facts(Run(0, failures={"compile:a": FAILURE}, finished={"status": 1}), MANIFEST),
            "bad",
            "Failed: compile:a",
            "of an earlier build",
        ),
        (
            facts(
                Run(0, unchanged=["manifest"], failures={"verify": failed("NotRight")}, finished={"status": 1}),
                MANIFEST,
            ),
            "bad",
            "Built, but not right",
            "the .bmodel is wrong",
        ),
        (
            facts(
                Run(0, unchanged=["manifest"], failures={"verify": failed("ToolError")}, finished={"status": 1}),
                MANIFEST,
            ),
            "bad",
            "Built, but the verification failed",
            "it broke: the .bmodel",
        ),
        (
            facts(
                Run(0, spans=[Span("verify", 1, "", 1, 0)], finished={"status": 130, "interrupted": "SIGINT"}), MANIFEST
            ),
            "unsure",
            "Built, the verification was stopped",
            "SIGINT",
        ),
        (facts(Run(0, finished={"status": 130, "interrupted": "SIGINT"})), "unsure", "Stopped by SIGINT", "go on"),
        (
            facts(Run(0, finished={"status": 130, "interrupted": "SIGINT"}), MANIFEST),
            "unsure",
            "Stopped by SIGINT",
            "of an earlier build",
        ),
        (facts(Run(0, finished={"status": 1})), "bad", "Could not start", "The terminal says why"),
        (
            facts(Run(0, finished={"status": 1, "fault": "no room"}), MANIFEST),
            "bad",
            "Could not start",
            "no room The .bmodel",
        ),
        (facts(Run(0, finished={"status": 0})), "unsure", "Not a whole build", "no .bmodel here yet"),
    ],
)
def test_the_verdict(made, mood, title, text):
    found = status.verdict(made)
    assert (found.mood, found.title) == (mood, title) and text in found.text


def test_commands_can_be_pasted():
    made = facts(Run(0))
    assert shlex.split(status.command(made, "compile:block_0")) == [
        "llmconv", "convert", "--model_path", "/models/it's mine", "--seq_length", "64", "--quantize", "w4bf16", "--dynamic", "--out_dir", "/out", "--task", "compile:block_0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("how", "run", "state", "why", "reason"),
    [
        (
            {"how": "compiled", "why": "own"},
            Run(0, spans=[Span("compile:a", 0, "flags.chip: x -> y", 1, 0, 1, "built")]),
            "compiled",
            "own",
            "flags.chip: x -> y",
        ),
        (
            {"how": "stamped", "why": "the program of b"},
            Run(0, spans=[Span("compile:a", 0, "not built yet", 1, 0, 1, "cached")]),
            "cached",
            "stamped in an earlier build: the program of b",
            "not built yet",
        ),
        ({"how": "compiled", "why": "own"}, Run(0, unchanged=["compile:a"]), "compiled", "own", ""),
        (
            {"how": "compiled", "why": "own"},
            Run(0, unchanged=["compile:a"], spans=[Span("compile:b", 0, "", 1, 0, 1, "built")]),
            "compiled",
            "own",
            "unchanged in the last run",
        ),
        ({}, Run(0, failures={"compile:a": FAILURE}), "failed", "it broke", "the .bmodel is wrong"),
        ({}, Run(0, blocked={"compile:a": "compile:b"}), "blocked", "needs compile:b, which failed", ""),
        ({}, Run(0), "open", "not built yet", ""),
    ],
)
def test_a_nets_status(how, run, state, why, reason):
    manifest = MANIFEST | {"nets": [{"name": "a", **how}]}
    (found,) = status.nets(facts(run, manifest))
    assert (found.state, found.why, found.reason) == (state, why, reason) and state in status.STATES
