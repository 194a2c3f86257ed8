"""Stamp a net: the program that was compiled for its structure, with our own coefficients."""

from __future__ import annotations

import shutil
import time

from llmconv.bmodel.sums import Sums
from llmconv.bmodel.write import Part, combine
from llmconv.compile.our_coefficients import our_coefficients, written
from llmconv.compile.records import NetFiles, NetTask, Outcome, Refused, Took
from llmconv.plan.exported import Exported


def stamp(net: NetTask, template: NetFiles, targets: NetFiles) -> tuple[Outcome, Took]:
    """Write the template's program and our coefficients to `targets`.

    Raises Refused or NotCovered when the net has to be compiled.
    """
    start, cpu = time.monotonic(), time.process_time()
    known = template.read()
    if known.check != "equal":
        raise Refused(known.check)
    holder, sums = _coefficients(net, template, known, targets)
    combine([Part(template.bare, name=net.module, places=net.places)], targets.bare, 0)
    if targets.addresses and template.addresses:
        shutil.copyfile(template.addresses, targets.addresses)
    how, why, form = "stamped", f"the program of {template.net}", ""
    if template.net == net.name:  # compiled for itself, from made-up weights
        how, why, form = known.how, known.why, known.form
    outcome = Outcome(how, why, known.cycles, sums.size, sums.sha256, holder, form, coefficient_xxh3=sums.xxh3)
    return outcome, Took(round(time.monotonic() - start, 3), round(time.process_time() - cpu, 3), 0)


def _coefficients(net: NetTask, template: NetFiles, known: Outcome, targets: NetFiles) -> tuple[str, Sums]:
    """Write the net's coefficients, unless its owner has them. Returns the file that holds them and their sums."""
    shared = net.owner.read() if net.owner else None
    if shared and shared.coefficient_bytes == known.coefficient_bytes and known.coefficients != f"{template.net}.coeff":
        # the template's coefficients equal its owner's, so this net's equal those of its own owner
        targets.coefficients.write_bytes(b"")
        return shared.coefficients, shared.sums
    blob = our_coefficients(Exported.read(net.weights), net.checkpoint, net.flags, template.bare, net.places)
    return f"{net.name}.coeff", written(blob, targets.coefficients)
