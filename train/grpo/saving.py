"""Checkpoints of a run, which of them stay, and the learner's state beside the newest, from which a run that was cut short goes on."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints import MARK, find_checkpoint, folder_of, keep_best, save_checkpoint
from ..runs import run_identity
from .ledger import take_stored

if TYPE_CHECKING:
    from ...store.runs import Run
    from .config import GrpoConfig
    from .learner.group import LearnerGroup
    from .learner.learner import Learner
    from .setup import Parts


def save(parts: "Parts", step: int, numbers: dict[str, float]) -> dict[str, Any]:
    """A checkpoint `step_N` and its row, and the learner's state; of the earlier ones those stay that the configuration keeps."""
    row = save_checkpoint(
        parts.store,
        parts.run,
        parts.learner,
        parts.policy.chat.tokenizer,
        step,
        parts.config.checkpointing.checkpoint_dir,
        dataset=parts.run.config.get("dataset"),
        metrics=numbers,
        parent_hash=parts.model_hash,
    )
    if parts.config.checkpointing.save_optimizer:
        save_state(parts, step)
    keep_best(parts.store, parts.run.run_id, parts.config.checkpointing)
    return row


def saved(parts: "Parts", step: int) -> dict[str, Any]:
    """The row of the checkpoint that the run's state of this step lies beside."""
    row = find_checkpoint(parts.store, f"{parts.run.run_id}/step_{step}")
    return row if row is not None and Path(row["path"]).is_dir() else save(parts, step, {})


def save_state(parts: "Parts", step: int) -> None:
    """Writes `state_N` beside `step_N`, whole or not at all; earlier states go once it is there."""
    folder = _folder(parts)
    unfinished, whole = folder / f"tmp_state_{step}", state_folder(folder, step)
    shutil.rmtree(unfinished, ignore_errors=True)
    parts.learner.save_state(unfinished)
    (unfinished / MARK).write_text(json.dumps({"run": run_identity(parts.run), "step": step}))
    shutil.rmtree(whole, ignore_errors=True)
    unfinished.rename(whole)
    for other in states(folder):
        if other != step:
            shutil.rmtree(state_folder(folder, other))


def load_newest_state(parts: "Parts") -> int:
    """Takes up the newest whole state of the run's former lives and returns its step; 0 when there is none.

    A state is what the stored plans up to its step make of the first weights, so going on from it is what training them again is.
    It may be later than grpo.max_num_steps: then that many steps were taken before.
    """
    return _load_newest(parts.run, parts.config, parts.learner, parts.last_planned)


def restore(run: "Run", config: "GrpoConfig", learner: "LearnerGroup | Learner", step: int) -> None:
    """Makes of a learner with the run's first weights what it was after `step`, bit for bit: by the newest state, then by the stored plans."""
    first = _load_newest(run, config, learner, step) + 1
    for _ in take_stored(run.store, run.run_id, learner, range(first, step + 1)):
        pass


def _load_newest(run: "Run", config: "GrpoConfig", learner: Any, last: int) -> int:
    """Takes up the newest of the run's states up to `last` and returns its step; 0 for none."""
    folder = folder_of(run.store, run.run_id, config.checkpointing.checkpoint_dir)
    found = [step for step in states(folder) if step <= last]
    mine = [step for step in found if json.loads((state_folder(folder, step) / MARK).read_text())["run"] == run_identity(run)]  # fmt: skip
    if not mine:
        return 0
    learner.load_state(state_folder(folder, max(mine)))
    return max(mine)


def state_folder(folder: Path, step: int) -> Path:
    """Where the learner's state after `step` lies, in the folder of a run's checkpoints."""
    return folder / f"state_{step}"


def states(folder: Path) -> list[int]:
    """Steps whose state lies whole in the folder of a run's checkpoints."""
    return [int(path.name.removeprefix("state_")) for path in folder.glob("state_*") if (path / MARK).is_file()]


def _folder(parts: "Parts") -> Path:
    return folder_of(parts.store, parts.run.run_id, parts.config.checkpointing.checkpoint_dir)
