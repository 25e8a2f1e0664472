"""ATIF files: JSONL, one JSON file, or a folder; a trajectory that goes on in other files is one record, those of its sub-agents are others."""

from collections.abc import Callable, Iterator
from pathlib import Path

from ..base.errors import one_line
from ..store.ids import canonical_json, hash_id
from .atif_steps import EPISODE, inner_trajectories
from .files import load_json, opened, text_of_bytes
from .lines import Line, Quarantine, read_objects
from .rollout import Row


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The trajectories of a JSONL file, of one JSON file, or of a folder's `*.json`; a continued one as a whole, then its sub-agents' own.

    Files that a trajectory refers to must lie in the folder, else it is set aside; links that lead out of the folder count as outside.
    """
    if path.suffix != ".json" and not path.is_dir():
        for line, trajectory in read_objects(path, quarantine, on_progress):
            for one in _with_inner(trajectory):
                yield line, one
        return
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    followed = {other for file in files for other in _referred(file)} if path.is_dir() else set()
    done = 0
    for number, file in enumerate(files, start=1):
        done += file.stat().st_size
        if file.resolve() not in followed:
            line = Line(number, "", False, done, file)
            try:
                if path.is_dir() and not file.resolve().is_relative_to(path.resolve()):
                    raise ValueError("it is a link to a file outside the folder")
                trajectories = list(_follow(file, file.parent, None, set()))
            except MemoryError:
                raise
            except Exception as error:
                quarantine.add(line, f"it cannot be read ({one_line(error)})")
                continue
            for trajectory in trajectories:
                yield line, trajectory
        if on_progress:
            on_progress(done)


def _with_inner(trajectory: Row) -> list[Row]:
    inner = inner_trajectories(trajectory) if trajectory.get("subagent_trajectories") else []
    if inner and not trajectory.get("trajectory_id") and not trajectory.get("session_id"):
        trajectory = {**trajectory, EPISODE: hash_id(canonical_json(trajectory))}
    return [trajectory, *inner]


def _follow(file: Path, root: Path, episode: str | None, seen: set[Path]) -> Iterator[Row]:
    """A trajectory joined with its continuations, then those of its sub-agents, all in the folder `root`.

    Raises ValueError when files refer to each other in a circle, or to one outside.
    """
    whole = _load(file, seen)
    link, here = whole.pop("continued_trajectory_ref", None), file
    while link:
        here = _beside(root, here, link)
        more = _load(here, seen)
        whole["steps"] = whole["steps"] + [step for step in more["steps"] if not step.get("is_copied_context")]
        whole |= {name: more[name] for name in ("final_metrics",) if name in more}
        link = more.get("continued_trajectory_ref")
    first = episode or whole.get("trajectory_id") or whole.get("session_id")
    yield from _with_inner(whole if episode is None else {**whole, EPISODE: episode})
    for other in _subagents(whole, root, file):
        if other.is_file():
            yield from _follow(other, root, first, seen)


def _load(file: Path, seen: set[Path]) -> Row:
    if file.resolve() in seen:
        raise ValueError(f"{file.name} refers back to itself")
    seen.add(file.resolve())
    with opened(file) as (content, _):
        trajectory, _ = load_json(text_of_bytes(content.read()))
    trajectory["steps"] = list(trajectory["steps"])
    return trajectory


def _subagents(trajectory: Row, root: Path, file: Path) -> list[Path]:
    found = []
    for step in trajectory["steps"]:
        for result in (step.get("observation") or {}).get("results") or ():
            for reference in result.get("subagent_trajectory_ref") or ():
                if reference.get("trajectory_path"):
                    found.append(_beside(root, file, reference["trajectory_path"]))
    return found


def _beside(root: Path, file: Path, reference: str) -> Path:
    """The file that another one refers to, resolved. Raises ValueError when it lies outside the imported folder."""
    found = (file.parent / reference).resolve()
    if not found.is_relative_to(root.resolve()):
        raise ValueError(f"it refers to {reference!r}, which lies outside its folder")
    return found


def _referred(file: Path) -> list[Path]:
    """Files that another file's rollouts are read with; none for a file that cannot be read."""
    try:
        trajectory = _load(file, set())
        link = trajectory.get("continued_trajectory_ref")
        return _subagents(trajectory, file.parent, file) + ([_beside(file.parent, file, link)] if link else [])
    except Exception:  # `records` reads it again, and sets it aside with the reason
        return []
