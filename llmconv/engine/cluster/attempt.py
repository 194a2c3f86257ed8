"""One attempt at a task on a worker, in a thread of the main process: send it, wait, and put its outputs in place."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmconv.engine import files, outputs
from llmconv.engine.cluster import errand as travelling
from llmconv.engine.cluster import freight, host
from llmconv.engine.cluster.channel import Broken, Channel, Full
from llmconv.engine.cluster.errand import Done, Errand
from llmconv.engine.cluster.messages import Lost, Place, Refused
from llmconv.engine.failure import from_exception
from llmconv.engine.perform import Job, settle
from llmconv.engine.pool import Result
from llmconv.engine.task import Carry


@dataclass(frozen=True)
class Terms:
    """What holds for all attempts of a run. scratch, logs: directories of scratch files and of logs here, which every
    attempt has its own of; outs: directories of outputs. environment, topic, keep: as in Errand.
    """

    run_id: str
    scratch: tuple[str, ...]
    logs: tuple[str, ...]
    outs: tuple[str, ...]
    environment: dict[str, str]
    topic: str
    keep: bool = False


class Attempt:
    """Runs `job` on `place`; a Result or a Lost goes to `tell`. slot: number of the place's core, for people. carry:
    see llmconv.engine.task."""

    def __init__(
        self, job: Job, carry: Carry | None, place: Place, slot: int, terms: Terms, tell: Callable[[Any], None]
    ):
        self.id = os.urandom(4).hex()
        self.place, self.slot, self.name = place, slot, job.name
        self._job = replace(job, pairs=[(target, outputs.staged(target, self.id)) for target, _ in job.pairs])
        self._carry, self._terms, self._tell = carry, terms, tell
        self._why = ""  # why it is given up
        self._thread: threading.Thread | None = None

    def start(self, client: Any) -> None:
        """Begins; client: Dask's."""
        channel = Channel(client, self.place, self._terms.run_id, lambda: self._why)
        self._thread = threading.Thread(target=self._run, args=(channel,), daemon=True)
        self._thread.start()

    def give_up(self, why: str) -> None:
        """The worker is gone, or the run ends."""
        self._why = why

    def join(self, seconds: float) -> None:
        """Waits for its end."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, channel: Channel) -> None:
        said: Result | Lost
        try:
            outputs.prepare(self._job.pairs, self._job.staged)
            done = self._shared(channel) if self.place.shared else self._apart(channel)
            said = self._settled(done)
        except Full as full:  # other workers may have room
            self._tell(Refused(self.place.address, "its disk is full"))
            said = Lost(self.name, str(full))
        except Broken as broken:
            said = Lost(self.name, str(broken))
        except Exception as error:  # as in perform: it is this task's failure
            said = Result({"name": self.name, "failure": from_exception(error, self._job.pairs[0][1]).to_dict()})
        if isinstance(said, Lost) or "failure" in said.answer:
            for _, staged in self._job.pairs:
                outputs.discard(staged)
        self._tell(said)

    def _shared(self, channel: Channel) -> Done:
        """The worker reads and writes the files that are here."""
        done = self._asked(channel, self._terms.scratch + self._terms.logs)
        for (_, staged), size in zip(self._job.pairs, done.sizes):
            if not os.path.exists(staged) or files.size(staged) != size:
                raise Broken(f"{os.path.basename(staged)} of {self.place.name} did not arrive whole")
        return done

    def _apart(self, channel: Channel) -> Done:
        """The worker gets its inputs first, and its outputs are fetched."""
        outside = {os.path.dirname(path) for path, _, _ in self._job.inputs}
        roots = {*self._terms.outs, *outside, *([self._carry.folder] if self._carry else [])}
        place = Path(self._terms.scratch[0], f"carried.{self.id}")
        try:
            sources = freight.inputs([path for path, _, _ in self._job.inputs], self._carry, place)
            given = freight.sent(channel, self.id, sources)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        try:
            done = self._asked(channel, tuple(sorted(roots)), tuple(given))
            if "failure" not in done.answer:
                freight.fetched(channel, self.id, [staged for _, staged in self._job.pairs], done.answer)
        finally:
            with suppress(Broken):
                channel.call(host.forget, self.id)
        return done

    def _asked(self, channel: Channel, roots: tuple[str, ...], given: tuple[tuple[str, str], ...] = ()) -> Done:
        """The task itself."""
        job, terms = self._job, self._terms
        wanted = Errand(
            attempt=self.id,
            host=self.place.host,
            name=job.name,
            call=job.call,
            args=job.args,
            pairs=tuple(job.pairs),
            shared=self.place.shared,
            given=given,
            roots=roots,
            logs=terms.logs,
            environment=terms.environment,
            topic=terms.topic,
            keep=terms.keep,
        )
        done = travelling.done(channel.call(host.run, travelling.to_json(wanted), first=False))
        if done.moved:
            raise Broken(f"{self.place.name} was started anew")
        if done.full:
            raise Full(f"the disk of {self.place.name} is full: {done.answer['failure']['what']}")
        return done

    def _settled(self, done: Done) -> Result:
        """The outputs in place, and what is told of them."""
        for path, text in done.texts.items():
            if os.path.dirname(path) in self._terms.logs:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                part = Path(outputs.staged(path, self.id))
                part.write_text(text, encoding="utf-8")
                part.replace(path)
        if "failure" in done.answer:
            return Result(done.answer)
        answer = settle(self._job, done.answer, lambda: bool(self._why))
        answer["values"] = {**answer["values"], "worker": self.place.name}
        return Result(answer)
