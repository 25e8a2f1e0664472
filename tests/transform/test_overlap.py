"""Prompts that are nearly the same, and prompts that are in an evaluation set."""

import json
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.base.errors import ConfigError
from rollhouse.eval.bfcl.references import bfcl_references
from rollhouse.transform import signatures
from rollhouse.transform.build import build_grpo, build_sft
from rollhouse.transform.duplicates import bands, clusters
from rollhouse.transform.explain import why
from rollhouse.transform.materialize import grpo_tasks
from rollhouse.transform.options import Contamination, GrpoOptions, SftOptions
from rollhouse.transform.order import hash_texts, shuffled
from rollhouse.transform.references import Reference, file_references

LONG = "please look through all of the invoices that arrived during march and tell carla which of them nobody has paid so far"
OTHER = "book a table for six people at the small place near the station and send the address to everyone on the team tonight"

# Written down once: a version built elsewhere must come out the same.
HASHES = {"": 16294208416658607535, "a": 2705295990938878972, "long": 6471955503293529340}
ORDER = "gfahcedb"
MINHASH = [329433178, 281428367]


def shingles(text: str, n: int = signatures.SHINGLE_WORDS) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}


def changed(text: str, *places: int) -> str:
    words = text.split()
    for place in places:
        words[place] = f"changed{place}"
    return " ".join(words)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(max_size=90), min_size=1, max_size=6), st.integers(0, 3))
def test_a_hash_depends_on_its_text_alone(texts, at) -> None:
    at = min(at, len(texts) - 1)
    together, alone = hash_texts(pl.Series(texts)), hash_texts(pl.Series([texts[at]]))
    assert together[at] == alone[0]
    assert len(set(together.tolist())) == len(set(texts))


def test_hashes_and_orders_are_those_of_every_machine() -> None:
    assert hash_texts(pl.Series(["", "a", "ä" * 40])).tolist() == [HASHES[key] for key in ("", "a", "long")]
    frame = pl.DataFrame({"id": list("abcdefgh")})
    assert "".join(shuffled(frame, 0, "id")["id"]) == ORDER
    assert "".join(shuffled(frame.reverse(), 0, "id")["id"]) == ORDER != "".join(shuffled(frame, 1, "id")["id"])
    rows = signatures.minhash(signatures.ngrams(pl.Series([LONG]), 5))
    assert rows[0, :2].tolist() == MINHASH


def test_n_grams_are_of_words_and_of_short_texts_of_characters() -> None:
    starts, flat = signatures.ngrams(
        pl.Series([LONG, LONG.upper().replace(" ", ",  "), "to ann", "To Ann!", "", None]), 8
    )
    lists = [flat[low:high].tolist() for low, high in pairwise(starts)]
    assert lists[0] == lists[1] and len(lists[0]) == len(LONG.split()) - 7
    assert lists[2] == lists[3] and len(lists[2]) == 2 and lists[4] == lists[5] == []


def test_minhash_estimates_jaccard() -> None:
    near = changed(LONG, 3)
    true = len(shingles(LONG) & shingles(near)) / len(shingles(LONG) | shingles(near))
    rows = signatures.minhash(signatures.ngrams(pl.Series([LONG, near, OTHER]), signatures.SHINGLE_WORDS))
    assert (rows[0] == rows[1]).mean() == pytest.approx(true, abs=0.12)
    assert (rows[0] == rows[2]).mean() < 0.05
    assert clusters(rows, 0.4).tolist() == [0, 0, 2] and clusters(rows, 0.95).tolist() == [0, 1, 2]
    assert bands(0.5) > bands(0.8) > bands(0.95)


def test_clusters_join_by_way_of_others() -> None:
    base = np.arange(128, dtype=np.uint32)
    rows = np.stack([base, base, base])
    rows[1, :20] += 1000
    rows[2, :40] += 1000
    assert (rows[0] == rows[2]).mean() < 0.8 and clusters(rows, 0.8).tolist() == [0, 0, 0]


def test_one_of_nearly_the_same_prompts_stays_and_its_signature_is_kept(filled, monkeypatch) -> None:
    for name, text in (("a", LONG), ("b", changed(LONG, 0)), ("c", OTHER)):
        filled.task(name, text=text)
        filled.rollout(name, 1.0)
    snapshot = filled.snapshot()
    assert build_sft(filled.store, "all", snapshot).n_rows == 3
    dataset = build_sft(filled.store, "few", snapshot, SftOptions(near_duplicates=0.7))
    assert dataset.n_rows == 2 and dataset.counts["dropped"] == {"its prompt is nearly the same as another's": 1}
    assert filled.store.lance_dataset("signatures").count_rows() == 3
    monkeypatch.setattr(signatures, "minhash", None)  # nothing is worked out twice
    again = build_sft(filled.store, "again", snapshot, SftOptions(near_duplicates=0.7))
    assert again.fingerprint == dataset.fingerprint


def test_a_prompt_of_a_held_out_task_never_enters(filled) -> None:
    filled.task("a", text=LONG)
    leaked = filled.rollout("a", 1.0)
    filled.rollout("b", 1.0)
    filled.tasks["v"] = filled.task("v", "validation", text=LONG)
    dataset = build_sft(filled.store, "demos", filled.snapshot())
    assert dataset.drops.to_dicts() == [{"id": leaked, "reason": "its prompt is also a held-out task's"}]


