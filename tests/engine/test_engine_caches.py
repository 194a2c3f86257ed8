"""Caches of others below one's own: directories that are only read, and servers of files."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmconv import engine
from llmconv.engine import remote

TOKEN = "open sesame"


@pytest.fixture
def cache(shop) -> Path:
    return shop.root / "cache"


@pytest.fixture
def team(shop, cache) -> Path:
    """Another's cache, which holds what `tasks` make."""
    shop.run(tasks(shop), cache=cache)
    return cache.rename(shop.root / "team")


def tasks(shop) -> list[dict]:
    return [shop.task("a"), shop.task("b", "folder", args={"count": 3}), shop.task("c", "join", deps=("a",))]


def elsewhere(shop, name: str) -> dict:
    """Makes the shop work in another output directory."""
    shop.out = shop.root / name
    return {"state_dir": shop.out / ".llmconv"}


def content(root: Path) -> dict[str, tuple]:
    """Of every file below: what it holds, its mode, links and times."""
    found = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        told = path.stat()
        found[str(path.relative_to(root))] = path.read_bytes(), told.st_mode, told.st_nlink, told.st_mtime_ns
    return found


class Files(SimpleHTTPRequestHandler):
    """A server of files that takes PUT from those with the token."""

    def __init__(self, *args, **options):
        super().__init__(*args, directory=str(self.root), **options)  # type: ignore[attr-defined]

    def do_GET(self):
        self.asked.append(self.path)  # type: ignore[attr-defined]
        super().do_GET()

    def do_PUT(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.send_error(401)
            return
        path = Path(self.translate_path(self.path))
        path.parent.mkdir(parents=True, exist_ok=True)
        data = b""
        if "Content-Length" in self.headers:
            data = self.rfile.read(int(self.headers["Content-Length"]))
        else:  # in chunks
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path.write_bytes(data)
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def served(shop, monkeypatch):
    """served(handler=Files) -> (address, its folder, what was asked for)."""
    servers = []
    monkeypatch.setattr(remote, "_silent", {})

    def serve(base: type = Files) -> tuple[str, Path, list[str]]:
        root, asked = shop.root / f"served{len(servers)}", []
        root.mkdir(exist_ok=True)
        handler = type("Handler", (base,), {"root": root, "asked": asked})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}", root, asked

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_directory_is_read_and_stays_as_it_is(shop, cache, team):
    before, where = content(team), elsewhere(shop, "second")
    assert set(shop.plan(tasks(shop), cache=cache, below=(str(team),), **where).values()) == {"cached"}
    assert shop.run(tasks(shop), cache=cache, below=(str(team),), **where) == 0
    assert shop.ran() == [] and (shop.out / "c").read_text() == "a"
    assert content(team) == before
    where = elsewhere(shop, "third")  # one's own has it now
    assert shop.run(tasks(shop), cache=cache, **where) == 0
    assert shop.ran() == []


def test_what_is_new_is_kept_in_ones_own_alone(shop, cache, team):
    before = content(team)
    shop.run([*tasks(shop), shop.task("d")], cache=cache, below=(str(team),))
    elsewhere(shop, "second")
    assert content(team) == before
    assert len(list(cache.glob("??/*"))) == 1  # what was up to date is not fetched


@pytest.mark.parametrize("how", ["directory", "address"])
def test_damage_is_found_and_left_to_its_owner(shop, cache, team, served, how):
    for path in team.glob("??/*/0"):
        if path.is_file():
            path.chmod(0o644)
            path.write_text("damaged")
    before, below = content(team), str(team)
    if how == "address":
        below, root, _ = served()
        shutil.copytree(team, root, dirs_exist_ok=True)
    where = elsewhere(shop, "second")
    assert shop.run(tasks(shop), cache=cache, below=(below,), **where) == 0
    assert shop.ran() == ["a", "c"] and (shop.out / "c").read_text() == "a"
    assert content(team) == before


def test_a_server_of_files_is_a_cache(shop, cache, team, served):
    """Nothing but files is asked of it."""
    address, root, asked = served()
    shutil.copytree(team, root, dirs_exist_ok=True)
    where = elsewhere(shop, "second")
    assert set(shop.plan(tasks(shop), cache=cache, below=(address,), **where).values()) == {"cached"}
    assert not cache.exists()
    assert shop.run(tasks(shop), cache=cache, below=(address,), **where) == 0
    assert shop.ran() == [] and (shop.out / "b" / "d0" / "f0").read_text() == "b 0"
    assert (shop.out / "c").read_text() == "a"
    asked.clear()
    assert shop.run(tasks(shop), cache=cache, below=(address,), **elsewhere(shop, "third")) == 0
    assert shop.ran() == [] and asked == []


