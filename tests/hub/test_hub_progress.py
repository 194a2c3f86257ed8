"""What a download shows: bytes, rate and percentage, as events, as lines, on a terminal."""

from __future__ import annotations

import json
import re
import sys

from downloads import convert
from terminals import Seen

from llmconv.hub import show


def test_json_progress(user, tmp_path):
    told = user.run(*convert(tmp_path / "out"), "--progress", "json")
    events = [json.loads(line) for line in told.stdout.splitlines()]
    assert [e["event"] for e in events[:3]] == ["Download", "Download", "RunStarted"]
    assert events[1]["bytes"] == events[1]["total"] > 1_000_000


def test_plain_lines_have_bytes_rate_and_percentage(user, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(show, "BETWEEN", 0.2)
    hub.slow = 0.005
    told = user.run(*convert(tmp_path / "out"), "--progress", "plain")
    form = (
        r"downloading tiny/\S+: \d+\.\d [kM]?B of \d+\.\d MB \((\d+)%\), \d+\.\d [kM]B/s, (a few seconds|about .*) left"
    )
    shares = [int(line[1]) for line in re.finditer(form, told.stdout)]
    assert shares and shares == sorted(shares), told.stdout


def test_a_bar_on_a_terminal(user, hub, tmp_path):
    """All of it within 80 columns."""
    hub.slow = 0.02
    argv = [sys.executable, "-m", "llmconv.cli.main", *convert(tmp_path / "out")]
    seen = Seen(argv, user.env, cwd=user.root)
    form = r"^tiny/Qwen2-Tiny@[0-9a-f]+~? .*\d+% +\d+\.\d/\d+\.\d MB +\d+\.\d [kM]B/s +\d+:\d\d:\d\d$"
    seen.until(lambda: re.search(form, seen.text, re.M) is not None)
    hub.slow = 0.0
    assert seen.wait() == 0
    assert "downloaded tiny/" in seen.text and "━" not in seen.text, seen.text
