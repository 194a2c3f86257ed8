"""A hub that has tiny models, and ways to ask it as a user does."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import pytest
from hub_server import Hub, folder


class User:
    """Runs llmconv with a cache of the hub of its own: in this process, or as a program where that matters."""

    def __init__(self, root: Path, env: dict[str, str], hub: Hub, monkeypatch: pytest.MonkeyPatch):
        self.root, self.hub, self.home, self._patch = root, hub, root / "hf", monkeypatch
        kept = {k: v for k, v in env.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        self.env = kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(self.home), "HF_HUB_DISABLE_TELEMETRY": "1"}

    def start(self, *argv: str, program: str = "llmconv.cli.main", **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", program, *argv],
            cwd=self.root,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        """As a program when the library's settings are others than usual: it reads them once."""
        return self._program(*argv, **env) if env.keys() - {"HF_TOKEN"} else self._here(*argv, **env)

    def _here(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        from huggingface_hub import constants

        from llmconv.cli.main import main

        out, err = io.StringIO(), io.StringIO()
        with self._patch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(constants, "ENDPOINT", self.hub.url)
            patch.setattr(
                constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.hub.url + "/{repo_id}/resolve/{revision}/{filename}"
            )
            patch.setattr(constants, "HF_HUB_CACHE", str(self.home / "hub"))
            for name, value in env.items():
                patch.setenv(name, value)
            code = main(argv)
        return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())

    def _program(self, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*argv, **env)
        try:
            out, err = process.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def files(self) -> set[str]:
        """What lies in the cache's snapshots."""
        return {path.name for path in self.home.glob("hub/models--*/snapshots/*/*")}

    def parts(self) -> list[int]:
        """Bytes of downloads that are not whole."""
        sizes = []
        for path in self.home.glob("hub/models--*/blobs/*.incomplete"):
            with suppress(FileNotFoundError):  # it is whole meanwhile
                sizes.append(path.stat().st_size)
        return sizes


@pytest.fixture
def model(checkpoint) -> dict[str, bytes]:
    """A repository as they are published: with what llmconv needs, and with what it does not."""
    made = folder(checkpoint("qwen2", shards=2, vocab_size=32000))  # shards of more than one piece of a download
    junk = {
        "README.md": b"# read me",
        "pytorch_model.bin": b"\x80pickle",
        "model.onnx": b"onnx",
        "pytorch_model.bin.index.json": b"{}",
        "modeling_x.py": b"import os",
        "original/params.json": b"{}",
    }
    return (
        made
        | {
            "tokenizer.json": b'{"version": "1.0"}',
            "tokenizer_config.json": b"{}",
            "chat_template.jinja": b"{{ x }}",
            "merges.txt": b"a b",
        }
        | junk
    )


@pytest.fixture
def hub(model, checkpoint):
    with Hub(
        {
            "tiny/Qwen2-Tiny": model,
            "tiny/odd": {"config.json": b'{"model_type": "qwen22"}', "model.safetensors": b"never"},
            "tiny/pickled": {"config.json": model["config.json"], "pytorch_model.bin": b"x"},
        }
    ) as made:
        yield made


@pytest.fixture
def user(hub, llmconv_env, tmp_path, monkeypatch) -> User:
    return User(tmp_path, llmconv_env, hub, monkeypatch)
