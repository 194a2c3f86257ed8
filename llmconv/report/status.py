"""The outcome of a build: the verdict, and every net's status with its reason."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmconv.engine.history import Run, Span
from llmconv.errors import NotRight
from llmconv.report.facts import Facts
from llmconv.request.options import arguments
from llmconv.verify.record import loss, worst_output

STATES = ("failed", "blocked", "open", "cached", "stamped", "compiled")


@dataclass(frozen=True)
class Verdict:
    """mood: good, bad or unsure (its colour); title and text: what to read first; command: what to do next, or ""."""

    mood: str
    title: str
    text: str
    command: str = ""


@dataclass(frozen=True)
class NetStatus:
    """state: one of STATES. why: of how it was made; reason: why that was not up to date, or what stops it. error: its
    worst relative L2 in the verification with the limit; None if it was not verified. loss: relative L2 against the
    original weights, None if that was not measured.
    """

    name: str
    state: str
    why: str
    reason: str
    facts: Mapping[str, Any]
    error: tuple[float, float] | None
    right: bool | None
    loss: float | None = None


def verdict(facts: Facts) -> Verdict:
    """One line on the whole."""
    run, verified = facts.last, facts.verified
    again = shlex.join(["llmconv", "verify", str(facts.layout.out)])
    left = "The .bmodel in this directory is of an earlier build." if facts.manifest and facts.outdated else ""
    if run.failures:
        names = ", ".join(run.failures)
        if names == "verify" and facts.manifest:
            failure = next(iter(run.failures.values()))["failure"]
            if failure.get("kind") == NotRight.__name__:
                return Verdict("bad", "Built, but not right", failure.get("why") or "The verification failed.")
            return Verdict(
                "bad",
                "Built, but the verification failed",
                f"{failure['what']}: {failure.get('why', '')}".rstrip(": "),
                again,
            )
        return Verdict(
            "bad",
            f"Failed: {names}",
            f"What was finished is kept: run the same command again to go on. {left}".strip(),
            command(facts),
        )
    if run.finished and run.finished.get("interrupted") and run.only("verify"):
        return Verdict(
            "unsure",
            "Built, the verification was stopped",
            f"It was stopped by {run.finished['interrupted']}, and begins anew:",
            again,
        )
    if run.finished and run.finished.get("interrupted"):
        return Verdict(
            "unsure",
            f"Stopped by {run.finished['interrupted']}",
            f"What was finished is kept: run the same command again to go on. {left}".strip(),
            command(facts),
        )
    if run.finished and run.finished.get("status"):
        return Verdict(
            "bad",
            "Not finished" if run.spans else "Could not start",
            f"{run.finished.get('fault') or 'The terminal says why.'} {left}".strip(),
            command(facts),
        )
    if not facts.manifest or facts.outdated:
        return Verdict(
            "unsure",
            "Not a whole build",
            f"Only some of the tasks were asked for. {left or 'There is no .bmodel here yet.'}",
            command(facts),
        )
    if verified is None:
        return Verdict("good", "Built", "Not verified yet. The chip simulator can prove it right:", again)
    if not verified["ok"]:
        return Verdict("bad", "Built, but not right", verified["summary"])
    return Verdict("good", "Built and verified", verified["summary"])


def nets(facts: Facts) -> list[NetStatus]:
    """The status of every net, in the order of the .bmodel."""
    run = facts.built
    spans = {span.name: span for past in facts.runs for span in past.spans}  # of a task the latest
    errors = {net["name"]: net for net in facts.verified["nets"]} if facts.verified else {}
    return [_net(net, run, spans.get(f"compile:{net['name']}"), errors.get(net["name"])) for net in facts.nets]


def _net(net: Mapping[str, Any], run: Run, span: Span | None, checked: Mapping[str, Any] | None) -> NetStatus:
    name, task = net["name"], f"compile:{net['name']}"
    state, why = net.get("how", "open"), net.get("why", "")
    reason = span.reason if span else ""
    failed = next((one for one in (f"program:{name}", task) if one in run.failures), None)
    if failed:
        failure = run.failures[failed]["failure"]
        state, why, reason = "failed", failure["what"], failure.get("why", "")
    elif task in run.blocked:
        state, why, reason = "blocked", f"needs {run.blocked[task]}, which failed", ""
    elif state == "open":
        why, reason = "not built yet", ""
    elif span is not None and span.how == "cached":
        state, why = "cached", f"{net['how']} in an earlier build" + (f": {why}" if net["how"] == "stamped" else "")
    if task in run.unchanged:
        reason = "unchanged in the last run" if any(other.name.startswith("compile:") for other in run.spans) else ""
    output = worst_output(checked)
    error = (
        (math.inf if output["relative_l2"] is None else output["relative_l2"], output["relative_l2_limit"])
        if output
        else None
    )
    return NetStatus(name, state, why, reason, net, error, checked["ok"] if checked else None, loss(checked))


def worst(facts: Facts) -> float | None:
    """The largest relative L2 of any layer, as `llmconv verify` shows it."""
    found = [status.error[0] for status in nets(facts) if status.error and re.match("block", status.name)]
    return max(found, default=None)


def command(facts: Facts, task: str = "") -> str:
    """The command of the conversion, or of one of its tasks."""
    return shlex.join(["llmconv", "convert", *arguments(facts.given), *(["--task", task] if task else [])])
