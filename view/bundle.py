"""A static copy of the pages for chosen runs: it opens from a file or from any web server, without rollhouse.

`index.html` loads `data/index.js` (runs, datasets and the table of rollouts), and the pages load `data/HASH.js` for a run, a rollout or a group when
it is shown. Each file is a script, since a page that was opened from a file may not fetch. `view/app/src/bundle.ts` reads them.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError, StoreNotFound
from ..queries.sql_store import SqlStore
from ..store.ids import hash_id
from . import compare, datasets, group, lanes, rollout, rollouts, runs, tokens
from .reader import Reader

NAME = "store"
MOST_ROLLOUTS = 5_000
_MOST_COMPARED = 6
_STATIC = ("index.html", "app.js", "app.css", "icon.svg")
_LOADS = '<script src="data/index.js"></script>\n    <script defer src="app.js"></script>'
# What the server sends as a header; a file has none.
_POLICY = "default-src 'none'; script-src 'self' file:; style-src 'self' file:; img-src 'self' file:; base-uri 'none'; form-action 'none'"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BundleSummary:
    """What was written. `bytes` are those of all files; `folder` is where `index.html` is."""

    folder: str
    runs: int
    rollouts: int
    files: int
    bytes: int


def write_bundle(
    store: SqlStore,
    folder: Path,
    run_ids: Sequence[str] = (),
    most_rollouts: int = MOST_ROLLOUTS,
    progress: Progress = lambda done, total: None,
) -> BundleSummary:
    """Writes the site.

    Args:
        folder: New or empty.
        run_ids: Runs to show, with the validations that they made of themselves; none is every run.
        most_rollouts: Refuses runs with more rollouts together.
        progress: Called with the rollouts written and their number.

    Raises StoreNotFound for an unknown run, ConfigError for a folder that holds something and for too many rollouts.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not an empty folder.", "Name a new folder.")
    reader = Reader(NAME, store)
    try:
        return _write(reader, folder, run_ids, most_rollouts, progress)
    finally:
        reader.close()


def _write(reader: Reader, folder: Path, run_ids: Sequence[str], most: int, progress: Progress) -> BundleSummary:
    listed = _chosen(reader, run_ids)
    names = [run["run_id"] for run in listed]
    ids = [row["rollout_id"] for row in reader.rows("SELECT rollout_id FROM rollouts WHERE list_contains($runs::VARCHAR[], run_id)", runs=names)]  # fmt: skip
    if len(ids) > most:
        raise ConfigError(
            f"The runs hold {len(ids)} rollouts, and a bundle takes at most {most}.",
            "Choose runs with --run, or set --max-rollouts.",
        )
    site = _Site(folder)
    table = _table(reader, names, ids)
    versions = [row for row in datasets.listed(reader) if row["label"] in _labels_of(reader, listed, ids)]
    site.add_index({"stores": {"stores": [{"name": NAME, "uri": NAME, "at": datetime.now(UTC).isoformat(timespec="minutes"), "labels": False}]},
                    f"{NAME}/runs": listed, f"{NAME}/datasets": versions})  # fmt: skip
    for entries in (
        _runs(reader, listed),
        _datasets(reader, versions),
        _comparisons(reader, listed),
        _groups(reader, table),
    ):
        for key, answers in entries:
            site.add(key, answers)
    for done, rollout_id in enumerate(ids, 1):
        site.add(f"rollout/{rollout_id}", _rollout(reader, rollout_id))
        progress(done, len(ids))
    words = {row["rollout_id"]: row["words"] for row in _words(reader, names)}
    site.add("words", {f"{NAME}/words": words})
    curves = runs.curves(reader, names, [row["name"] for row in reader.rows("SELECT DISTINCT name FROM metrics")])
    site.finish({"table": table, "curves": curves, "labels": _labels(reader, ids)})
    return BundleSummary(str(folder), len(names), len(ids), site.files, site.bytes)


