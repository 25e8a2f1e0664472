"""One rollout: messages, verdicts, lineage and tokens."""

import pytest
from rollhouse.queries.sql_store import SqlStore
from rollhouse.store.adding import add_rollouts
from rollhouse.store.rollout import Rollout
from rollhouse.tests.view.conftest import Site
from rollhouse.view.reader import Reader
from rollhouse.view.tokens import texts


def one(site: Site, query: str) -> str:
    return site.json(f"/api/store/rollouts?{query}&sort=reward")["rows"][0]["rollout_id"]


def test_a_rollout_has_its_messages_and_verdicts(site: Site) -> None:
    answer = site.json(f"/api/store/rollout/{one(site, 'passed=true')}")
    assert answer["rollout"]["messages"][0]["tool_calls"][0]["name"] == "add"
    assert "token_ids" not in answer["rollout"]
    assert (
        answer["prompt"]["messages"][0]["text"] == "Add 1 and 2."
        and answer["prompt"]["tools"][0]["function"]["name"] == "add"
    )
    assert answer["task"]["ground_truth"] == {"answer": 3}
    assert [(score["scorer"], score["passed"], score["components"][0]["name"]) for score in answer["scores"]] == [
        ("strict", False, "exact")
    ]


def test_lineage_names_batches_checkpoints_datasets_and_relatives(site: Site) -> None:
    answer = site.json(f"/api/store/lineage/{one(site, 'passed=true')}")
    sample = answer["samples"][0]
    assert (sample["run_id"], sample["step"], sample["kept"], sample["trained"]) == ("g", 1, True, True)
    assert sample["advantage"] == pytest.approx(0.7) and sample["ratio_mean"] == pytest.approx(0.9)
    assert answer["checkpoints"] == [
        {"checkpoint_id": "g/step_1", "step": 1, "run_id": "g", "trained_at": 1, "later": 1}
    ]
    assert (answer["datasets"][0]["inside"], answer["datasets"][0]["role"]) == (True, "demo")
    assert len(answer["group"]) == 2
    left_out = site.json(f"/api/store/lineage/{one(site, 'step=1&passed=false')}")["datasets"][0]
    assert (left_out["inside"], left_out["reason"]) == (False, "reward below 1")


def test_a_rollout_that_no_step_saw_has_an_empty_lineage(site: Site) -> None:
    answer = site.json(f"/api/store/lineage/{one(site, 'run=c')}")
    assert answer["samples"] == answer["checkpoints"] == [] and answer["datasets"][0]["reason"] is None


def test_tokens_carry_what_engine_and_learner_computed(site: Site) -> None:
    answer = site.json(f"/api/store/tokens/{one(site, 'passed=true')}")
    assert answer["prompt_ids"] == [1, 2, 3] and answer["ids"] == [10, 11, 12, 13] and answer["mask"] == [1, 1, 0, 1]
    assert answer["logprobs"] == [-0.5, -0.25, -0.125] and answer["trainer"] == [-0.5, -0.75, -0.1]
    assert answer["clip"] == [0.8, 1.3] and answer["sample"]["advantage"] == pytest.approx(0.7)
    assert answer["texts"] == {}, "the tokenizer of these ids is nowhere"


def test_a_rollout_without_tokens_has_none(site: Site) -> None:
    answer = site.json(f"/api/store/tokens/{one(site, 'run=c')}")
    assert answer["ids"] is None and answer["sample"] is None


def test_the_text_of_a_token_comes_from_the_tokenizer_that_made_it(tmp_path) -> None:
    from rollhouse.policies.models import load_tokenizer, tokenizer_hash
    from rollhouse.train.tiny import base_policy

    store = SqlStore.create(tmp_path / "store")
    tokenizer = load_tokenizer(base_policy())
    ids = tokenizer("Send an email.")["input_ids"]
    given = {"token_ids": ids, "loss_mask": [1] * len(ids), "tokenizer_hash": tokenizer_hash(tokenizer)}
    add_rollouts(
        store,
        [Rollout(messages=[{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], **given)],
        "r",
    )
    found = texts(Reader("x", store), given, set(ids))
    assert "".join(found[str(one)] for one in ids) == "Send an email."
    assert texts(Reader("x", store), given | {"tokenizer_hash": "another"}, set(ids)) == {}


def test_an_unknown_rollout_is_not_found(site: Site) -> None:
    for what in ("rollout", "lineage", "tokens"):
        status, _, body = site.get(f"/api/store/{what}/nobody")
        assert status == 404 and "nobody" in body


def test_the_entropies_of_trained_tokens(site: Site) -> None:
    rows = site.json("/api/store/rollouts?passed=true&run=g")["rows"]
    strip = site.json(f"/api/store/tokens/{rows[0]['rollout_id']}")
    assert strip["entropies"] == [0.6, 1.25, 0.2] and len(strip["trainer"]) == 3
