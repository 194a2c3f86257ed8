"""What all tests share: tiny checkpoints, the real compiler, and conversions that several tests look at."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import audio_checkpoints
import internvl_checkpoints
import pytest
import slice_checkpoints
import vision_checkpoints
from checkpoints import make, once


def pytest_configure() -> None:
    """Hear what may have been ignored since birth, in the background or under nohup: the builds that tests interrupt
    are born of us."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden MLIR texts")


@pytest.fixture
def nothing_open():
    """No file, pipe or child process of a test outlives it."""
    gc.collect()  # what others left to the collector is not to be missed here
    before, children = _descriptors(), _children()
    yield
    assert not _descriptors() - before
    assert not _children() - children


def _descriptors() -> set[tuple[str, str]]:
    """(number, what it is) of every open file; the one that lists them is gone before it can be named."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
    return found


def _children() -> set[str]:
    """Numbers of this process's children, dead ones that nobody has waited for too. Python's multiprocessing, which a
    cluster on this machine uses, keeps one for good."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended
            found.update((task / "children").read_text().split())
    return found


@pytest.fixture(scope="session")
def compiler():
    """The real compiler, fetched when this machine has none yet."""
    from llmconv.toolchain.fetch import obtain

    return obtain()


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this test session: nets that several tests need are compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def llmconv_env(compiler, session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Environment in which llmconv uses the real compiler and this session's cache; also set for the test itself."""
    values = {"TPUC_ROOT": str(compiler.root), "LLMCONV_CACHE": str(session_cache)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return os.environ | values


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """checkpoint("qwen2", seed=1, hidden_size=192, ...) -> its directory; the same call gives the same directory."""
    return once(make, tmp_path_factory)


@pytest.fixture(scope="session")
def vision_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """vision_checkpoint("qwen3_vl", vision={"depth": 2}, ...) -> its directory; the same call gives the same
    directory."""
    return once(vision_checkpoints.make, tmp_path_factory)


@pytest.fixture(scope="session")
def audio_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """audio_checkpoint("qwen3_asr", audio={"encoder_layers": 1}, ...) -> its directory; the same call gives the same
    directory."""
    return once(audio_checkpoints.make, tmp_path_factory)


@pytest.fixture(scope="session")
def internvl_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """internvl_checkpoint("internvl_chat", text="qwen3", form="6b", ...) -> its directory; the same call gives the same
    directory."""
    return once(internvl_checkpoints.make, tmp_path_factory)


@pytest.fixture(scope="session")
def slice_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """slice_checkpoint("minicpmv_4_5", vision={"depth": 2}, ...) -> its directory; the same call gives the same
    directory."""
    return once(slice_checkpoints.make, tmp_path_factory)


@pytest.fixture
def convert(llmconv_env, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """convert(model, seq=128, quantize="bf16", ...) -> the output directory of a conversion that ended well."""
    from llmconv import convert
    from llmconv.request.request import Request

    def run(model: Path, **options) -> Path:
        out = tmp_path_factory.mktemp("out")
        given = {"model": str(model), "out": str(out)} | {k: str(v) for k, v in options.items()}
        status = convert.run(Request.create(given))
        assert status == 0, f"converting {model} with {options} ended with {status}"
        return out

    return run
