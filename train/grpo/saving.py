"""Checkpoints of a run, and the learner's state beside the newest, from which an interrupted run continues."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...store.checkpoint_paths import MARK, has_mark, located, remove_marked
from ..checkpoints import find_checkpoint, folder_of, keep_best, save_checkpoint
from ..runs import run_identity
from .config import GrpoCheckpointing
from .ledger import take_stored

if TYPE_CHECKING:
    from ...store.runs import Run


class RunCheckpoints:
    """The checkpoints `step_N` of a run and its states `state_N`, in one folder.

    A learner here is a Learner, a LearnerGroup or a RestartingLearner.
    """

    def __init__(self, run: "Run", settings: GrpoCheckpointing, tokenizer: Any, model_hash: str) -> None:
        """`model_hash` is weights_hash of the model the run starts from; the tokenizer is saved with each checkpoint."""
        self._run, self._settings = run, settings
        self._tokenizer, self._model_hash = tokenizer, model_hash
        self._folder = folder_of(run.store, run.run_id, settings.checkpoint_dir)

    def save(self, learner: Any, step: int, numbers: dict[str, float]) -> dict[str, Any]:
        """Saves `step_N`, its row, which is returned, and the learner's state; deletes earlier checkpoints that the settings do not keep."""
        row = save_checkpoint(
            self._run.store,
            self._run,
            learner,
            self._tokenizer,
            step,
            self._settings.checkpoint_dir,
            dataset=self._run.config.get("dataset"),
            metrics=numbers,
            parent_hash=self._model_hash,
        )
        if self._settings.save_optimizer:
            self._save_state(learner, step)
        keep_best(self._run.store, self._run.run_id, self._settings)
        return row

    def saved(self, learner: Any, step: int) -> dict[str, Any]:
        """The row of the checkpoint of this step, which is saved when it is not there."""
        row = find_checkpoint(self._run.store, f"{self._run.run_id}/step_{step}")
        return row if row is not None and located(self._run.store, row) else self.save(learner, step, {})

    def load_newest(self, learner: Any, last: int) -> int:
        """Loads the newest whole state of the run up to step `last` into the learner and returns its step; 0 when there is none.

        A state is what the stored plans up to its step make of the first weights, so continuing from it is the same as training them again.
        It may be later than grpo.max_num_steps: then that many steps were taken before.
        """
        mine = run_identity(self._run)
        found = [step for step in states(self._folder) if step <= last]
        own = [step for step in found if has_mark(self._state(step), mine)]
        if not own:
            return 0
        learner.load_state(self._state(max(own)))
        return max(own)

    def restore(self, learner: Any, step: int) -> None:
        """Makes of a learner with the run's first weights what it was after `step`, bit for bit: by the newest state, then by the stored plans."""
        first = self.load_newest(learner, step) + 1
        for _ in take_stored(self._run.store, self._run.run_id, learner, range(first, step + 1)):
            pass

    def _save_state(self, learner: Any, step: int) -> None:
        """Writes `state_N` beside `step_N`, whole or not at all; earlier states are deleted once it is there."""
        unfinished, whole = self._folder / f"tmp_state_{step}", self._state(step)
        shutil.rmtree(unfinished, ignore_errors=True)
        learner.save_state(unfinished)
        (unfinished / MARK).write_text(json.dumps({"run": run_identity(self._run), "step": step}))
        mine = run_identity(self._run)
        remove_marked(whole, self._folder, mine)
        unfinished.rename(whole)
        for other in states(self._folder):
            if other != step:
                remove_marked(self._state(other), self._folder, mine)

    def _state(self, step: int) -> Path:
        return state_folder(self._folder, step)


def state_folder(folder: Path, step: int) -> Path:
    """Where the learner's state after `step` lies, in the folder of a run's checkpoints."""
    return folder / f"state_{step}"


def states(folder: Path) -> list[int]:
    """Steps whose state lies whole in the folder of a run's checkpoints."""
    return [int(path.name.removeprefix("state_")) for path in folder.glob("state_*") if (path / MARK).is_file()]
