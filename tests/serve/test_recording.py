"""An agent's calls become one rollout, true to the token, whatever the agent does with the messages it was given."""

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.task import Task
from rollhouse.tests.serve.agent import kept, play
from rollhouse.tests.serve.running import Server, serving

Request = Callable[..., dict[str, Any]]


def post(server: Server, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a plain POST."""
    reply = server.post(path, body)
    return reply.status_code, reply.json()


def finish(server: Server, name: str, **body: Any) -> dict[str, Any]:
    status, reply = post(server, f"/rollouts/{name}/finish", **body)
    assert status == 200, reply
    return reply


def stored(server: Server, name: str) -> list[dict[str, Any]]:
    """The rows of one rollout, once its writer has committed them."""
    status, reply = post(server, f"/rollouts/{name}/score", reward=0.5, scorer="flush")
    assert status == 200, reply
    found = [row for row in server.rows() if json.loads(row["extra"])["serve"]["rollout_id"] == name]
    assert len(found) == reply["scored"]
    return found


@pytest.mark.parametrize("echo", ["plain", "whole", "rewritten"])
def test_the_row_holds_exactly_the_tokens_the_engine_was_given_and_gave(server: Server, task: Task, echo: str) -> None:
    engine: Any = server.policy
    engine = engine.token_engine
    start = len(engine.seen)
    client = server.openai(f"/rollouts/two-turns-{echo}/v1")
    messages = play(client, task, echo=echo, top_p=0.9, seed=5)
    calls = engine.seen[start:]
    assert len(calls) > 1 and any(message.get("tool_calls") for message in messages)
    reported = finish(server, f"two-turns-{echo}", reward=1.0, task={"ground_truth": task.ground_truth, "category": task.category})  # fmt: skip
    (row,) = stored(server, f"two-turns-{echo}")
    (prompt,) = [
        p["token_ids"] for p in server.store.read("prompt_tokens").to_pylist() if p["prompt_id"] == row["prompt_id"]
    ]
    # Every call saw all tokens before it, and what is stored is what the last one saw and gave.
    for (seen, gave), (then, _) in itertools.pairwise(calls):
        assert then[: len(seen) + len(gave)] == seen + gave
    assert prompt + row["token_ids"] == calls[-1][0] + calls[-1][1]
    sampled = [token for token, mask in zip(row["token_ids"], row["loss_mask"], strict=True) if mask]
    assert sampled == [token for _, gave in calls for token in gave] and len(row["logprobs"]) == len(sampled)
    assert reported["rows"] == [
        {"rollout_id": row["rollout_id"], "agent": "main", "branch": 0, "n_turns": len(calls), "prefix_ok": True}
    ]
    assert (row["status"], row["reward"], row["passed"], row["scorer"]) == ("completed", 1.0, True, "agent")
    assert (row["top_p"], row["sampling_seed"], row["max_tokens"]) == (pytest.approx(0.9), 5, 200)
    assert (row["engine"], row["environment"], row["gaps"]) == ("torch", "served", [])
    assert [message["role"] for message in row["messages"]] == [m["role"] for m in messages[len(task.messages) :]]
    ids = [call["id"] for message in row["messages"] for call in message["tool_calls"] or ()]
    assert ids == [message["tool_call_id"] for message in row["messages"] if message["role"] == "tool"]
    (stored_task,) = server.store.read("tasks", filter=f"task_id = '{row['task_id']}'").to_pylist()
    assert stored_task["prompt_id"] == row["prompt_id"] == task.prompt_id and stored_task["category"] == task.category


def test_answers_carry_their_tokens_in_both_shapes(server: Server, request_of: Request) -> None:
    reply = server.client.chat.completions.create(**request_of(logprobs=True))
    choice, message = reply.choices[0], reply.choices[0].message.model_extra or {}
    assert choice.finish_reason == "tool_calls" and choice.logprobs is not None and choice.logprobs.content
    assert choice.model_extra["token_ids"] == message["generation_token_ids"]
    assert reply.model_extra["prompt_token_ids"] == message["prompt_token_ids"]
    assert [entry.logprob for entry in choice.logprobs.content] == message["generation_log_probs"]
    assert reply.usage.prompt_tokens == len(message["prompt_token_ids"])
    assert reply.usage.completion_tokens == len(message["generation_token_ids"])
    bare = server.client.chat.completions.create(**request_of(), extra_body={"return_token_ids": False})
    assert (
        not bare.choices[0].message.model_extra.get("prompt_token_ids") and "prompt_token_ids" not in bare.model_extra
    )


@pytest.mark.parametrize("way", ["header", "field", "metadata"])
def test_the_rollout_id_may_come_in_any_of_the_usual_places(server: Server, request_of: Request, way: str) -> None:
    more: dict[str, Any] = {
        "header": {"extra_headers": {"X-Rollout-Id": "by-header"}},
        "field": {"extra_body": {"rollout_id": "by-field"}},
        "metadata": {"metadata": {"rollout_id": "by-metadata"}},
    }[way]
    server.client.chat.completions.create(**request_of(), **more)
    assert finish(server, f"by-{way}")["rows"][0]["n_turns"] == 1


def test_a_call_without_an_id_is_answered_and_not_recorded(
    torch_policy: TokenPolicy, request_of: Request, tmp_path: Path
) -> None:
    store = LanceStore.create(tmp_path / "store")
    with serving(store, torch_policy) as server:
        assert server.client.chat.completions.create(**request_of()).choices
    assert store.read("rollouts").num_rows == 0


def test_too_late_and_too_early_are_409(server: Server, request_of: Request) -> None:
    assert post(server, "/rollouts/absent/finish")[0] == 409
    assert post(server, "/rollouts/absent/score", reward=1)[0] == 409
    client = server.openai("/rollouts/once/v1")
    client.chat.completions.create(**request_of())
    status, reply = post(server, "/rollouts/once/score", reward=1)
    assert (status, reply["error"]["code"]) == (409, "rollout_open")
    finish(server, "once")
    status, reply = post(server, "/rollouts/once/finish", reward=1)
    assert (status, reply["error"]["code"]) == (409, "rollout_finished")
    with pytest.raises(openai.ConflictError, match="is finished: use another id"):
        client.chat.completions.create(**request_of())


def test_a_late_reward_is_a_row_of_scores_once_a_scorer_version(server: Server, request_of: Request) -> None:
    server.openai("/rollouts/late/v1").chat.completions.create(**request_of())
    finish(server, "late", metadata={"seed": 3})
    body = {"reward": 0.25, "scorer": "judge", "scorer_version": "7", "components": {"style": 0.5}}
    assert post(server, "/rollouts/late/score", **body)[0] == 200
    status, reply = post(server, "/rollouts/late/score", **body)
    assert (status, reply["error"]["code"]) == (409, "scored_already")
    (row,) = stored(server, "late")
    assert row["reward"] is None and json.loads(row["extra"])["serve"]["metadata"] == {"seed": 3}
    scores = [
        s
        for s in server.store.read("scores").to_pylist()
        if s["rollout_id"] == row["rollout_id"] and s["scorer"] == "judge"
    ]
    assert [(s["reward"], s["passed"], s["components"]) for s in scores] == [(0.25, False, [{"name": "style", "value": 0.5, "weight": 1.0}])]  # fmt: skip


def test_repeats_of_a_task_are_one_group_with_an_index_each(server: Server, request_of: Request) -> None:
    for name in ("repeat-a", "repeat-b"):
        server.openai(f"/rollouts/{name}/v1").chat.completions.create(**request_of(temperature=1.0))
        finish(server, name, reward=0, task={"category": "repeats", "ground_truth": ["repeats"]})
    (one,), (other,) = stored(server, "repeat-a"), stored(server, "repeat-b")
    assert one["group_id"] == other["group_id"] and (one["sample_index"], other["sample_index"]) == (0, 1)
    # A place named once more is tried again: the last attempt is the one that counts.
    server.openai("/rollouts/repeat-c/v1").chat.completions.create(**request_of(temperature=1.0))
    finish(server, "repeat-c", reward=0, sample_index=1, task={"category": "repeats", "ground_truth": ["repeats"]})
    (again,) = stored(server, "repeat-c")
    assert (again["slot_id"], again["attempt"], other["attempt"]) == (other["slot_id"], 1, 0)


def test_prompts_that_differ_form_a_group_by_key_or_by_group(server: Server, request_of: Request) -> None:
    bodies: list[dict[str, Any]] = [
        {"task": {"key": "t1"}},
        {"task": {"key": "t1"}},
        {"task": {"key": "t1"}, "group": "g"},
        {"group": "g"},
    ]
    for number, body in enumerate(bodies):
        request = request_of(messages=[{"role": "user", "content": f"It is day {number}. Find Ada."}])
        server.openai(f"/rollouts/dated-{number}/v1").chat.completions.create(**request)
        finish(server, f"dated-{number}", reward=0, **body)
    rows = [stored(server, f"dated-{number}")[0] for number in range(4)]
    groups = [row["group_id"] for row in rows]
    assert groups[0] == groups[1] != groups[2] == groups[3]
    assert [row["sample_index"] for row in rows] == [0, 1, 0, 1] and len({row["slot_id"] for row in rows}) == 4
    assert [json.loads(row["extra"])["serve"].get("task_key") for row in rows] == ["t1", "t1", "t1", None]
    status, reply = post(server, "/rollouts/dated-0/finish", task={"key": 3})
    assert status == 400 and "`task.key` must be a string" in reply["error"]["message"]


def test_a_request_to_finish_that_is_sent_again_has_the_same_answer(server: Server, request_of: Request) -> None:
    server.openai("/rollouts/again/v1").chat.completions.create(**request_of())
    reply = finish(server, "again", reward=0.5)
    assert finish(server, "again", reward=0.5) == reply and len(stored(server, "again")) == 1
    assert post(server, "/rollouts/again/finish", reward=0.25)[0] == 409


def test_an_edited_history_is_rendered_anew_and_kept_as_a_branch_with_the_position(
    server: Server, request_of: Request
) -> None:
    client = server.openai("/rollouts/edited/v1")
    request = request_of()
    first = client.chat.completions.create(**request).choices[0].message
    tool = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "[]"}
    edited = {"role": "assistant", "content": "I looked it up and found nothing."}
    messages = [*request["messages"], edited, {"role": "user", "content": "Go on."}]
    client.chat.completions.create(**{**request, "messages": messages})
    client.chat.completions.create(**{**request, "messages": [*request["messages"], kept(first), tool]})
    finish(server, "edited", reward=1.0)
    main, side = stored(server, "edited")
    assert (main["branch"], main["n_turns"], main["prefix_ok"], main["gaps"]) == (0, 2, True, [])
    n_prompt = main["n_prompt_tokens"]
    assert (side["branch"], side["n_turns"], side["prefix_ok"], side["trainable"]) == (1, 1, True, True)
    assert side["gaps"] == [f"history:message{len(request['messages'])}@{n_prompt}"]
    assert side["episode_id"] == main["episode_id"] == main["rollout_id"] and side["task_id"] == main["task_id"]
    assert side["prompt_id"] != main["prompt_id"] and side["reward"] == 1.0


def test_answers_that_were_sampled_twice_are_branches_that_share_their_beginning(
    server: Server, request_of: Request
) -> None:
    client = server.openai("/rollouts/twice/v1")
    request = request_of()
    first = client.chat.completions.create(**request).choices[0].message
    for output in ("[]", "[1]"):
        tool = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": output}
        client.chat.completions.create(**{**request, "messages": [*request["messages"], kept(first), tool]})
    finish(server, "twice")
    rows = stored(server, "twice")
    assert [(row["branch"], row["n_turns"], row["prefix_ok"]) for row in rows] == [(0, 2, True), (1, 2, True)]
    assert len({row["prompt_id"] for row in rows}) == 1 and rows[0]["messages"][1]["text"] == "[1]"


def test_a_sub_agent_has_rows_of_its_own_in_the_episode(server: Server, request_of: Request) -> None:
    server.openai("/rollouts/team/v1").chat.completions.create(**request_of())
    sub = [{"role": "system", "content": "You search."}, {"role": "user", "content": "Find Ada."}]
    server.openai("/rollouts/team/agents/searcher/v1").chat.completions.create(**request_of(messages=sub))
    finish(server, "team", reward=1)
    main, searcher = stored(server, "team")
    assert [(row["agent"], row["branch"], row["trainable"]) for row in (main, searcher)] == [("main", 0, True), ("searcher", 0, False)]  # fmt: skip
    assert searcher["prefix_ok"] is True and searcher["gaps"] == [] and searcher["episode_id"] == main["rollout_id"]


def test_an_idle_rollout_ends_as_a_timeout(torch_policy: TokenPolicy, request_of: Request, tmp_path: Path) -> None:
    with serving(LanceStore.create(tmp_path / "store"), torch_policy, idle_limit_s=0.3) as server:
        server.openai("/rollouts/forgotten/v1").chat.completions.create(**request_of())
        for _ in range(200):
            status, reply = post(server, "/rollouts/forgotten/finish", reward=1) if server.rows() else (0, {})
            if status:
                break
            time.sleep(0.05)
        assert (status, reply["error"]["code"]) == (409, "rollout_finished")
        (row,) = server.rows()
    assert (row["status"], row["stop_reason"], row["error_type"], row["reward"]) == (
        "timeout",
        "timeout",
        "timeout",
        None,
    )
    assert row["n_turns"] == 1 and row["error_message"] == "no call came for 0.3 s"