def contaminated(filled, **rules):
    """A set against a validation task, whose text is mostly that of `near`, and whose calls are those of `called`."""
    truth = [{"name": "send", "arguments": {"to": "ann", "about": "march"}}]
    filled.task("near", text=changed(LONG, 0, 1))
    filled.task("called", text=OTHER, ground_truth=truth)
    filled.task("clean", text=changed(OTHER, 5, 11, 17))
    for name in ("near", "called", "clean"):
        filled.rollout(name, 1.0)
    filled.task(
        "v", "validation", text=LONG, ground_truth=[{"name": "send", "arguments": json.dumps(truth[0]["arguments"])}]
    )
    options = SftOptions(contamination=Contamination(against=["validation"], **rules))
    return build_sft(filled.store, "demos", filled.snapshot(), options)


def test_text_and_calls_of_the_validation_split_are_left_out(filled) -> None:
    dataset = contaminated(filled)
    assert [row["task_id"] for row in dataset.references.to_dicts()] == [filled.tasks["clean"].task_id]
    assert dataset.counts["dropped"] == {
        "in evaluation set validation by calls": 1,
        "in evaluation set validation by text": 1,
    }
    assert dataset.counts["flagged"] == {"validation: calls": 1, "validation: text": 1}
    case = filled.tasks["v"].task_id
    flags = {row["id"]: row for row in dataset.flags.to_dicts()}
    near = flags[filled.tasks["near"].task_id]
    pieces = shingles(LONG, 8)
    assert near["reference"] == case and near["method"] == "text"
    assert near["score"] == pytest.approx(len(pieces & shingles(changed(LONG, 0, 1), 8)) / len(pieces))


def test_flagged_rows_stay_and_say_so(filled) -> None:
    dataset = contaminated(filled, text="flag", calls="off")
    assert dataset.n_rows == 3 and dataset.counts["flagged"] == {"validation: text": 1}
    assert "chosen; text of " in why(filled.store, dataset, filled.tasks["near"].task_id)[0]["reason"]
    assert contaminated_again(filled, min_overlap=0.99).counts["flagged"] == {"validation: calls": 1}


def contaminated_again(filled, **rules):
    return build_sft(
        filled.store, "again", "s1", SftOptions(contamination=Contamination(against=["validation"], **rules))
    )


def test_short_prompts_are_compared_by_characters(filled) -> None:
    filled.task("same", text="What is the capital of France?")
    filled.task("other", text="What is the capital of Peru, please?")
    for name in ("same", "other"):
        filled.rollout(name, 1.0)
        filled.rollout(name, 0.0, 1)
    against = GrpoOptions(contamination=Contamination(against=["quiz"]))
    cases = [Reference("quiz", "q1", "what is the capital of france")]
    dataset = build_grpo(filled.store, "prompts", filled.snapshot(), against, cases)
    assert [task.source_key for task in grpo_tasks(filled.store, dataset)] == ["other"]
    assert dataset.counts["dropped"] == {"in evaluation set quiz by text": 1}


def test_schemas_and_questions_of_a_file(filled, tmp_path) -> None:
    tool = {"name": "Send", "parameters": {"properties": {"to": {"type": "string"}}}}
    file = tmp_path / "cases.jsonl"
    file.write_text(json.dumps({"id": 7, "text": LONG, "tools": [tool]}) + "\n")
    filled.rollout("a", 1.0)
    cases = list(file_references(str(file)))
    rules = Contamination(against=[str(file)])
    snapshot = filled.snapshot()
    flagged = build_sft(filled.store, "demos", snapshot, SftOptions(contamination=rules), cases)
    assert flagged.n_rows == 1 and flagged.counts["flagged"] == {"cases: schemas": 1}
    assert flagged.flags["reference"].to_list() == ["7"] and flagged.flags["score"].to_list() == [1.0]
    with pytest.raises(ConfigError, match="No evaluation case"):
        build_sft(filled.store, "demos", snapshot, SftOptions(contamination=Contamination(against=["test"])))


def test_bfcl_is_an_evaluation_set(filled) -> None:
    cases = {case.id: case for case in bfcl_references(["simple_python", "multi_turn_base"])}
    case = cases["simple_python_0"]
    assert case.tools == (("calculate_triangle_area", ("base", "height", "unit")),)
    assert case.calls == (("calculate_triangle_area", {"base": ("10",), "height": ("5",)}),)
    assert ("cd", {"folder": ('"document"',)}) in cases["multi_turn_base_0"].calls
    filled.task("a", text=f"{case.text} Thanks!")
    filled.rollout("a", 1.0)
    clean = filled.rollout("b", 1.0)
    options = SftOptions(contamination=Contamination(against=["bfcl"]))
    dataset = build_sft(filled.store, "demos", filled.snapshot(), options, list(cases.values()))
    assert [row["rollout_id"] for row in dataset.references.to_dicts()] == [clean]
    assert dataset.flags["reference"].to_list() == ["simple_python_0"]
