"""Episodes of several turns, in both modes: the backends answer, late functions arrive, the verdict is the benchmark's."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rollhouse.eval.bfcl import Checker, evaluate_bfcl
from rollhouse.eval.bfcl.categories import MULTI_TURN
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.runs import start_run
from rollhouse.tests.eval.conftest import as_text

EPISODE = "r" + "a" * 32


class Player:
    """Plays the gold calls of each user turn in one answer, then ends the turn with words. `endless` calls for ever."""

    engine = "player"
    policy_id = "player"
    version = 0
    token_identity = None

    def __init__(self, turns: dict[str, list], mode: str = "fc", endless: bool = False) -> None:
        self.turns, self.mode, self.endless = turns, mode, endless
        self.shown: list[tuple[str, list[Message], int]] = []

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        case = conversation.task.source_key or ""
        history = [*conversation.task.messages, *conversation.messages]
        self.shown.append((case, history, len(conversation.task.tools)))
        requested = [message for message in history if message.role == "user" and not _is_result(message)]
        answering = history[-1] is requested[-1]
        calls = self.turns[case][len(requested) - 1] if answering or self.endless else []
        calls = calls or ([("ls", "{}")] if self.endless else [])
        if self.mode == "prompt":
            return Turn(Message("assistant", as_text(calls) if calls else "All done."))
        made = tuple(ToolCall(f"c{i}", name, text) for i, (name, text) in enumerate(calls))
        return Turn(Message("assistant", None if made else "All done.", made))


def _is_result(message: Message) -> bool:
    return (message.text or "").startswith("[{'role': 'tool'")


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore.create(tmp_path / "store")


@pytest.mark.parametrize("mode", ["fc", "prompt"])
def test_gold_episodes_pass(store: LanceStore, gold_turns: Callable, mode: str) -> None:
    player = Player({case: turns for category in MULTI_TURN for case, turns in gold_turns(category).items()}, mode)
    with start_run(store, "eval", "gold") as run:
        summary = evaluate_bfcl(store, run, player, ["multi_turn"], mode=mode, limit=6)
    assert summary.accuracy == dict.fromkeys(MULTI_TURN, 1.0)
    (row,) = store.read("evaluations", filter="category = 'multi_turn_base'").to_pylist()[:1]
    output = json.loads(row["output"])
    assert row["mode"] == mode and len(output) > 2 and output[0]["role"] == "assistant"
    if mode == "fc":
        assert any(message["role"] == "tool" and message["tool_call_id"] == "c0" for message in output)


def test_functions_that_come_late_are_offered_with_their_turn(store: LanceStore, gold_turns: Callable) -> None:
    player = Player(gold_turns("multi_turn_miss_func"))
    with start_run(store, "eval", "late") as run:
        evaluate_bfcl(store, run, player, ["multi_turn_miss_func"], limit=1)
    offered = [tools for _, _, tools in player.shown]
    assert offered == sorted(offered) and offered[0] < offered[-1]
    first = next(history for _, history, tools in player.shown if tools == offered[-1])
    assert first[-1].role == "user" and "functions" in (first[-1].text or "")


def test_silence_and_endless_calling_fail(store: LanceStore, gold_turns: Callable) -> None:
    gold = gold_turns("multi_turn_base")
    silent = Player({case: [[] for _ in turns] for case, turns in gold.items()})
    with start_run(store, "eval", "silent") as run:
        summary = evaluate_bfcl(store, run, silent, ["multi_turn_base"], limit=3)
    assert summary.categories["multi_turn_base"].errors == {"multi_turn:empty_turn_model_response": 3}
    endless = Player(silent.turns, endless=True)
    with start_run(store, "eval", "endless") as run:
        summary = evaluate_bfcl(store, run, endless, ["multi_turn_base"], limit=1)
    assert summary.categories["multi_turn_base"].errors == {"multi_turn:force_terminated": 1}
    assert len(endless.shown) == 21


def test_a_replaced_process_plays_the_episode_again(gold_turns: Callable) -> None:
    with Checker() as checker:
        case = checker.cases("multi_turn_base", 1)[0]["id"]
        steps = [turn for turn in gold_turns("multi_turn_base")[case] if turn]
        whole = [checker.execute("multi_turn_base", case, EPISODE, steps[: n + 1]) for n in range(len(steps))]
        checker._stop()
        assert checker.execute("multi_turn_base", case, EPISODE, steps) == whole[-1]
        checker.forget(EPISODE)
        assert checker.execute("multi_turn_base", case, EPISODE, steps[:1]) == whole[0]


def test_episodes_do_not_see_each_other(gold_turns: Callable) -> None:
    with Checker() as checker:
        case = checker.cases("multi_turn_base", 1)[0]["id"]
        turns = gold_turns("multi_turn_base")[case]
        steps = [turn for turn in turns if turn]
        first, second = (checker.execute("multi_turn_base", case, "r" + letter * 32, steps[:1]) for letter in "bc")
        assert first == second
        played = [[calls, []] if calls else [[]] for calls in turns]
        assert all(checker.check_turns("multi_turn_base", case, played).passed for _ in range(3))
