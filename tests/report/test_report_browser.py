"""The page in a real browser: plots are drawn, nothing is complained of, a phone can show it.

Needs Chromium (Debian's package `chromium`; LLMCONV_BROWSER names another one). `.ci/run` installs it where it can.
Where there is none these tests are skipped, and pytest's summary says so; with LLMCONV_BROWSER set they fail instead.
All else of the page is tested without."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from report_helpers import verified

from llmconv import report
from llmconv.cli.main import main

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


@dataclass(frozen=True)
class Shown:
    """A page after its scripts ran: dom, and what the console said."""

    dom: str
    console: list[str]

    def attribute(self, name: str) -> str | None:
        """Of the html element."""
        found = re.search(rf'<html[^>]* data-{name}="([^"]*)"', self.dom)
        return found and found[1]


@pytest.fixture(scope="session")
def browser() -> str:
    named = os.environ.get("LLMCONV_BROWSER")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
    if named and not found:
        pytest.fail(f"LLMCONV_BROWSER={named} is not there")
    if not found:
        pytest.skip("NO BROWSER: the report is not looked at in Chromium (apt-get install chromium)")
    return found


@pytest.fixture
def show(browser, tmp_path):
    """show(file, width, script, dark) -> Shown; script runs after the page's own."""

    def run(file: Path, width: int = 1200, script: str = "", dark: bool = False) -> Shown:
        if script:
            text = POLICY.sub("", file.read_text(encoding="utf-8"))
            file = tmp_path / "scripted.html"
            file.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
        argv = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--window-size={width},900", "--virtual-time-budget=5000", "--dump-dom", file.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "</html>" in done.stdout, done.stderr
        return Shown(done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line])

    return run


def plots(shown: Shown) -> dict[str, int]:
    """Canvases in each of the page's plots."""
    found = {}
    for name in re.findall(r'<div id="(\w+)" class="plot"', shown.dom):
        rest = shown.dom[shown.dom.index(f'<div id="{name}" class="plot"') :]
        following = rest.find('class="plot"', 40)
        found[name] = rest[: following if following > 0 else None].count("<canvas")
    return found


@pytest.fixture
def build(checkpoint, convert) -> Path:
    """A verified build with two runs."""
    out = convert(checkpoint("qwen2", num_hidden_layers=5), seq=64)
    (out / "mlir" / "block_1.mlir").unlink()
    assert main(["convert", "-m", str(checkpoint("qwen2", num_hidden_layers=5)), "-s", "64", "-o", str(out)]) == 0
    verified(
        out,
        {f"block_{n}": 0.002 * (n + 1) for n in range(5)} | {"all blocks": 0.01},
        [(5, 5, True), (7, 8, True)],
        {f"block_{n}": 0.08 for n in range(5)},
    )
    report.write(out)
    return out / "report.html"


@pytest.mark.compiler
def test_every_plot_is_drawn_and_the_console_is_silent(show, build):
    for dark in (False, True):
        shown = show(build, dark=dark)
        assert shown.console == []
        assert (
            plots(shown) == dict.fromkeys(("gantt", "memory", "prefill", "decode", "errors", "losses"), 1)
            and shown.attribute("ready") == "6"
        )


@pytest.mark.compiler
@pytest.mark.parametrize("width", [390, 768, 1600])
def test_it_fits_any_width(show, build, width):
    script = """
        const root = document.documentElement.dataset, tiles = [...document.querySelectorAll('.tile b')];
        root.over = document.documentElement.scrollWidth - innerWidth; root.inner = innerWidth;
        const lines = (b) => b.offsetHeight / parseFloat(getComputedStyle(b).lineHeight);
        root.broken = tiles.filter((b) => lines(b) > 1.5).map((b) => b.textContent).join();
        root.tiles = tiles.length; root.cut = tiles.filter((b) => b.scrollWidth > b.clientWidth).length;
    """
    shown = show(build, width, script)
    assert (
        shown.console == [] and int(shown.attribute("over")) <= 0 and int(shown.attribute("inner")) <= max(width, 500)
    )
    assert int(shown.attribute("tiles")) > 5 and shown.attribute("cut") == "0"
    assert shown.attribute("broken") == "", "a figure on a card is one line"


@pytest.mark.compiler
def test_filter_and_choice_of_run_work(show, build):
    script = """
        const root = document.documentElement.dataset, rows = () => [...document.querySelectorAll('#nets tbody tr')].filter((r) => !r.hidden).length;
        const visible = () => [...document.querySelectorAll('[data-run]')].filter((e) => !e.hidden).map((e) => e.dataset.run).join();
        const set = (id, value, kind) => { const e = document.getElementById(id); e.value = value; e.dispatchEvent(new Event(kind)); };
        root.all = rows(); set('filter', 'block_1', 'input'); root.some = rows(); set('filter', 'nothing like it', 'input'); root.none = rows();
        root.before = visible(); set('run', '1', 'change'); root.after = visible();
    """
    shown = show(build, script=script)
    assert shown.console == []
    # embedding, embedding_cache, lm_head and five of each kind of block; the rows of block_1 alone name it
    assert (shown.attribute("all"), shown.attribute("none")) == ("13", "0") and 1 <= int(shown.attribute("some")) < 13
    assert (shown.attribute("before"), shown.attribute("after")) == ("0", "1")


@pytest.mark.compiler
def test_a_failed_build_with_a_hostile_log(show, failed_build):
    out = failed_build()
    shown = show(out / "report.html")
    assert (
        shown.console == []
        and set(plots(shown)) == {"gantt", "memory"}
        and "<title>1</title>" not in shown.dom
        and "<title>2</title>" not in shown.dom
    )


def test_this_would_notice_errors(show, tmp_path):
    file = tmp_path / "bad.html"
    file.write_text("<!doctype html><html><body><script>nothing.like.it()</script></body></html>")
    assert "nothing is not defined" in show(file).console[0]
    file.write_text(
        "<!doctype html><html><head><meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\"></head><body><script>1</script></body></html>"
    )
    assert "Content Security Policy" in show(file).console[0]