@pytest.mark.parametrize("token", [TOKEN, "wrong", ""])
def test_what_is_new_is_written_with_a_token(shop, cache, served, monkeypatch, token):
    monkeypatch.setenv(remote.TOKEN, token)
    address, root, _ = served()
    assert shop.run(tasks(shop), cache=cache, below=(address,)) == 0
    assert shop.ran() == ["a", "b", "c"]
    entries = list(root.glob("??/*/meta.json"))
    assert len(entries) == (3 if token == TOKEN else 0)
    told = [note.text for note in shop.told("Note") if "401" in note.text]
    assert bool(told) is (token == "wrong") and len(told) <= 2  # of each worker
    if token != TOKEN:
        return
    monkeypatch.delenv(remote.TOKEN)
    shutil.rmtree(cache)
    assert shop.run(tasks(shop), cache=cache, below=(address,), **elsewhere(shop, "second")) == 0
    assert shop.ran() == []


def test_an_entry_without_its_last_file_is_none(shop, cache, team, served):
    """As a writer leaves it that was killed: meta.json comes last."""
    address, root, _ = served()
    shutil.copytree(team, root, dirs_exist_ok=True)
    for path in root.glob("??/*/meta.json"):
        path.unlink()
    assert shop.run(tasks(shop), cache=cache, below=(address,), **elsewhere(shop, "second")) == 0
    assert shop.ran() == ["a", "b", "c"]


class Broken(Files):
    """Breaks off in the middle of every output."""

    def do_GET(self):
        if self.path.endswith("meta.json"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"abc")


class Failing(Files):
    def do_GET(self):
        self.send_error(500)


@pytest.mark.parametrize("base", [Broken, Failing, None], ids=["broken", "failing", "absent"])
def test_a_server_that_fails_is_left_out(shop, cache, team, served, base):
    address = "http://127.0.0.1:9"
    if base:
        address, root, _ = served(base)
        shutil.copytree(team, root, dirs_exist_ok=True)
    where = elsewhere(shop, "second")
    assert shop.run(tasks(shop), cache=cache, below=(address,), **where) == 0
    assert shop.ran() == ["a", "b", "c"] and (shop.out / "c").read_text() == "a"
    assert not shop.staged()
    if base is not Broken:  # there each worker finds out by itself
        assert [note.text for note in shop.told("Note") if f"{address} is left out" in note.text]


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/llmconv-escaped", "d0/../../../../escaped"])
def test_names_lead_to_no_other_place(shop, cache, team, served, name):
    address, root, _ = served()
    shutil.copytree(team, root, dirs_exist_ok=True)
    for path in root.glob("??/*/meta.json"):
        meta = json.loads(path.read_text())
        if meta["trees"]:
            meta["trees"]["0"].append(name)
            path.chmod(0o644)
            path.write_text(json.dumps(meta))
    assert shop.run(tasks(shop), cache=cache, below=(address,), **elsewhere(shop, "second")) == 0
    assert shop.ran() == ["b"]
    assert not list(shop.root.rglob("*escaped*")) and not os.path.exists("/tmp/llmconv-escaped")


def test_ones_own_may_be_a_file_system_that_is_only_read(shop, cache, monkeypatch):
    """As in a container: what is there is taken, nothing is written, and a build of something new still ends well."""
    shop.run(tasks(shop), cache=cache)
    before = content(cache)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (cache, *cache.rglob("*")) if path.is_dir()}
    for path in modes:
        path.chmod(0o555)
    if os.geteuid() == 0:  # who may write everywhere is stopped by the file system alone
        monkeypatch.setattr(os, "link", _refused)
        monkeypatch.setattr(os, "utime", _refused)
    try:
        where = elsewhere(shop, "second")
        assert shop.run(tasks(shop), cache=cache, **where) == 0
        assert shop.ran() == [] and (shop.out / "c").read_text() == "a"
        assert {name: told[0] for name, told in content(cache).items()} == {n: told[0] for n, told in before.items()}
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def _refused(*_, **__):
    raise OSError(30, "Read-only file system")


def test_gc_says_what_it_would_do(shop, cache):
    shop.run(tasks(shop), cache=cache)
    before = content(cache)
    removed, kept = engine.gc(cache, 0, True)
    assert removed > 0 and kept == 0 and content(cache) == before
    assert engine.gc(cache, 0) == (removed, 0) and not list(cache.glob("??/*"))
