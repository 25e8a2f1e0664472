"""Exporting rollouts to a file of any format, and saying what that format has no place for."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from ..base.errors import EmptyDataset
from ..queries.verdicts import COLLECTED
from ..store.lance_store import LanceStore
from ..store.naming import run_named
from .card import card_path, write_card
from .config import ExportConfig
from .formats import EXPORTS, FileFormat, format_named
from .hub import check_hub, push
from .places import is_hub
from .rollout import FileRollout, unheld
from .stored import StoredRollouts
from .trl import columns_of, schema_of


@dataclass
class ExportSummary:
    """What an export did.

    Attributes:
        rollouts: How many it wrote.
        left_out: Rollouts that the format cannot hold at all, by reason.
        lost: Rollouts with a value that the file lacks, by column of `rollouts` (`task.…` of their task, `extra.…` of another format's
            own fields). Ids and counts that come from the rest are not counted.
    """

    file: str
    rollouts: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)


def export_file(
    store: LanceStore,
    format_name: str,
    path: str | Path,
    *,
    run: str | None = None,
    where: str | None = None,
    at: str | None = None,
    scorer: str | None = None,
    plain: bool = False,
    card: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExportSummary:
    """Writes rollouts to a file; a file of that name is replaced once the new one is complete.

    Args:
        format_name: A name in `formats.EXPORTS`.
        path: A file, or `hf:OWNER/NAME` for a dataset of the hub, which always gets a card.
        run: Only rollouts of this run.
        where: Only those for which this SQL condition over `rollouts` is true.
        at: A snapshot's name or an ISO time; None is now.
        scorer: NAME or NAME@VERSION whose verdicts are written and stand in `where`, null where it has none; None is those of collection time.
        plain: Leave out keys and columns of ours, which hold what the format has no place for.
        card: Write a README.md beside a file of TRL's, with what the file holds, where that came from and what is missing.
        on_progress: Gets how many rollouts were dealt with, and how many there are.

    Raises EmptyDataset when nothing is selected, QueryError for a condition that is not SQL, ConfigError for a scorer that never
    scored, and for a card where none can be.
    """
    path = Path(path)
    format = format_named(format_name, EXPORTS)
    if is_hub(path):
        name = check_hub(format_name, str(path))
        with TemporaryDirectory() as folder:
            file = Path(folder) / f"{name.partition('/')[2]}.parquet"
            summary = export_file(
                store,
                format_name,
                file,
                run=run,
                where=where,
                at=at,
                scorer=scorer,
                plain=plain,
                card=True,
                on_progress=on_progress,
            )
            push(name, file.parent)
        return replace(summary, file=str(path))
    readme = card_path(format_name, path) if card else None
    run = None if run is None else run_named(store, run)
    stored = StoredRollouts(store, run, where, at, scorer)
    if not stored.count:
        raise EmptyDataset("No rollout is selected.", "Loosen --run and --where; `rollhouse runs list` names the runs.")
    lost: Counter[str] = Counter()
    left_out: Counter[str] = Counter()

    def watched() -> Iterator[list[FileRollout]]:
        done = 0
        for rollouts in stored:
            kept = [rollout for rollout in rollouts if _reason(format, rollout, left_out) is None]
            for rollout in kept:
                lost.update(_lost(rollout, format_name, format, plain))
                lost.update(format.drops(rollout) if format.drops else ())
            if kept:
                yield kept
            done += len(rollouts)
            if on_progress:
                on_progress(done, stored.count)

    if format.write is None:
        raise TypeError(f"{format_name} is not written")
    format.write(watched(), path, plain)
    written = stored.count - sum(left_out.values())
    summary = ExportSummary(str(path), written, dict(left_out), dict(sorted(lost.items())))
    if readme:
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        selected = {"run": run, "where": where, "at": at or now, "verdicts of": scorer or COLLECTED}
        told = {"format": format_name, "rollouts": written, "store": store.uri, **selected}
        write_card(readme, path, schema_of(columns_of(format_name, plain)), told, summary.left_out, summary.lost)
    return summary


def run_export(
    store: LanceStore,
    format_name: str,
    path: str | Path,
    config: ExportConfig,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExportSummary:
    """Exports as the configuration says. Raises as `export_file`."""
    return export_file(store, format_name, path, on_progress=on_progress, **config.model_dump())


def _reason(format: FileFormat, rollout: FileRollout, left_out: Counter[str]) -> str | None:
    reason = format.unfit(rollout) if format.unfit else None
    if reason:
        left_out[reason] += 1
    return reason


def _lost(rollout: FileRollout, name: str, format: FileFormat, plain: bool) -> list[str]:
    """A rollout that came from this format goes back whole but for another scorer's verdict, and where others travel along only other
    formats' own fields are lost."""
    if format.record is not None and name in rollout.extra:
        told, held = rollout.collected or {}, format.held(rollout)
        return [column for column in told if column not in held and rollout.get(column) not in (None, [], told[column])]
    found = [column for column in unheld(rollout, format.held(rollout)) if not column.startswith(f"extra.{name}")]
    return [column for column in found if column.startswith("extra.")] if format.carries and not plain else found
