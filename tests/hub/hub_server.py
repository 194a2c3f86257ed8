"""A small hub on loopback: what huggingface_hub uses of the protocol for models, and the ways in which that fails."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE = (".safetensors", ".bin", ".gguf")  # kept by sha256, as by git-lfs
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_INFO = re.compile(r"/api/models/([^/]+/[^/]+)/revision/([^/?]+)")


@dataclass
class Hub:
    """models: repository -> {file: content}. revisions: names of the one commit of each.

    asked: (method, file, Range header, bytes sent, Authorization header).
    gated: repositories that need `token`.
    drops: GETs of weights that are broken off after `drop_after` bytes. ranges: whether a part of a file can be had.
    corrupt: a file whose byte `corrupt_at` is wrong when all of it is asked for.
    slow: seconds between the pieces of weights, or of `slow_file` alone.
    lost: files that the list names, but that are not given.
    """

    models: dict[str, dict[str, bytes]]
    revisions: tuple[str, ...] = ("main", "v1")
    gated: tuple[str, ...] = ()
    token: str = ""
    drops: int = 0
    drop_after: int = 11 << 20
    ranges: bool = True
    corrupt: str = ""
    corrupt_at: int = -1
    slow: float = 0.0
    slow_file: str = ""
    lost: tuple[str, ...] = ()
    asked: list[tuple] = field(default_factory=list)

    def __enter__(self) -> Hub:
        hub = self
        self.etags = {
            (repo, name): etag(name, content) for repo, files in self.models.items() for name, content in files.items()
        }

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def commit(self, repo: str) -> str:
        return hashlib.sha1(
            repr(sorted(item for item in self.etags.items() if item[0][0] == repo)).encode()
        ).hexdigest()

    def gets(self, ending: str = "") -> list[tuple]:
        return [asked for asked in self.asked if asked[0] == "GET" and asked[1].endswith(ending)]


def folder(path: Path) -> dict[str, bytes]:
    """The files of a model directory."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def etag(file: str, content: bytes) -> str:
    return (hashlib.sha256 if file.endswith(LARGE) else hashlib.sha1)(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        found, info = _FILE.fullmatch(self.path), _INFO.match(self.path)
        if not (found or info):  # what the library asks for itself
            return self.send_error(404)
        repo, revision = (found or info).group(1, 2)
        name = found[3] if found else self.path
        if repo not in self.hub.models:
            return self._refuse(401, "RepoNotFound", name)
        if revision not in (*self.hub.revisions, self.hub.commit(repo)):
            return self._refuse(404, "RevisionNotFound", name)
        files = self.hub.models[repo]
        if info:
            siblings = [self._sibling(repo, file, len(content)) for file, content in files.items()]
            told = json.dumps({"id": repo, "sha": self.hub.commit(repo), "siblings": siblings}).encode()
            return self._send(200, {"Content-Type": "application/json"}, told, body, name)
        if repo in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._refuse(401 if "Authorization" not in self.headers else 403, "GatedRepo", name)
        if name not in files or name in self.hub.lost:
            return self._refuse(404, "EntryNotFound", name, {"X-Repo-Commit": self.hub.commit(repo)})
        self._file(repo, name, files[name], body)
        return None

    def _sibling(self, repo: str, file: str, size: int) -> dict:
        told = {"rfilename": file, "size": size, "blobId": self.hub.etags[repo, file]}
        if file.endswith(LARGE):
            told["lfs"] = {"sha256": self.hub.etags[repo, file], "size": size, "pointerSize": 134}
        return told

    def _file(self, repo: str, name: str, content: bytes, body: bool) -> None:
        headers = {
            "X-Repo-Commit": self.hub.commit(repo),
            "ETag": f'"{self.hub.etags[repo, name]}"',
            "Accept-Ranges": "bytes",
        }
        if name.endswith(LARGE):
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(content))}
            if self.hub.corrupt == name and body and "Range" not in self.headers:
                at = self.hub.corrupt_at % len(content)
                content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        status, span = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if span and self.hub.ranges:
            start, end = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
            if start >= len(content):
                return self._refuse(416, "Range", name)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            status, content = 206, content[start : end + 1]
        self._send(status, headers, content, body, name)
        return None

    def _refuse(self, status: int, code: str, name: str, more: dict[str, str] | None = None) -> None:
        self._send(
            status, {"X-Error-Code": code, "X-Error-Message": f"refused: {code}", **(more or {})}, b"", True, name
        )

    def _send(self, status: int, headers: dict[str, str], content: bytes, body: bool, name: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        weights, sent = name.endswith(".safetensors") and len(content) > self.hub.drop_after, content if body else b""
        if body and weights and self.hub.drops > 0 and "-100000" not in self.headers.get("Range", ""):
            self.hub.drops -= 1
            sent = content[: self.hub.drop_after]
            self.close_connection = True
        self.hub.asked.append(
            (self.command, name, self.headers.get("Range"), len(sent), self.headers.get("Authorization"))
        )
        for at in range(0, len(sent), 1 << 16):
            if self.hub.slow and weights and self.hub.slow_file in name:
                threading.Event().wait(self.hub.slow)
            try:
                self.wfile.write(sent[at : at + (1 << 16)])
                self.wfile.flush()
            except OSError:
                self.close_connection = True
                return
