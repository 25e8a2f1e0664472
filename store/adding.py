"""Rollouts made in Python as a run of the store; rollouts that the run holds already are not added again."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from .ids import canonical_json, group_id, hash_id, slot_id
from .lance_store import LanceStore, quote
from .rollout import Rollout
from .runs import start_run
from .writer import RolloutWriter

_IDS = ("rollout_id", "slot_id", "run_id", "group_id", "episode_id", "sample_index")


@dataclass(frozen=True)
class Added:
    """What adding rollouts came to.

    Attributes:
        run_id: The run of kind `import` that holds them.
        added: Rollouts that were new.
        present: Rollouts that the run held already.
    """

    run_id: str
    added: int
    present: int


def add_rollouts(store: LanceStore, rollouts: Iterable[Rollout], run: str | None = None) -> Added:
    """Adds rollouts as a run of kind `import`.

    A rollout without a `rollout_id` gets one from the run, its content and its occurrence number among equal rollouts of this call, so that the
    same call adds nothing a second time. Its place in its group follows the rollouts that the run holds of the same task and step.

    Args:
        run: Name of the run; None makes one. A run of that name is continued.

    Raises SchemaMismatch naming the first rollout that does not fit; those before it are stored.
    """
    with start_run(store, "import", run, {"format": "python"}) as opened:
        places = _Places(store, opened.run_id)
        with RolloutWriter(store, opened) as writer:
            for rollout in rollouts:
                writer.add(places.placed(rollout))
        added = Added(opened.run_id, writer.written, writer.skipped)
        opened.finish(asdict(added))
    return added


class _Places:
    """Gives the rollouts of a run their ids."""

    def __init__(self, store: LanceStore, run_id: str) -> None:
        held = store.read("rollouts", ["rollout_id", "group_id"], f"run_id = {quote(run_id)}")
        self._run_id = run_id
        self._held = set(held["rollout_id"].to_pylist())
        self._group_sizes = Counter(held["group_id"].to_pylist())
        self._occurrences: Counter[str] = Counter()

    def placed(self, rollout: Rollout) -> Rollout:
        if rollout.rollout_id:
            return rollout
        row = {name: value for name, value in rollout.to_row().items() if name not in _IDS}
        content = hash_id(
            canonical_json({name: str(value) if name == "started_at" else value for name, value in row.items()})
        )
        made = hash_id("added", self._run_id, content, self._occurrences[content])
        self._occurrences[content] += 1
        group = rollout.group_id or group_id(self._run_id, rollout.step, rollout.task_id or "")
        index = rollout.sample_index if rollout.sample_index is not None else self._group_sizes[group]
        if made not in self._held:
            self._group_sizes[group] += 1
        slot = rollout.slot_id or slot_id(self._run_id, rollout.step, rollout.task_id or "", index)
        return rollout.changed(
            rollout_id=made,
            slot_id=slot,
            run_id=self._run_id,
            group_id=group,
            sample_index=index,
            episode_id=rollout.episode_id or made,
        )
