"""The workers of a run on Dask: who comes, who is admitted, who is lost; and the attempts that run on them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmconv.engine import machine, outputs
from llmconv.engine.cluster import admission, host
from llmconv.engine.cluster import errand as travelling
from llmconv.engine.cluster.attempt import Attempt, Terms
from llmconv.engine.cluster.errand import Question
from llmconv.engine.cluster.fleet import Fleet
from llmconv.engine.cluster.messages import Gone, Joined, Left, News, Place, Refused
from llmconv.engine.options import ClusterOptions
from llmconv.engine.perform import Job
from llmconv.engine.pool import Told
from llmconv.engine.step import Step
from llmconv.engine.task import Carry
from llmconv.errors import ConvertError, InputError

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

LOOK = 1.0  # seconds between looks at who is there
ANSWER = 10.0  # seconds that the scheduler has for an answer
PATIENCE = 60.0  # seconds without any worker, after which a run ends
REFUSED = 5.0  # seconds without any, where all that came are refused
LOCAL = "cluster"  # the folder of a local cluster's workers
EXAMINED = 600.0  # seconds that a worker has for what it is asked; it may have to fetch the compiler


class Cluster:
    """The methods are for the main thread. results: gets a Result or a Lost for every task that was started, Told, and
    the messages above, which are to be given to `hear`.
    """

    def __init__(self, wish: ClusterOptions, terms: Terms, inputs: list[str], folder: Path, memory: int, tell: Any):
        self._wish, self._terms, self._inputs, self.folder = wish, terms, inputs, folder
        self._tell: Callable[[Any], None] = tell
        self._most = None if wish.scheduler else memory
        self.fleet = Fleet(self._most)
        self._local: LocalCluster | None = None
        self._attempts: dict[str, Attempt] = {}
        self._slots: dict[str, list[int]] = {}  # address -> numbers of its cores
        self._lock = threading.Lock()
        self._asked: Question | None = None
        self._mine: dict[str, str] = {}
        self._gone = ""
        self._refused: dict[str, str] = {}
        self._examined: set[str] = set()  # those that are being examined
        self._lonely = time.monotonic()  # since when there has been no worker
        self._ended = threading.Event()
        self._client = self._connected()
        self._client.subscribe_topic(terms.topic, self._heard)
        threading.Thread(target=self._look, daemon=True).start()

    def _connected(self) -> Client:
        from distributed import Client

        try:
            address: Any = self._wish.scheduler
            if not address:
                address = self._local = _started(self._wish.local, self.folder)
            return Client(address, timeout=ANSWER, set_as_default=False, name=f"llmconv-{self._terms.run_id}")
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(
                f"there is no Dask scheduler at {self._wish.scheduler or '127.0.0.1'}",
                str(error).splitlines()[0] if str(error) else type(error).__name__,
                "Start one (`dask scheduler`), or leave the option out.",
            ) from None

    # ------------------------------------------------------------------ tasks

    def start(self, job: Job, carry: Carry | None, place: Place, first: int) -> int:
        """Starts a job on a worker; returns a number, from `first`, of the worker's core that it has."""
        taken = {attempt.slot for attempt in self._attempts.values()}
        own = self._slots.setdefault(place.address, [])
        slot = next((number for number in own if number not in taken), 0)
        if not slot:
            slot = first + sum(map(len, self._slots.values()))
            own.append(slot)
        attempt = self._attempts[job.name] = Attempt(job, carry, place, slot, self._terms, self._tell)
        attempt.start(self._client)
        return slot

    def give_up(self, name: str) -> None:
        """The task is not wanted any more; a Lost comes for it."""
        if name in self._attempts:
            self._attempts[name].give_up("it is not wanted any more")

    def finished(self, name: str) -> None:
        """To be called with every Result and Lost."""
        self._attempts.pop(name, None)

    def check(self) -> None:
        """ConvertError when the tasks that wait can wait no longer."""
        where = self._wish.scheduler or "the local cluster"
        if self._gone:
            raise ConvertError(f"the Dask scheduler {where} is gone", self._gone, "Start it and run the same command.")
        patience = REFUSED if self._refused and not self._examined else PATIENCE
        if not self.fleet.places and time.monotonic() - self._lonely > patience:
            told = [f"{address} is refused: {why}" for address, why in self._refused.items()]
            raise ConvertError(
                f"{where} has no worker that can be used",
                "; ".join(told) or f"none came within {PATIENCE:.0f} s",
                "Start workers with the same llmconv (`dask worker`), and run the same command.",
            )

    def stop(self) -> None:
        """Ends all attempts, with their compilers, and leaves the cluster."""
        self._ended.set()
        for attempt in self._attempts.values():
            attempt.give_up("the run ends")
        for attempt in self._attempts.values():
            attempt.join(ANSWER)
        self._client.close(timeout=ANSWER)
        if self._local is not None:
            self._local.close(timeout=ANSWER)
            outputs.discard(str(self.folder / LOCAL))
        if self._asked is not None:
            Path(self._asked.probe).unlink(missing_ok=True)

    # ------------------------------------------------------------------ workers

    def hear(self, message: News) -> str:
        """Takes in a message; returns what the user is told of it, or ""."""
        if isinstance(message, Gone):
            self._gone = message.why
            lost = self.fleet.places
            self._leave(lost)
            self._lose(lost, message.why)
            return ""
        if isinstance(message, Joined):
            self.fleet.join(message.place)
            place = message.place
            files = "" if place.shared else "; it shares no files with this machine, which sends them"
            return f"worker {place.name} has {place.cores} cores and {place.memory / 1e9:.1f} GB of memory{files}"
        if isinstance(message, Refused):
            self._refused[message.address] = message.why
            self._leave([place for place in self.fleet.places if place.address == message.address])
            return f"worker {message.address} is refused: {message.why}"
        self._refused.pop(message.address, None)
        lost = [place for place in self.fleet.places if place.address == message.address]
        self._leave(lost)
        self._lose(lost, "the worker is gone")
        return f"worker {lost[0].name} is gone" if lost else ""

    def _leave(self, places: list[Place]) -> None:
        """They get no more tasks."""
        for place in places:
            self.fleet.leave(place.address)
        if places and not self.fleet.places:
            self._lonely = time.monotonic()

    def _lose(self, places: list[Place], why: str) -> None:
        """What they do comes to no end."""
        for attempt in self._attempts.values():
            if attempt.place in places:
                attempt.give_up(f"{attempt.place.name}: {why}")

    def _look(self) -> None:
        """In a thread: who comes and goes. A worker's process is known by its address and its Dask id."""
        known: dict[str, str] = {}
        answered = time.monotonic()
        while not self._ended.wait(LOOK if known else 0.05):
            try:
                there: Mapping[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
                answered = time.monotonic()
            except Exception as error:  # whatever it is, the scheduler does not answer
                if time.monotonic() - answered > ANSWER or self._client.status == "closed":
                    self._tell(Gone(str(error) or type(error).__name__))
                    return
                continue
            for address in [one for one, who in known.items() if there.get(one, {}).get("id") != who]:
                del known[address]
                self._tell(Left(address))
            for address, facts in there.items():
                if address not in known:
                    known[address] = facts["id"]
                    self._examined.add(address)
                    threading.Thread(target=self._examine, args=(address, facts), daemon=True).start()

    def _examine(self, address: str, facts: Mapping[str, Any]) -> None:
        """In a thread: whether a worker may have tasks. What Dask makes of a busy moment is no answer yet."""
        found = self._judged(address, facts)
        if isinstance(found, str):
            found = self._judged(address, facts)
        self._tell(Refused(address, found) if isinstance(found, str) else found)
        self._examined.discard(address)

    def _judged(self, address: str, facts: Mapping[str, Any]) -> Joined | Refused | str:
        """The answer, or why there is none."""
        try:
            asked = self._question()
            self._client.run(host.install, workers=[address])
            future = self._client.submit(
                admission.examine, travelling.to_json(asked), workers=[address], pure=False, priority=10
            )
            said = travelling.told(future.result(timeout=EXAMINED))
        except Exception as error:  # of another llmconv, or of none; or the worker is gone already
            return f"{type(error).__name__}: {error}"
        other = [
            f"its {what} is {said.passport.get(what) or 'missing'}, this machine's {version}"
            for what, version in self._mine.items()
            if said.passport.get(what) != version
        ]
        if other:
            return Refused(address, "; ".join(other))
        memory = self._most or min(facts["memory_limit"] or said.memory, said.memory)
        return Joined(Place(address, said.host, facts["nthreads"], memory, admission.shares(asked, said)))

    def _question(self) -> Question:
        with self._lock:
            if self._asked is None:
                self._mine = admission.passport(self._wish.passport)
                self._asked = admission.ask(self.folder, self._inputs, self._wish.passport)
            return self._asked

    def _heard(self, event: tuple[float, Any]) -> None:
        """In Dask's thread: a task tells how far it is."""
        said = event[1]
        self._tell(Told(said["name"], Step(**said["step"])))


def _started(count: int, folder: Path) -> LocalCluster:
    """Workers on this machine, which nobody else can reach."""
    import dask.config
    from distributed import LocalCluster

    outputs.discard(str(folder / LOCAL))  # of a run that was killed
    cores = machine.cores()
    with dask.config.set({host.LIMITS: {}}):  # they would hold for this process too
        return LocalCluster(
            n_workers=count,
            threads_per_worker=max(1, cores // count),
            host="127.0.0.1",
            security=True,  # certificates of its own, which other users of this machine have not
            # without an address, Dask's web pages are for everybody
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            memory_limit=0,
            local_directory=str(folder / LOCAL),
            silence_logs=50,
        )
