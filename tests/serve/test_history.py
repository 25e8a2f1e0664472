"""Calls as a tree: in any order of requests each call is found again and each path is whole."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.policies.types import Sampling
from rollhouse.serve.calls import Call
from rollhouse.serve.history import OpenRollout, answering, conversation
from rollhouse.store.messages import Message, ToolCall, VersionSpan
from rollhouse.store.task import Task

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def call(number: int, parent: int | None, output: str, agent: str = "main", **more: Any) -> Call:
    """A call whose tokens tell it from all others."""
    ids = [100 * number + place for place in range(6)]
    plain: dict[str, Any] = {"added_ids": ids[:3], "token_ids": ids[3:], "logprobs": [-1.0] * 3, "version_spans": (VersionSpan(0, number // 3),)}  # fmt: skip
    messages = (Message("user", output),)
    return Call(
        number,
        parent,
        agent,
        messages,
        (),
        Message("assistant", f"a{number}"),
        Sampling(),
        9,
        NOW,
        0.5,
        **(plain | more),
    )


@st.composite
def trees(draw: st.DrawFn) -> OpenRollout:
    """Rollouts of up to twelve calls of two agents, each beginning a conversation or going on from an earlier call."""
    rollout = OpenRollout("r")
    for number in range(draw(st.integers(1, 12))):
        agent = draw(st.sampled_from(["main", "helper"]))
        earlier = [one.number for one in rollout.calls if one.agent == agent]
        parent = draw(st.sampled_from([None, *earlier]))
        rollout.add(call(number, parent, f"u{number}", agent))
    return rollout


@settings(max_examples=60, deadline=None)
@given(trees())
def test_every_call_is_in_a_branch_and_each_branch_is_whole(rollout: OpenRollout) -> None:
    branches = rollout.branches()
    trained = [one.number for branch in branches for one in branch.path if one.number not in branch.shared]
    assert sorted(trained) == list(range(len(rollout.calls))), "each sampled token is trained on in one row"
    assert {one.number for branch in branches for one in branch.path} == set(range(len(rollout.calls)))
    assert len({(branch.agent, branch.number) for branch in branches}) == len(branches)
    assert branches[0].number == 0
    assert branches[0].agent == "main" or all(branch.agent != "main" for branch in branches)
    for branch in branches:
        agent, path = branch.agent, branch.path
        assert path[0].parent is None and [one.parent for one in path[1:]] == [one.number for one in path[:-1]]
        assert {one.agent for one in path} == {agent}
        talk = conversation(Task("t", path[0].messages, ()), path)
        assert talk.prompt_ids is not None and talk.prompt_ids + talk.token_ids == rollout.tokens(path[-1])
        assert talk.loss_mask == ([1] * 3 + [0] * 3) * (len(path) - 1) + [1] * 3 and talk.prefix_ok
        assert [*path[0].messages, *talk.messages] == [*rollout.history(path[-1]), path[-1].answer]
        versions = {span.start: span.version for span in talk.version_spans}
        for place, one in enumerate(path):
            last = max(start for start in versions if start <= 6 * place)
            assert versions[last] == one.number // 3


@settings(max_examples=60, deadline=None)
@given(trees(), st.randoms())
def test_a_request_is_placed_after_the_call_whose_conversation_it_continues(rollout: OpenRollout, random: Any) -> None:
    parent = random.choice(rollout.calls)
    messages = [*rollout.history(parent), parent.answer, Message("user", "new")]
    place = rollout.place(parent.agent, (), messages)
    assert (place.parent, place.known, place.nearest) == (parent.number, len(messages) - 1, None)
    assert rollout.place("another", (), messages).parent is None
    assert rollout.place(parent.agent, ({"type": "function"},), messages).parent is None
    fresh = rollout.place(parent.agent, (), [Message("user", "something else")])
    assert (fresh.parent, fresh.nearest) == (None, None)
    edited = [*rollout.history(parent), Message("assistant", "other"), Message("user", "new")]
    place = rollout.place(parent.agent, (), edited)
    if parent.parent is None:
        assert place.nearest is not None and place.nearest[1] == len(edited) - 2
    else:  # what came before is as it was recorded, and the edited turn is context behind it
        assert (place.parent, place.known) == (parent.parent, len(edited) - 3)


@settings(max_examples=30, deadline=None)
@given(trees())
def test_calls_are_the_same_after_a_restart(rollout: OpenRollout) -> None:
    for one in rollout.calls:
        assert Call.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_what_clients_change_without_meaning_to_does_not_matter() -> None:
    rollout = OpenRollout("r")
    output = Message("assistant", None, (ToolCall("call_0", "f", '{"a": 1,"b":[2]}'),), reasoning="hm")
    rollout.add(replace(call(0, None, "hello"), answer=output))
    sent = Message("assistant", "", (ToolCall("toolu_9", "f", '{"b":[2],\n"a":1}'),))
    tool = Message("tool", "ok", tool_call_id="toolu_9")
    assert rollout.place("main", (), [Message("user", "hello"), sent, tool]).parent == 0
    for other in (
        Message("assistant", "", (ToolCall("toolu_9", "f", '{"a": 2, "b": [2]}'),)),
        Message("assistant", "Well.", sent.tool_calls),
        Message("assistant", "", (ToolCall("toolu_9", "g", '{"a": 1, "b": [2]}'),)),
    ):
        assert rollout.place("main", (), [Message("user", "hello"), other, tool]).parent is None
    assert rollout.place("main", (), [Message("user", "hello "), sent, tool]).parent is None


def test_a_prompt_that_does_not_begin_with_the_tokens_before_it_begins_a_row() -> None:
    first, second = call(0, None, "a"), call(1, 0, "b", added_ids=[0, 1, 2, 3, 77, 5, 6], anew=True)
    rollout = OpenRollout("r", [first, second, call(2, 1, "c")])
    before, after = rollout.branches()
    assert [(one.agent, one.number, len(one.path)) for one in (before, after)] == [("main", 0, 1), ("main", 1, 2)]
    talk = conversation(Task("t", after.path[0].messages, ()), after.path)
    assert [message.text for message in after.path[0].messages] == ["a", "a0", "b"]
    assert talk.prompt_ids == [0, 1, 2, 3, 77, 5, 6] and talk.prefix_ok
    assert talk.token_ids == [103, 104, 105, 200, 201, 202, 203, 204, 205]
    assert talk.loss_mask == [1, 1, 1, 0, 0, 0, 1, 1, 1] and len(talk.logprobs) == 6
    assert talk.gaps == ["history:message2@4"]
    assert rollout.tokens(second) == [0, 1, 2, 3, 77, 5, 6, 103, 104, 105]


def test_sampled_tokens_that_two_rows_have_are_trained_on_in_one() -> None:
    rollout = OpenRollout("r", [call(0, None, "a"), call(1, 0, "b"), call(2, 0, "c"), call(3, 0, "c"), call(4, 3, "d")])
    main, other, retry = rollout.branches()
    assert [[one.number for one in branch.path] for branch in (main, other, retry)] == [[0, 3, 4], [0, 1], [0, 2]]
    assert (main.shared, other.shared, retry.shared, retry.retry) == (frozenset(), {0}, {0}, True)
    talk = conversation(Task("t", other.path[0].messages, ()), other.path, other.shared)
    assert talk.token_ids == [3, 4, 5, 100, 101, 102, 103, 104, 105] and talk.loss_mask == [0] * 6 + [1] * 3
    assert len(talk.logprobs) == 3 and talk.gaps == ["shared_calls:1"] and talk.prefix_ok


def test_a_beginning_that_another_row_has_is_no_row_of_its_own() -> None:
    cut = call(2, 0, "c", added_ids=[9, 9, 9], anew=True)
    rollout = OpenRollout("r", [call(0, None, "a"), call(1, 0, "b"), cut, call(3, 1, "d")])
    assert [[one.number for one in branch.path] for branch in rollout.branches()] == [[0, 1, 3], [2]]


def test_a_request_sent_again_is_a_retry_and_the_answer_that_was_built_on_is_the_main_path() -> None:
    rollout = OpenRollout("r", [call(0, None, "a"), call(1, None, "a"), call(2, 0, "b"), call(3, 0, "b")])
    found = [([one.number for one in branch.path], branch.retry) for branch in rollout.branches()]
    assert found == [([0, 3], False), ([0, 2], True), ([1], True)]
    # The first answer was lost, and the second was built on.
    rollout = OpenRollout("r", [call(0, None, "a"), call(1, None, "a"), call(2, 1, "b")])
    found = [([one.number for one in branch.path], branch.retry) for branch in rollout.branches()]
    assert found == [([1, 2], False), ([0], True)]


def test_results_answer_the_recorded_calls_whatever_ids_the_client_gave_them() -> None:
    ours = Message("assistant", None, (ToolCall("call_0", "f", "{}"), ToolCall("call_1", "f", "{}")))
    sent = replace(ours, tool_calls=(ToolCall("a", "f", "{}"), ToolCall("b", "f", "{}")))
    edited = Message("assistant", None, (ToolCall("b", "g", "{}"),))
    results = [Message("tool", text, tool_call_id=text) for text in ("b", "a", "c")]
    hello = Message("user", "hello")
    named = [one.tool_call_id for one in answering(results, [hello, sent], [hello, ours])]
    assert named == ["call_1", "call_0", "c"]
    assert answering([edited, results[0]], [hello, sent], [hello, ours]) == [edited, results[0]]