class _Site:
    """The files. Keys of answers are the server's paths below `/api/`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files, self.bytes = folder, 0, 0
        self._index: dict[str, Any] = {}
        self._places: dict[str, str] = {}
        (folder / "data").mkdir(parents=True)

    def add_index(self, answers: dict[str, Any]) -> None:
        """Answers that every page may need."""
        self._index |= answers

    def add(self, name: str, answers: dict[str, Any]) -> None:
        """A file of answers, which is loaded when one of them is wanted."""
        file = hash_id(name)[:32]
        self._write(f"data/{file}.js", f"rollhouseBundle.add({_json(answers)});\n")
        self._places |= dict.fromkeys(answers, file)

    def finish(self, more: dict[str, Any]) -> None:
        """Writes the index, last: without it the site does not open."""
        static = resources.files("rollhouse.view") / "static"
        for name in _STATIC[1:]:
            self._write(name, (static / name).read_text(encoding="utf-8"))
        index = {"answers": self._index, "files": self._places, **more}
        self._write("data/index.js", f"var rollhouseBundle = {_json(index)};\n")
        page = (static / _STATIC[0]).read_text(encoding="utf-8")
        policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}" />'
        loaded = '<script defer src="app.js"></script>'
        self._write(_STATIC[0], page.replace(loaded, _LOADS).replace("<title>", f"{policy}\n    <title>"))

    def _write(self, name: str, text: str) -> None:
        data = text.encode("utf-8", "replace")
        (self.folder / name).write_bytes(data)
        self.files, self.bytes = self.files + 1, self.bytes + len(data)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _chosen(reader: Reader, run_ids: Sequence[str]) -> list[dict[str, Any]]:
    listed = runs.listed(reader)
    unknown = set(run_ids) - {run["run_id"] for run in listed}
    if unknown:
        raise StoreNotFound(f"There is no run {sorted(unknown)[0]!r} in {reader.store.uri}.", "`rollhouse runs list` lists them.")  # fmt: skip
    wanted = set(run_ids) or {run["run_id"] for run in listed}
    wanted |= {one["run_id"] for run_id in run_ids for one in runs.one(reader, run_id)["validations"]}
    return [run for run in listed if run["run_id"] in wanted]


def _table(reader: Reader, names: list[str], ids: list[str]) -> list[dict[str, Any]]:
    """The rows of the rollouts page in the order `interesting`, with what else its filter reads."""
    order = rollouts.page_ids(reader, {"run": names})
    ranked = {row["rollout_id"]: row for row in rollouts.ranked(reader, {"run": names})}
    order += sorted(set(ids) - set(order))
    further = {row["rollout_id"]: row for row in _further(reader, names)}
    rows = rollouts.describe(reader, order)
    for row in rows:
        marks = ranked.get(row["rollout_id"], {})
        row["marks"] = [name for name in rollouts.MARKS if marks.get(name)]
        row |= {name: value for name, value in further[row["rollout_id"]].items() if name != "rollout_id"}
    return rows


def _further(reader: Reader, names: list[str]) -> list[dict[str, Any]]:
    """split, engine, policy_id, gaps, and the names of tools, `NAME@VERSION:verdict` and datasets that the filter may name."""
    query = """SELECT r.rollout_id AS rollout_id, t.split AS split, engine, policy_id, coalesce(gaps, []) AS gaps,
      list_distinct(flatten(list_transform(coalesce(messages, []), lambda m: list_transform(coalesce(m.tool_calls, []), lambda c: c.name)))) AS tools,
      coalesce(s.verdicts, []) AS verdicts, coalesce(d.datasets, []) AS datasets
    FROM rollouts AS r LEFT JOIN (SELECT task_id, split FROM tasks) AS t ON t.task_id = r.task_id
    LEFT JOIN (SELECT rollout_id, list({scorer: scorer || '@' || scorer_version, passed: passed}) AS verdicts FROM scores GROUP BY 1) AS s ON s.rollout_id = r.rollout_id
    LEFT JOIN (SELECT rollout_id, list(DISTINCT label) AS datasets FROM (SELECT name || '@' || version AS label, unnest(rows).rollout_id AS rollout_id FROM datasets) GROUP BY 1) AS d
      ON d.rollout_id = r.rollout_id
    WHERE list_contains($runs::VARCHAR[], r.run_id)"""
    return reader.rows(query, runs=names)


def _words(reader: Reader, names: list[str]) -> list[dict[str, Any]]:
    """All that was said in a rollout, lower case, for the search."""
    query = """SELECT rollout_id, lower(array_to_string(list_transform(coalesce(messages, []), lambda m: concat_ws(' ', m.text, m.reasoning,
      array_to_string(list_transform(coalesce(m.tool_calls, []), lambda c: concat_ws(' ', c.name, c.arguments)), ' '))), ' ')) AS words
    FROM rollouts WHERE list_contains($runs::VARCHAR[], run_id)"""
    return reader.rows(query, runs=names)


def _labels(reader: Reader, ids: list[str]) -> dict[str, list[str]]:
    query = "SELECT rollout_id, list(DISTINCT label) AS labels FROM current_labels WHERE list_contains($ids::VARCHAR[], rollout_id) GROUP BY 1"
    return {row["rollout_id"]: row["labels"] for row in reader.rows(query, ids=ids)}


def _labels_of(reader: Reader, listed: list[dict[str, Any]], ids: list[str]) -> set[str]:
    """The dataset versions that hold a rollout of the bundle, or that a run of it was trained on."""
    query = """SELECT DISTINCT label FROM (SELECT name || '@' || version AS label, unnest(rows).rollout_id AS id FROM datasets) WHERE list_contains($ids::VARCHAR[], id)"""
    return {row["label"] for row in reader.rows(query, ids=ids)} | {run["dataset"] for run in listed}


Entries = Iterator[tuple[str, dict[str, Any]]]


def _runs(reader: Reader, listed: list[dict[str, Any]]) -> Entries:
    for run in listed:
        run_id = run["run_id"]
        one = runs.one(reader, run_id)
        one["checkpoints"] = [
            row | {"path": row["checkpoint_id"]} for row in one["checkpoints"]
        ]  # no path of this machine
        newest = lanes.lanes(reader, run_id, "")
        answers = {f"{NAME}/run/{run_id}": one, f"{NAME}/scatter/{run_id}": runs.scatter(reader, run_id)}
        answers |= {f"{NAME}/lanes/{run_id}": newest, f"{NAME}/in-flight/{run_id}": {"total": 0, "rows": []}}
        first, last = newest["steps"]
        for step in range(first, last + 1) if first is not None and last is not None else ():
            answers[f"{NAME}/lanes/{run_id}?step={step}"] = lanes.lanes(reader, run_id, str(step))
        yield f"run/{run_id}", answers


def _datasets(reader: Reader, versions: list[dict[str, Any]]) -> Entries:
    for version in versions:
        label = version["label"]
        pages = range(0, max(1, version["n_rows"]), datasets.PAGE)
        answers = {f"{NAME}/dataset/{label}?{f'offset={at}' if at else ''}".rstrip("?"): datasets.one(reader, label, {"offset": [str(at)]}) for at in pages}  # fmt: skip
        for at in range(0, max(1, version["n_dropped"]), datasets.PAGE):
            paged = f"&offset={at}" if at else ""
            answers[f"{NAME}/dataset/{label}?list=dropped{paged}"] = datasets.one(reader, label, {"list": ["dropped"], "offset": [str(at)]})  # fmt: skip
        yield f"dataset/{label}", answers


def _comparisons(reader: Reader, listed: list[dict[str, Any]]) -> Entries:
    """The evaluations of each benchmark two by two, where there are few."""
    judged = [run["run_id"] for run in listed if run["kind"] == "eval"][:_MOST_COMPARED]
    for a, b in itertools.permutations(judged, 2):
        try:
            answer = compare.compare(reader, {"run": [a, b]})
        except ConfigError:  # they have no case in common
            continue
        yield f"compare/{a}/{b}", {f"{NAME}/compare?run={a}&run={b}": answer}


def _groups(reader: Reader, table: list[dict[str, Any]]) -> Entries:
    for group_id in sorted({row["group_id"] for row in table if row["group_id"]}):
        yield f"group/{group_id}", {f"{NAME}/group/{group_id}": group.group(reader, group_id)}


def _rollout(reader: Reader, rollout_id: str) -> dict[str, Any]:
    return {
        f"{NAME}/rollout/{rollout_id}": rollout.details(reader, rollout_id),
        f"{NAME}/lineage/{rollout_id}": rollout.lineage(reader, rollout_id),
        f"{NAME}/tokens/{rollout_id}": tokens.strip(reader, rollout_id),
    }
