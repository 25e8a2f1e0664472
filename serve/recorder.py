"""Keeps the calls of each rollout id: open rollouts in memory and on disk, finished ones as rows of the store, each exactly once."""

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any, Protocol, TypeVar

from ..base.errors import SchemaMismatch
from ..collect.episode import without_content
from ..collect.feed import without_task
from ..policies.types import Policy
from ..store.appending import insert_if_absent
from ..store.ids import group_id
from ..store.journal import has_journal
from ..store.lance_store import LanceStore, quote
from ..store.rollout import Rollout
from ..store.runs import Run
from ..store.task import SCORES, Score
from ..store.writer import RolloutWriter
from .calls import Call, CallFiles
from .errors import conflict
from .history import OpenRollout
from .rows import episode_rollouts, main_task, place_of, row_id
from .verdicts import Ending

T = TypeVar("T")
_REMEMBERED = 10_000
"""Answers to `/finish` that are kept for clients that send the request again."""


class CallRecorder(Protocol):
    """Where the server records calls, and what its routes about rollouts ask for. All methods belong to one event loop."""

    def opened(self, name: str) -> OpenRollout | None:
        """The rollout of this id; None for one without calls, or one that has ended."""
        ...

    def calling(self, name: str) -> AbstractContextManager[OpenRollout]:
        """The rollout of this id for the time of one call. Raises ApiError (409) when it takes no calls."""
        ...

    def record(self, rollout: OpenRollout, call: Call) -> None:
        """Keeps an answered call. Raises ApiError (409) when the rollout has ended meanwhile."""
        ...

    async def finish(self, name: str, ending: Ending) -> dict[str, Any]:
        """Ends a rollout; the same request again gives the same answer. Raises ApiError (409)."""
        ...

    async def score(self, name: str, score: Score) -> dict[str, Any]:
        """Adds a verdict on a finished rollout. Raises ApiError (409)."""
        ...

    def state(self, name: str) -> dict[str, Any]:
        """The state of an id. Raises ApiError (409) for an unknown one."""
        ...


