"""One attempt at a task on a worker, in a thread of the main process: send it, wait, and put its outputs in place."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmconv.engine import files, outputs
from llmconv.engine.cluster import errand as travelling
from llmconv.engine.cluster import host
from llmconv.engine.cluster.errand import Done, Errand
from llmconv.engine.cluster.messages import Lost, Place
from llmconv.engine.failure import from_exception
from llmconv.engine.perform import Job, settle
from llmconv.engine.pool import Result

LOOK = 0.5  # seconds between looks at whether the worker is still there


@dataclass(frozen=True)
class Terms:
    """What holds for all attempts of a run. roots, environment, topic, keep: as in Errand; logs: directories that a
    worker's texts may be written to here.
    """

    run_id: str
    roots: tuple[str, ...]
    logs: tuple[str, ...]
    environment: dict[str, str]
    topic: str
    keep: bool = False


class Attempt:
    """Runs `job` on `place`; a Result or a Lost goes to `tell`. slot: number of the place's core, for people."""

    def __init__(self, job: Job, place: Place, slot: int, terms: Terms, tell: Callable[[Any], None]):
        self.id = os.urandom(4).hex()
        self.place, self.slot, self.name = place, slot, job.name
        self._job = replace(job, pairs=[(target, outputs.staged(target, self.id)) for target, _ in job.pairs])
        self._terms, self._tell = terms, tell
        self._why = ""  # why it is given up
        self._thread: threading.Thread | None = None

    def start(self, client: Any) -> None:
        """Begins; client: Dask's."""
        self._thread = threading.Thread(target=self._run, args=(client,), daemon=True)
        self._thread.start()

    def give_up(self, why: str) -> None:
        """The worker is gone, or the run ends."""
        self._why = why

    def join(self, seconds: float) -> None:
        """Waits for its end."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self, client: Any) -> None:
        try:
            done = self._sent(client)
            said = self._taken(done) if done else Lost(self.name, self._why)
        except Exception as error:  # as in perform: it is this task's failure
            said = Result({"name": self.name, "failure": from_exception(error, self._job.pairs[0][1]).to_dict()})
        if isinstance(said, Lost) or "failure" in said.answer:
            for _, staged in self._job.pairs:
                outputs.discard(staged)
        self._tell(said)

    def _sent(self, client: Any) -> Done | None:
        """What the worker answers; None when the attempt is lost."""
        job, terms = self._job, self._terms
        wanted = Errand(
            attempt=self.id,
            host=self.place.host,
            name=job.name,
            call=job.call,
            args=job.args,
            pairs=tuple(job.pairs),
            roots=terms.roots,
            environment=terms.environment,
            topic=terms.topic,
            keep=terms.keep,
        )
        outputs.prepare(job.pairs)
        future = client.submit(
            host.run,
            travelling.to_json(wanted),
            key=f"llmconv-{terms.run_id}-{self.id}",
            workers=[self.place.address],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        try:
            done = self._waited(future)
        finally:
            future.cancel(force=True)
            future.release()
        if done is not None and done.moved:
            self._why = f"{self.place.name} was started anew"
            return None
        return done

    def _waited(self, future: Any) -> Done | None:
        while not self._why:
            try:
                return travelling.done(future.result(timeout=LOOK))
            except TimeoutError:
                continue
            except CancelledError:
                self._why = self._why or "Dask has cancelled it"
            except Exception as error:
                if type(error).__module__.partition(".")[0] != "distributed":
                    raise
                self._why = f"Dask says {type(error).__name__}"  # such as KilledWorker
        return None

    def _taken(self, done: Done) -> Result | Lost:
        """The outputs in place, and what is told of them."""
        for path, text in done.texts.items():
            if os.path.dirname(path) in self._terms.logs:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                part = Path(outputs.staged(path, self.id))
                part.write_text(text, encoding="utf-8")
                part.replace(path)
        if "failure" in done.answer:
            return Result(done.answer)
        for (_, staged), size in zip(self._job.pairs, done.sizes, strict=True):
            if not os.path.exists(staged) or files.size(staged) != size:
                return Lost(self.name, f"{os.path.basename(staged)} of {self.place.name} did not arrive whole")
        answer = settle(self._job, done.answer, lambda: bool(self._why))
        answer["values"] = {**answer["values"], "worker": self.place.name}
        return Result(answer)
