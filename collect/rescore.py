"""Scoring stored rollouts again, in several processes: each verdict becomes a row of `scores`, and one that is there is not made twice."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ..base.errors import EvaluationError
from ..environments.scorers import Scorer, Verdict, environment_scorer, open_scorer
from ..environments.stored_tasks import StoredTasks
from ..environments.types import Environment
from ..queries.named import run_query
from ..queries.verdicts import COLLECTED, parse_scorer
from ..store.appending import insert_if_absent
from ..store.ids import hash_id
from ..store.lance_store import LanceStore, quote
from ..store.naming import run_named
from ..store.runs import start_run
from ..store.task import SCORES, Score, Task
from .config import RescoreConfig
from .rescore_groups import score_groups, with_prompts
from .rescore_summary import COLUMNS, RescoreSummary

_ROWS_AT_ONCE = 256
# A process takes about a second to start, in which one scores this many.
_WORTH_A_WORKER = 1_000

Pair = tuple[Task | None, dict[str, Any]]


def rescore(
    store: LanceStore,
    scorer: Scorer | Environment,
    *,
    of_run: str | None = None,
    name: str | None = None,
    settings: dict[str, Any] | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> RescoreSummary:
    """Scores the stored rollouts a scorer can judge. Verdicts that are there are kept, so an interrupted rescoring goes on where it was.

    A verdict is named by rollout, scorer, its version and its settings (an environment's tables): other settings give verdicts of their
    own. All verdicts of one scorer carry one name and version.

    Args:
        scorer: An environment replays the rollouts of its name; see `scorers` for others.
        of_run: Only the rollouts of this run.
        name: Name of the rescoring run; None makes one.
        settings: Of the scorer, kept with the run.
        workers: Processes that score; 1 scores in this one, None is as many as cores where there is enough to do. With several, a script
            needs the usual `if __name__ == "__main__"`.
        on_progress: Gets rollouts done and rollouts in all.

    Raises EvaluationError when a scoring process dies.
    """
    judge = scorer if isinstance(scorer, Scorer) else environment_scorer(scorer)
    of_run = None if of_run is None else run_named(store, of_run)
    equal = {"environment": judge.environment, "run_id": of_run}
    where = " and ".join(f"{column} = {quote(value)}" for column, value in equal.items() if value is not None) or None
    total, done = store.lance_dataset("rollouts").count_rows(filter=where), 0
    with start_run(store, "rescore", name, {"scorer": judge.name, "of_run": of_run, **(settings or {})}) as run:
        summary = RescoreSummary(run.run_id, judge.environment)
        if judge.verdict_name is not None:
            summary.scorer, summary.scorer_version = judge.verdict_name
        if judge.judge_groups is not None:
            score_groups(store, judge, where, summary, on_progress)
            run.finish(asdict(summary))
            return summary
        work = _Work(judge, StoredTasks(store, judge.environment), _known(store, judge), summary)
        batches = store.batches("rollouts", COLUMNS, where, max_rows=_ROWS_AT_ONCE)
        pairs = (work.pairs(with_prompts(store, judge, batch.to_pylist())) for batch in batches)
        for looked_at, todo, verdicts in _judged(judge, pairs, 1 if judge.judge_many else workers or _workers(total)):
            summary.new += insert_if_absent(store, "scores", SCORES.batch(work.scores(todo, verdicts)))
            done += looked_at
            if on_progress:
                on_progress(done, total)
        run.finish(asdict(summary))
    return summary


def run_rescore(
    store: LanceStore, config: RescoreConfig, on_progress: Callable[[int, int], None] | None = None
) -> RescoreSummary:
    """Scores by the configuration. Raises ConfigError for an unknown scorer, and what `rescore` raises."""
    judge = open_scorer(config.scorer, config.tables, config.rubric)
    settings = None if config.rubric is None else {"rubric": config.rubric.model_dump(mode="json")}
    return rescore(
        store,
        judge,
        of_run=config.of_run,
        name=config.run,
        settings=settings,
        workers=config.workers,
        on_progress=on_progress,
    )


def verdict_moves(
    store: LanceStore, scorer: Scorer, summary: RescoreSummary, against: str = COLLECTED, of_run: str | None = None
) -> pa.Table:
    """How verdicts moved from those of `against` (NAME, NAME@VERSION, or those of collection time) to the ones just given.

    One row for each pair of before and after that occurs; see the query `verdict_moves`.
    """
    name, version = parse_scorer(against)
    new = {"scorer": summary.scorer or scorer.name, "version": summary.scorer_version, "config": scorer.config_hash}
    return run_query(store, "verdict_moves", new | {"run": of_run, "against": name, "against_version": version})


def why_nothing_moved(summary: RescoreSummary, against: str) -> str:
    """Why a comparison of verdicts has no rows, in a sentence or two."""
    if summary.scored:
        return f"Nothing is compared: no rollout with a new verdict has one of {against}. `select distinct scorer from scores` lists the scorers."
    if not summary.left_out:
        of = f" of the environment {summary.environment}" if summary.environment else ""
        return f"Nothing is compared: there are no rollouts{of} to score. `select distinct environment from rollouts` lists those of the store."
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.left_out.items())
    return f"Nothing is compared: no rollout could be scored ({reasons})."


@dataclass
class _Work:
    """What is to be scored, and the counts of what was.

    Attributes:
        known: Reward and passed of verdicts the store has under these settings, by row_id.
    """

    scorer: Scorer
    tasks: StoredTasks
    known: dict[str, tuple[float | None, bool | None]]
    summary: RescoreSummary

    def pairs(self, rollouts: list[dict[str, Any]]) -> tuple[int, list[Pair]]:
        """How many rollouts these are, and those of them to be scored."""
        todo: list[Pair] = []
        for rollout in rollouts:
            task = self.tasks.find(rollout["task_id"], rollout["prompt_id"])
            ended = rollout["status"] in ("completed", "truncated")
            if self.scorer.needs_truth and not (ended and task):
                self.summary.leave_out("no_truth" if ended else rollout["status"])
            elif self.scorer.needs_prompt and not ended:
                self.summary.leave_out(rollout["status"])
            elif not self._is_known(task, rollout):
                todo.append((task, rollout))
        return len(rollouts), todo

    def scores(self, todo: list[Pair], verdicts: list[Verdict]) -> list[Score]:
        """The verdicts as they are stored."""
        scores = []
        for (_, rollout), verdict in zip(todo, verdicts, strict=True):
            if isinstance(verdict, Score):
                self.summary.count(rollout, verdict.reward, verdict.passed)
                scores.append(verdict.about(rollout["rollout_id"], self.summary.run_id, self.scorer.config_hash))
            else:
                self.summary.leave_out(verdict or "no_verdict")
        return scores

    def _is_known(self, task: Task | None, rollout: dict[str, Any]) -> bool:
        if self.summary.scorer is None:
            # A scorer's name and version stand in its verdicts only.
            first = _verdict(self.scorer, (task, rollout))
            if not isinstance(first, Score):
                return False
            self.summary.scorer, self.summary.scorer_version = first.scorer, first.scorer_version
        named = (self.summary.scorer, self.summary.scorer_version)
        known = self.known.get(hash_id(rollout["rollout_id"], *named, self.scorer.config_hash))
        if known:
            self.summary.count(rollout, *known)
        return known is not None


def _known(store: LanceStore, scorer: Scorer) -> dict[str, tuple[float | None, bool | None]]:
    found = store.read("scores", ["row_id", "reward", "passed"], f"config_hash = {quote(scorer.config_hash)}")
    return {row["row_id"]: (row["reward"], row["passed"]) for row in found.to_pylist()}


def _workers(rollouts: int) -> int:
    return max(1, min(os.cpu_count() or 1, rollouts // _WORTH_A_WORKER))


def _judged(
    scorer: Scorer, batches: Iterable[tuple[int, list[Pair]]], workers: int
) -> Iterator[tuple[int, list[Pair], list[Verdict]]]:
    """Each batch with its verdicts, in order; a few batches are ahead of what was yielded."""
    if workers == 1:
        many = scorer.judge_many or (lambda pairs: [_verdict(scorer, pair) for pair in pairs])
        yield from ((count, todo, many(todo)) for count, todo in batches)
        return
    # Lance is never used across a fork; the workers see rollouts and no store.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_take, initargs=(scorer,)) as pool:
        ahead: deque[tuple[int, list[Pair], Future[list[Verdict]]]] = deque()
        try:
            for count, todo in batches:
                ahead.append((count, todo, pool.submit(_verdicts, todo)))
                if len(ahead) > 2 * workers:
                    count, todo, future = ahead.popleft()
                    yield count, todo, future.result()
            while ahead:
                count, todo, future = ahead.popleft()
                yield count, todo, future.result()
        except BrokenProcessPool:
            raise EvaluationError(
                f"A process of scorer {scorer.name} died.",
                "What it had scored is kept; with --workers 1 its error shows.",
            ) from None


_mine: list[Scorer] = []


def _take(scorer: Scorer) -> None:
    _mine.append(scorer)


def _verdicts(todo: list[Pair]) -> list[Verdict]:
    return [_verdict(_mine[0], pair) for pair in todo]


def _verdict(scorer: Scorer, pair: Pair) -> Verdict:
    # What someone's function makes of one odd rollout is not to end the scoring of the others.
    try:
        return scorer.judge(*pair)
    except Exception as error:
        return f"scorer_error {type(error).__name__}"
