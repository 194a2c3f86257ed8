"""One request from either front door, kept in the output directory and read back."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from llmconv.cli.parser import Parser, add_options
from llmconv.errors import InputError
from llmconv.request import request
from llmconv.request.options import OPTIONS, amount, arguments
from llmconv.request.request import BuildOptions, Request

DOIT = {"model": "m", "seq": "64", "out": "o", "quantize": "w4bf16", "symmetric": "1", "dynamic": "0", "memory": "2G"}


def by_argv(argv: list[str]) -> Request:
    """The request that `llmconv convert ARGV` makes."""
    parser = Parser(prog="llmconv")
    add_options(parser)
    found: argparse.Namespace = parser.parse_args(argv)
    return Request.create({o.name: getattr(found, o.name) for o in OPTIONS})


def test_both_front_doors_make_the_same_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = Request.create(DOIT)
    assert asked.job.model_path == tmp_path / "m" and asked.layout.out == tmp_path / "o"
    assert (asked.job.weight_bits, asked.job.symmetric, asked.job.dynamic) == (4, True, False)
    same = by_argv(["-m", "m", "-s", "64", "-o", "o", "-q", "w4bf16", "--symmetric", "--memory", "2G"])
    assert (same.job, same.build, {"dynamic": "0", **same.typed}) == (asked.job, asked.build, dict(asked.typed))
    assert by_argv(arguments(asked.typed)).job == asked.job and by_argv(arguments(asked.typed)).build == asked.build
    assert list(asked.typed) == [o.name for o in OPTIONS if o.name in asked.typed], "whatever order they were typed in"


def test_every_option_of_a_build_arrives(tmp_path):
    typed = {"jobs": "3", "memory": "1G", "continue": "", "no_cache": "1", "progress": "json", "dry_run": "1"}
    typed["slim"] = "1"
    asked = Request.create({"model": "m", "seq": "8", "out": str(tmp_path), "debug": "1"} | typed)
    assert asked.build == BuildOptions(3, 10**9, True, True, True, "json", True)
    options = asked.run_options()
    assert (options.jobs, options.memory, options.continue_, options.cache) == (3, 10**9, True, None)
    assert (options.progress, options.debug, options.state_dir) == ("json", True, tmp_path / ".llmconv")
    assert options.slim and not asked.job.to_dict().keys() & {"slim"}, "it changes nothing of what is built"
    assert not options.listeners and options.prepare is None and options.preflight is None
    plain = Request.create({"model": "m", "seq": "8"})
    assert plain.build == BuildOptions() and plain.run_options().cache is not None
    assert (plain.goal, Request.create({"model": "m", "seq": "8", "only_mlir": ""}).goal) == ("convert", "export")


def test_a_request_is_kept_and_read_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = Request.create(DOIT)
    with pytest.raises(InputError, match="is not the output directory of a conversion"):
        request.load(Path("o"))
    asked.layout.state.mkdir(parents=True)
    request.save(asked)
    before = asked.layout.job.stat().st_mtime_ns
    request.save(asked)
    assert asked.layout.job.stat().st_mtime_ns == before, "the same text is not written again"
    monkeypatch.chdir("/")
    assert request.load(tmp_path / "o") == asked
    for damaged in ("[1]", "{", '{"no_such_option": "1"}'):
        asked.layout.job.write_text(damaged)
        with pytest.raises(InputError):
            request.load(tmp_path / "o")


def test_a_directory_needs_no_hub(tmp_path):
    """Nothing is checked here, as config.json is there when the plan is made."""

    def check(job) -> None:
        raise AssertionError(job)

    assert request.settle({"model": str(tmp_path), "seq": 8, "out": "/o"}, check).notes == ()
    with pytest.raises(InputError, match="no sequence length"):
        request.settle({"model": "org/name"}, check)


def test_amounts_are_decimal_unless_they_say_otherwise():
    told = {
        "8G": 8 * 10**9,
        "500MB": 5 * 10**8,
        "1.5g": 15 * 10**8,
        "8GiB": 8 << 30,
        "2Ki": 2048,
        " 12 k ": 12000,
        "7": 7,
    }
    assert {text: amount(text) for text in told} == told
    assert [amount(text) for text in ("", "G", "-1G", "1.2.3", "8X", "9" * 400)] == [None] * 6
