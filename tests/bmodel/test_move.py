"""Moving coefficients into a .bmodel: the same bytes as by copying, whatever ends it and whenever, on hardly more disk."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from xxhash import xxh3_128_hexdigest

from llmconv.bmodel import copying
from llmconv.bmodel import move as module
from llmconv.bmodel.arrange import Arranged, Piece, arrange
from llmconv.bmodel.move import Moving, Spoiled, move
from llmconv.bmodel.read import BModel
from llmconv.bmodel.write import write
from llmconv.errors import ConvertError

STEP = 8192
SIZES = {"a": 5 * STEP + 100, "b": 2 * STEP, "c": 5, "d": STEP - 4096}


class Place:
    """Coefficients in files of their own (`twin` has those of `a` again), a kernel that stays, and the result. xxh3:
    whether it is known of them."""

    def __init__(self, root: Path, xxh3: bool = True):
        self.xxh3 = xxh3
        self.root, self.out, self.finished = root, root / "unfinished", root / "result.bmodel"
        self.files = {name: root / name for name in (*SIZES, "twin")}
        self.made = {name: random.Random(name).randbytes(size) for name, size in SIZES.items()}
        self.made["twin"] = self.made["a"]
        self.kernel = root / "kernel"
        self.kernel.write_bytes(random.Random("kernel").randbytes(3000))
        for name in self.files:
            self.make(name)
        write(root / "copied", self.model())
        self.wanted = (root / "copied").read_bytes()

    def make(self, name: str) -> None:
        """As the task that makes it would."""
        (self.root / "fresh").write_bytes(self.made[name])
        os.replace(self.root / "fresh", self.files[name])

    def model(self, version: str = "1") -> dict:
        def net(name: str) -> dict:
            made = self.made[name]
            blob = Piece(self.files[name], 0, len(made), sha256(made), xxh3_128_hexdigest(made) if self.xxh3 else "")
            memory = {"binary_coeff": blob, "check_code": bytes(32)}
            return {"name": name, "parameter": [{"input_tensor": [], "output_tensor": [], "coeff_mem": memory}]}

        kernel = {"file_name": "kernel.so", "binary": Piece(self.kernel, 0, 3000)}
        tree = {"type": "B", "version": version, "time": "now", "chip": "BM1684X", "kernel_module": kernel}
        return tree | {"net": [net(name) for name in self.files]}

    def laid(self, version: str = "1") -> Arranged:
        return arrange(self.model(version))

    def move(self) -> str:
        return move(self.out, self.laid(), Moving(list(self.files.values()), self.finished))

    def left(self) -> dict[str, int]:
        return {name: path.stat().st_size for name, path in self.files.items() if path.exists()}


def sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(module, "step", lambda size: STEP)
    return Place(tmp_path)


def test_the_bytes_are_those_of_a_copy_and_the_files_are_gone(place: Place):
    assert place.move() == sha256(place.wanted)
    assert place.out.read_bytes() == place.wanted and not place.left()
    assert [net.name for net in BModel.read(place.out).nets] == list(place.files)


def test_the_disk_holds_little_more_than_the_result(place: Place, monkeypatch: pytest.MonkeyPatch):
    held, sync = [], os.fsync
    files = [*place.files.values(), place.out]

    def measured(descriptor: int) -> None:
        sync(descriptor)
        held.append(sum(file.stat().st_blocks * 512 for file in files if file.exists()))

    monkeypatch.setattr(os, "fsync", measured)
    place.files["twin"].unlink()
    place.move()
    assert len(held) > 5 and max(held) <= len(place.wanted) + 2 * STEP + 4096


class Killed(BaseException):
    """kill -9, as far as a process can play it: nothing is tidied up."""


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int, power: bool, out: Path) -> None:
    """The process ends right before the call of this number that changes a file. power: with it goes all that was
    copied and not synced."""
    count, loose = [0], []

    def before() -> None:
        count[0] += 1
        if count[0] > number:
            if power and out.exists():
                with out.open("r+b") as file:
                    for place, size in loose:
                        file.seek(place)
                        file.write(b"\xee" * size)
            raise Killed

    def wrapped(function: Callable) -> Callable:
        def run(*args, **more):
            before()
            done = function(*args, **more)
            if function is sync:
                loose.clear()
            return done

        return run

    def copied(source: int, offset: int, to: int, at: int, size: int) -> None:
        before()
        copying.copy(source, offset, to, at, size)
        loose.append((at, size))

    sync = os.fsync
    for name in ("fsync", "truncate", "replace", "unlink", "pwrite"):
        monkeypatch.setattr(os, name, wrapped(getattr(os, name)))
    monkeypatch.setattr(module, "copy", copied)


@pytest.mark.parametrize("power", [False, True], ids=["killed", "power lost"])
def test_ended_anywhere_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, power: bool):
    monkeypatch.setattr(module, "step", lambda size: STEP)
    number = 0
    while True:
        (tmp_path / str(number)).mkdir()
        place = Place(tmp_path / str(number))
        with monkeypatch.context() as patch:
            killed_at(patch, number, power, place.out)
            try:
                place.move()
            except Killed:
                pass
            else:
                break
        before = place.left()
        assert place.move() == sha256(place.wanted), f"after {number} calls"
        assert place.out.read_bytes() == place.wanted and not place.left()
        assert sum(before.values()) <= sum(map(len, place.made.values()))
        number += 1
    assert number > 25  # each chunk has a copy, a sync and a cut


def test_killed_again_and_again(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Every attempt comes four calls farther than its start, and what it has moved is not moved again."""
    moved = []
    for _ in range(100):
        with monkeypatch.context() as patch:
            killed_at(patch, 14, False, place.out)
            try:
                sha = place.move()
                break
            except Killed:
                moved.append(sum(place.left().values()))
    assert sha == sha256(place.wanted) and moved == sorted(moved, reverse=True) and len(moved) > 1


