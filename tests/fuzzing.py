"""Random damage to values of JSON, and bounds of what a case may take: for tests on hypothesis.

LLMCONV_FUZZ=100000 in the environment makes so many cases of each kind, other ones in every run.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

CASES = int(os.environ.get("LLMCONV_FUZZ", "0"))
SECONDS, BYTES = 10.0, 1 << 30  # of CPU and of memory that a case may take
FUZZ = {
    "deadline": None,
    "database": None,
    "derandomize": not CASES,  # the same cases in every run of the suite
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": list(HealthCheck),
}


def cases(count: int) -> Callable:
    return settings(max_examples=CASES or count, **FUZZ)


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from([0, -1, 1, 2, 3, 1 << 31, 1 << 63, 10**400, -(10**400), 1e308, 1e-308, 5e-324, float("nan"), float("inf"),
                     -float("inf"), "", "x" * 70000, [], {}, [[]], [0], [None], {"": 0}, "\x00", "\x1b[2J", "\ud800", True, 0.5]),
)  # fmt: skip
VALUES = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=6,
)


def places(value: Any, way: tuple = ()) -> list[tuple]:
    """The way to everything in a JSON value, by keys and numbers."""
    found = [way] if way else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, inner in items for place in places(inner, (*way, key))]


@st.composite
def damaged(draw, whole: Any) -> Any:
    """A JSON value with up to three of its parts replaced, taken away, doubled, or put elsewhere."""
    value = deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        known = places(value)
        if not known:
            return deepcopy(draw(VALUES))
        *way, last = draw(st.sampled_from(known))
        holder = value
        for key in way:
            holder = holder[key]
        kind = draw(st.sampled_from(["replace", "replace", "replace", "remove", "other", "deep", "scale"]))
        if kind == "remove":
            del holder[last]
        elif kind == "other":
            *there, end = draw(st.sampled_from(known))
            found = value
            for key in (*there, end):
                found = (
                    found[key]
                    if isinstance(found, (dict, list))
                    and (key in found if isinstance(found, dict) else key < len(found))
                    else None
                )
            holder[last] = deepcopy(found)
        elif kind == "deep":
            inner: Any = holder[last]
            for _ in range(draw(st.sampled_from([1, 5, 60, 200]))):
                inner = [inner]
            holder[last] = inner
        elif kind == "scale" and isinstance(holder[last], (int, float)):
            holder[last] = holder[last] * draw(st.sampled_from([-1, 0, 2, 0.5, 1000, 10**9, 10**30]))
        else:
            holder[last] = deepcopy(draw(VALUES))  # the strategy keeps what it gave
    return value


def bounded(run: Callable[[], object], *allowed: type[BaseException]) -> object:
    """What a call gives, or the error that it may raise, which is one line of a terminal."""
    begin = time.process_time()
    tracemalloc.start()
    try:
        made = run()
    except allowed as error:
        made = error
        text = str(error)
        assert text.isprintable() and len(text) < 7000 and "Traceback" not in text
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - begin < SECONDS and peak < BYTES, (time.process_time() - begin, peak)
    return made
