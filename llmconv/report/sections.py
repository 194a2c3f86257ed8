"""The page's sections on what was built and how: verdict, figures, failures, provenance, the build over time, the nets,
the files.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from llmconv.chips import CHIPS
from llmconv.engine import trace
from llmconv.engine.history import Run
from llmconv.plan import handover
from llmconv.report import latency, status
from llmconv.report.facts import Facts
from llmconv.report.html import Html, join, tag
from llmconv.report.parts import Card, cards, judged, moment, note, section, times
from llmconv.report.sizes import Coefficients
from llmconv.request.options import BY_NAME
from llmconv.toolchain import log as logs
from llmconv.verify.record import figure
from llmconv.words import counted, rate, size

FIRST = ("", "not built yet")  # reasons that go without saying
SHOWN = ("seq_length", "quantize", "chip")  # options that provenance always names


def head(facts: Facts) -> Html:
    job, run = facts.job, facts.last
    about = [str(job[key]) for key in ("quantize", "chip") if job.get(key)]
    about += [f"sequence {job['seq_length']}"] if job.get("seq_length") else []
    ended = [moment(run.end)] if run.end else []
    return tag("header", tag("h1", facts.name), tag("p", " · ".join([*about, *ended])))


def verdict(facts: Facts) -> Html:
    found = status.verdict(facts)
    return judged(found.mood, found.title, found.text, found.command)


def tiles(facts: Facts, stored: Coefficients, run: Run) -> Html:
    """The figures that people ask for first. run: the one that did the work."""
    manifest = facts.manifest
    found: list[Card] = []
    if manifest:
        found.append(("size", size(manifest["bytes"]), "of an earlier build" if facts.outdated else ""))
        if stored.bits:
            found.append(("bits per weight", f"{stored.bits:.2f}", "scales and tables included"))
    states = Counter(net.state for net in status.nets(facts))
    found.append(("nets", str(sum(states.values())), ", ".join(f"{states[s]} {s}" for s in status.STATES if states[s])))
    found += times(run)
    if manifest:
        each = "a token" if manifest["job"].get("batch", 1) == 1 else "for a token of each sequence"
        for name, step in latency.firsts(manifest).items():
            if step.seconds is None or step.tokens_per_second is None:
                continue
            time = f"{1000 * step.seconds:.2f} ms"
            if name == "prefill":
                found.append(("prefill, estimate", time, f"{step.tokens} tokens"))
            elif name == "decode":
                number, unit = rate(step.tokens_per_second).split(" ")
                found.append(("decode, estimate", number, f"{unit}; {time} {each}"))
            else:
                known = manifest.get("device", {}).get(name)  # a manifest of an earlier llmconv has none
                found.append((f"{name}, estimate", time, handover.largest(known)[0] if known else ""))
    worst = status.worst(facts)
    if worst is not None:
        found.append(("worst relative L2", f"{worst:.4f}" if math.isfinite(worst) else "not finite", "of a block"))
    return cards(found)


def failures(facts: Facts) -> list[Html]:
    """One section for each failed task: why, the end of its log, and the command that repeats it."""
    return [
        _failure(facts, task, told["failure"], told.get("repeat", "")) for task, told in facts.last.failures.items()
    ]


def _failure(facts: Facts, task: str, failure: dict, repeat: str) -> Html:
    log = Path(failure["log"]) if failure.get("log") else None
    lines = logs.tail(log, 14) if log else []
    advice = re.sub(r"\s*Log: .*", "", failure.get("try_", ""))  # the log has a link of its own
    needing = [name for name, needed in facts.last.blocked.items() if needed == task]
    return section(
        f"failed-{quote(task)}",
        f"Failed: {task}",
        tag("p", tag("b", failure["what"]), tag("br"), failure.get("why", "")),
        tag("p", advice) if advice else None,
        tag("pre", "\n".join(lines), class_="log") if lines else None,
        tag("p", "Log: ", _link(facts, log)) if log else None,
        tag("p", f"Not built because of that: {counted(len(needing), 'task')}.") if needing else None,
        tag("p", "Only this task again:"),
        tag("pre", repeat or status.command(facts, task), class_="command"),
    )


def _link(facts: Facts, path: Path, text: str = "") -> Html:
    """A link to a file of the output directory, as its place relative to the page; the path alone where it is elsewhere
    or missing.
    """
    try:
        place = path.absolute().relative_to(facts.layout.out.absolute())
    except ValueError:
        return tag("code", text or path)
    if not path.exists():
        return tag("code", text or place)
    return tag("a", text or place, href=quote(str(place)))


def provenance(facts: Facts) -> Html:
    """What went in, what came out, and the command for the same again."""
    notes = facts.plan.notes if facts.plan else facts.manifest["notes"] if facts.manifest else ()
    graphs = facts.plan.graphs if facts.plan else facts.manifest.get("graphs", ()) if facts.manifest else ()
    rows = [*_input(facts), *_output(facts), *(("Graphs", text) for text in graphs)]
    rows += [*(("Note", text) for text in dict.fromkeys([*notes, *facts.last.notes]))]
    return section(
        "provenance",
        "Provenance",
        tag("dl", [join(tag("dt", what), tag("dd", value)) for what, value in rows]),
        tag("h3", "The same again"),
        tag("pre", status.command(facts), class_="command"),
    )


def _input(facts: Facts) -> Iterator[tuple[str, object]]:
    """Checkpoint and options; the options that have their defaults are left out."""
    job, manifest = facts.job, facts.manifest
    if job.get("origin"):
        yield "From the hub", tag("code", job["origin"])
    yield "Checkpoint", tag("code", job.get("model_path", ""))
    if facts.plan:
        spec, kind = facts.plan.spec, facts.plan.config["model_type"]
        yield "Family", f"{facts.plan.family.name} ({kind}, {counted(spec.layers, 'layer')}, hidden size {spec.hidden})"
    if manifest and not facts.outdated:
        known = manifest["checkpoint"]
        yield "Tensors", [f"{known['tensors']}, sha256 ", tag("code", known["sha256"])]
    names = [name for name in job if name in BY_NAME and name not in ("model_path", "out_dir")]
    told = {name: job[name] for name in names if name in SHOWN or job[name] != BY_NAME[name].default}
    yield "Options", ", ".join(name if isinstance(value, bool) else f"{name} {value}" for name, value in told.items())


def device(facts: Facts) -> Html | None:
    """What a runtime has to know, of the .bmodel that is there."""
    known = facts.device
    if not known:
        return None
    told = tag("dl", [join(tag("dt", what), tag("dd", text)) for what, text in handover.rows(known)])
    return section("device", "On the device" + (" (earlier build)" if facts.outdated else ""), told)


def _output(facts: Facts) -> Iterator[tuple[str, object]]:
    """What made the .bmodel, which it is, and what verified it."""
    manifest = facts.manifest
    if manifest:
        compiler, sha256 = manifest["toolchain"], tag("code", manifest["sha256"])
        made = f"llmconv {manifest['llmconv']}, tpu_mlir {compiler['version']}, sha256 "
        yield "Made by", [made, tag("code", compiler["digest"])]
        name = ".bmodel" + (" (earlier build)" if facts.outdated else "")
        yield name, [_link(facts, facts.layout.out / manifest["bmodel"]), tag("br"), "sha256 ", sha256]
    if facts.verified:
        versions = ", ".join(f"{name} {version}" for name, version in facts.verified.get("versions", {}).items())
        yield "Verified with", f"{versions}; seed {facts.verified.get('seed')}"


def nets(facts: Facts) -> Html | None:
    """A row for every net."""
    found = status.nets(facts)
    if not found:
        return None
    clock = CHIPS[facts.job["chip"]].clock
    columns = (
        ("net", ""),
        ("status", ""),
        ("why", ""),
        ("coefficients", "n"),
        ("took", "n"),
        ("memory", "n wide"),
        ("estimate", "n"),
        ("relative L2", "n wide"),
        ("log", ""),
    )
    return section(
        "nets",
        f"Nets ({len(found)})",
        tag("input", id="filter", type="search", placeholder="filter: failed, block_1 …", aria_label="filter the nets")
        if len(found) > 12
        else None,
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", [tag("th", name, class_=kind or None) for name, kind in columns])),
                tag("tbody", [_row(facts, net, clock) for net in found]),
            ),
            class_="scroll",
        ),
        note(
            "compiled: by the compiler in this build; stamped: the program of another layer with its own weights; "
            "cached: taken from the cache. Estimates are the compiler's."
        ),
    )


def _row(facts: Facts, net: status.NetStatus, clock: float) -> Html:
    told, log = net.facts, facts.layout.log(net.name)
    error = (f"{net.error[0]:.4f}" if math.isfinite(net.error[0]) else "not finite") if net.error else ""
    held = told.get("coefficients", "")
    shared = f" (of {held[:-6]})" if held and held != f"{net.name}.coeff" else ""
    details = tag(
        "details", tag("summary", "repeat"), tag("pre", status.command(facts, f"compile:{net.name}"), class_="command")
    )
    return tag(
        "tr",
        tag("td", tag("code", net.name)),
        tag(
            "td",
            tag("span", net.state, class_=f"chip {net.state}"),
            [" ", tag("span", "wrong", class_="chip wrong")] if net.right is False else None,
        ),
        tag("td", net.why, details, note(net.reason) if net.reason not in FIRST else None),
        tag(
            "td",
            size(told["coefficient_bytes"]) if "coefficient_bytes" in told else "",
            tag("span", shared, class_="note"),
            class_="n",
        ),
        tag("td", f"{told['seconds']:.2f} s" if "seconds" in told else "", class_="n"),
        tag("td", size(told["peak_rss"]) if told.get("peak_rss") else "", class_="n wide"),
        tag("td", f"{1000 * told['cycles'] / clock:.3f} ms" if told.get("cycles") else "", class_="n"),
        tag(
            "td",
            error,
            tag("span", f" ({figure(net.loss)} to the original weights)", class_="note")
            if net.loss is not None
            else None,
            class_="n wide",
        ),
        tag("td", _link(facts, log, "log") if log.exists() else ""),
    )


def files(facts: Facts) -> Html:
    layout = facts.layout
    known = (
        (layout.manifest, "what was built from what"),
        (layout.sums, "digests of what a device loads: sha256sum -c SHA256SUMS"),
        (layout.verified, "what the verification measured"),
        (layout.log("verify"), "the verification as a table"),
        (layout.state / "events.jsonl", "everything that happened, line by line"),
        (
            trace.place(layout.state, facts.last.begin),
            "this run for a trace viewer (chrome://tracing, ui.perfetto.dev)",
        ),
    )
    return section(
        "files",
        "Files",
        tag("dl", [join(tag("dt", _link(facts, path)), tag("dd", text)) for path, text in known if path.exists()]),
    )