@pytest.mark.parametrize("how", ["linked", "read-only"])
def test_files_of_a_cache_are_never_cut(place: Place, how: str, monkeypatch: pytest.MonkeyPatch):
    cut = []
    monkeypatch.setattr(os, "truncate", lambda path, size: cut.append(path))
    for name, path in place.files.items():
        if how == "linked":
            os.link(path, place.root / f"cached {name}")
        else:
            path.chmod(0o444)
    assert place.move() == sha256(place.wanted) and not place.left() and not cut
    if how == "linked":
        assert {name: (place.root / f"cached {name}").read_bytes() for name in place.files} == place.made


@pytest.mark.parametrize("checksum", ["XXH3", "sha256"])
def test_damage_costs_one_file(checksum: str, tmp_path: Path):
    place = Place(tmp_path, checksum == "XXH3")
    content = bytearray(place.made["b"])
    content[STEP] ^= 1
    place.files["b"].write_bytes(content)
    with pytest.raises(Spoiled, match=f"binary_coeff is damaged: its {checksum} should be") as caught:
        place.move()
    assert caught.value.spoiled == [str(place.files["b"])]
    place.make("b")
    assert place.move() == sha256(place.wanted) and place.out.read_bytes() == place.wanted


def test_another_move_is_not_taken_up(place: Place, monkeypatch: pytest.MonkeyPatch):
    """What was moved for another result is of no use; nobody may believe that it is."""
    killed_at(monkeypatch, 20, False, place.out)
    with pytest.raises(Killed):
        place.move()
    monkeypatch.undo()
    assert 0 < place.left()["a"] < SIZES["a"]
    with pytest.raises(Spoiled, match="cannot be finished: 1 of the files") as caught:
        move(place.out, place.laid("2"), Moving(list(place.files.values()), place.finished))
    assert caught.value.spoiled == [str(place.files["a"])] and not place.out.exists()
    place.make("a")
    assert place.move() == sha256(place.wanted)


def test_half_a_head_of_a_killed_start(place: Place):
    place.out.write_bytes(place.wanted[:70])
    assert place.move() == sha256(place.wanted)


@pytest.mark.parametrize("what", ["larger", "gone"])
def test_a_file_that_is_not_what_was_made(place: Place, what: str):
    if what == "larger":
        place.files["a"].write_bytes(place.made["a"] + b"x")
    else:
        place.files["a"].unlink()
    with pytest.raises(Spoiled) as caught:
        place.move()
    assert caught.value.spoiled == [str(place.files["a"])]


def test_killed_when_the_result_was_in_its_place(place: Place):
    place.move()
    os.rename(place.out, place.finished)
    assert place.move() == sha256(place.wanted)
    assert place.out.read_bytes() == place.wanted and not place.finished.exists()


def test_an_older_result_is_not_taken_for_it(place: Place):
    place.finished.write_bytes(bytes(len(place.wanted)))
    place.files["a"].unlink()
    with pytest.raises(Spoiled):
        place.move()
    assert place.finished.read_bytes() == bytes(len(place.wanted))


def test_no_room(place: Place, monkeypatch: pytest.MonkeyPatch):
    """It stops, and goes on when there is."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "copy", full)
        with pytest.raises(ConvertError, match=f"cannot write {place.out}: No space left"):
            place.move()
    assert place.left() == {name: len(made) for name, made in place.made.items()}
    assert place.move() == sha256(place.wanted)


def copies(place: Place) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "copied", lambda: write(place.root / "again", place.model())
    yield "moved", place.move


def test_blocks_can_be_shared(place: Place, monkeypatch: pytest.MonkeyPatch):
    """Where file systems share blocks, the kernel does so for what begins at a block in both files, and ends at one or
    at the end of the source."""
    for how, run in copies(place):
        asked = []

        def recorded(source: int, to: int, size: int, offset: int, at: int | None, asked: list = asked) -> int:
            at = os.lseek(to, 0, os.SEEK_CUR) if at is None else at
            asked.append((offset % 4096, at % 4096, size % 4096 if offset + size < os.fstat(source).st_size else 0))
            if at == os.lseek(to, 0, os.SEEK_CUR):
                return os.write(to, os.pread(source, size, offset))
            return os.pwrite(to, os.pread(source, size, offset), at)

        with monkeypatch.context() as patch:
            patch.setattr(os, "copy_file_range", recorded)
            run()
        assert len(asked) >= len(SIZES) and set(asked) == {(0, 0, 0)}, how
    assert (place.root / "again").read_bytes() == place.wanted == place.out.read_bytes()