class Recorder:
    """The rollouts of one run. All methods belong to one event loop.

    Attributes:
        open: Open rollouts by the client's id.
        statuses: Rollouts finished by this process, by status.
        calls: Calls recorded by this process.
    """

    def __init__(self, store: LanceStore, run: Run, policies: Mapping[str | None, Policy], environment: str) -> None:
        """Continues the rollouts that an earlier server of the run left open; `policies` are by name, None for the model itself. Those with a request to finish are finished by `resume`."""
        self.open: dict[str, OpenRollout] = {}
        self.statuses: Counter[str] = Counter()
        self.calls = 0
        self._store, self._run, self._policies, self._environment = store, run, policies, environment
        self._files = CallFiles(store, run.run_id)
        self._writer = RolloutWriter(store, run)
        # One thread, so that a commit never blocks the calls in flight.
        self._thread = ThreadPoolExecutor(1, "rollhouse-writer")
        columns = ["rollout_id", "group_id", "sample_index", "attempt"]
        rows = store.read("rollouts", columns, f"run_id = {quote(run.run_id)}").to_pylist()
        self._finished = {row["rollout_id"] for row in rows}
        self._replies: OrderedDict[str, tuple[dict[str, Any], dict[str, Any]]] = OrderedDict()
        self._next_sample: dict[str, int] = {}
        self._attempts: dict[tuple[str, int], int] = {}
        for row in rows:
            self._count(row["group_id"], row["sample_index"], row["attempt"])
        self._committing: set[asyncio.Task[Any]] = set()
        self._to_finish: list[tuple[OpenRollout, Ending]] = []
        for kept in self._files.read():
            rollout = OpenRollout(kept.name)
            for call in kept.calls:
                rollout.add(call)
            if self._is_finished(kept.name):  # killed after its rows were written
                self._files.remove(kept.name)
                continue
            self.open[kept.name] = rollout
            if kept.ending is not None:
                self._to_finish.append((rollout, Ending.from_json(kept.ending)))

    async def resume(self) -> None:
        """Finishes rollouts whose request to finish an earlier server did not complete."""
        for rollout, ending in self._to_finish:
            await self._commit(rollout, ending)
        self._to_finish.clear()

    def opened(self, name: str) -> OpenRollout | None:
        """See CallRecorder."""
        return self.open.get(name)

    @contextlib.contextmanager
    def calling(self, name: str) -> Iterator[OpenRollout]:
        """The rollout of this id, made if it is new, for the time of one call. Raises ApiError (409) when it is finished."""
        self._refuse_finished(name)
        rollout = self.open.get(name) or OpenRollout(name)
        rollout.in_flight += 1
        self.open[name] = rollout
        try:
            yield rollout
        finally:
            rollout.in_flight -= 1
            rollout.used_at = monotonic()
            if not rollout.calls and not rollout.in_flight and self.open.get(name) is rollout:
                del self.open[name]  # its first call failed: there is nothing to keep

    def record(self, rollout: OpenRollout, call: Call) -> None:
        """Keeps an answered call; once it returns, a kill of the process cannot lose it.

        Raises ApiError (409) when the rollout was finished meanwhile, and OSError when the disk is full.
        """
        self._refuse_finished(rollout.name)
        self._files.add_call(rollout.name, call, None if call.parent is None else rollout.calls[call.parent])
        rollout.add(call)
        self.calls += 1

    async def finish(self, name: str, ending: Ending) -> dict[str, Any]:
        """Writes the rollout's rows, forgets it, and returns the ids of the rows. The same request again gives the same answer.

        Raises ApiError (409) for an unknown id, and for one that was finished otherwise.
        """
        given, reply = self._replies.get(name, (None, {}))
        if given == ending.to_json():
            return reply
        self._refuse_finished(name)
        rollout = self.open.get(name)
        if rollout is None or not rollout.calls:
            raise conflict(f"Rollout {name!r} is not known: no call was recorded under it.", "unknown_rollout")
        # A client that hangs up does not undo its request.
        task = asyncio.get_running_loop().create_task(self._commit(rollout, ending))
        self._committing.add(task)
        task.add_done_callback(self._committing.discard)
        return await asyncio.shield(task)

    async def score(self, name: str, score: Score) -> dict[str, Any]:
        """A verdict on a finished rollout, as rows of `scores`, one for each row of the episode.

        Raises ApiError (409) for an id that is unknown or not finished, and when this scorer version has a verdict already.
        """
        if not self._is_finished(name):
            known = name in self.open
            why = "is not finished: finish it first, or send the reward with /finish" if known else "is not known"
            raise conflict(f"Rollout {name!r} {why}.", "rollout_open" if known else "unknown_rollout")
        return await self._in_thread(lambda: self._add_scores(name, score))

    async def expire(self, idle_limit_s: float) -> None:
        """Finishes, with status `timeout`, the rollouts without a call for `idle_limit_s` seconds."""
        for rollout in list(self.open.values()):
            idle = monotonic() - rollout.used_at > idle_limit_s
            if idle and not rollout.in_flight and not self._is_finished(rollout.name):
                message = f"no call came for {idle_limit_s:g} s"
                with contextlib.suppress(OSError):  # the disk is full: it stays on disk, and is tried again
                    await self._commit(rollout, Ending(status="timeout", error_type="timeout", error_message=message))

    def state(self, name: str) -> dict[str, Any]:
        """The state of an id. Raises ApiError (409) for an unknown one."""
        rollout = self.open.get(name)
        if rollout is not None:
            return {
                "rollout_id": name,
                "status": "open",
                "calls": len(rollout.calls),
                "branches": len(rollout.branches()),
            }
        if self._is_finished(name):
            return {"rollout_id": name, "status": "finished", "row": row_id(self._run.run_id, name)}
        raise conflict(f"Rollout {name!r} is not known.", "unknown_rollout")

    async def close(self) -> None:
        """Waits for rollouts that are being finished and commits; open ones stay on disk."""
        await asyncio.gather(*self._committing, return_exceptions=True)
        self._thread.shutdown(wait=True)
        self._writer.close()

    async def _commit(self, rollout: OpenRollout, ending: Ending) -> dict[str, Any]:
        name, run_id, given = rollout.name, self._run.run_id, ending.to_json()
        task = main_task(rollout, self._environment, ending)
        group = group_id(run_id, None, place_of(ending, task)[1])
        sample = ending.sample_index
        if sample is None:
            sample = self._next_sample.get(group, 0)
        attempt = self._attempts.get((group, sample), 0)  # a place that has a rollout already gets another attempt
        episode = episode_rollouts(run_id, rollout, self._policies, task, ending, (sample, attempt))
        self._files.add_ending(name, Ending.to_json(ending) | {"sample_index": sample})
        rollout.ending = ending.to_json()
        self._finished.add(row_id(run_id, name))
        self._count(group, sample, attempt)
        try:
            await self._in_thread(lambda: self._write(episode))
        except BaseException:
            # It stays on disk with its ending, and may be finished again.
            self._finished.discard(row_id(run_id, name))
            rollout.ending = None
            raise
        self._files.remove(name)
        del self.open[name]
        status = episode[0].status
        self.statuses[status] += 1
        columns = ("rollout_id", "agent", "branch", "n_turns", "prefix_ok")
        listed = [{column: getattr(row, column) for column in columns} for row in episode]
        reply = {"rollout_id": name, "status": status, "run_id": run_id, "rows": listed}
        self._replies[name] = (given, reply)
        if len(self._replies) > _REMEMBERED:
            self._replies.popitem(last=False)
        return reply

    def _write(self, episode: list[Rollout]) -> None:
        try:
            self._writer.add_many(episode)
        except (SchemaMismatch, UnicodeEncodeError) as error:
            # Content that no table can hold becomes a row with an error; otherwise no server of this run could start again.
            self._writer.add_many([without_task(without_content(rollout, error)) for rollout in episode])
        if not has_journal(self._store):
            self._writer.flush()

    def _add_scores(self, name: str, score: Score) -> dict[str, Any]:
        self._writer.flush()  # the rows may still be on their way
        main = row_id(self._run.run_id, name)
        episode = f"run_id = {quote(self._run.run_id)} and episode_id = {quote(main)}"
        rollout_ids = self._store.read("rollouts", ["rollout_id"], episode)["rollout_id"].to_pylist()
        scores = [score.about(rollout_id, self._run.run_id) for rollout_id in rollout_ids]
        new = insert_if_absent(self._store, "scores", SCORES.batch(scores))
        if not new:
            raise conflict(
                f"Rollout {name!r} has a verdict of {score.scorer}@{score.scorer_version} already: name another scorer_version.",
                "scored_already",
            )
        return {"rollout_id": name, "scored": new, "scorer": score.scorer, "scorer_version": score.scorer_version}

    def _is_finished(self, name: str) -> bool:
        return row_id(self._run.run_id, name) in self._finished

    def _refuse_finished(self, name: str) -> None:
        if self._is_finished(name):
            raise conflict(f"Rollout {name!r} is finished: use another id.", "rollout_finished")

    def _count(self, group: str | None, sample: int, attempt: int) -> None:
        if group is not None:
            self._next_sample[group] = max(self._next_sample.get(group, 0), sample + 1)
            self._attempts[group, sample] = max(self._attempts.get((group, sample), 0), attempt + 1)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
