"""Prompts of clients that send messages only: the tokens sampled before stay, and what follows is the template's."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.policies.chat import ChatFormat, TemplateError
from rollhouse.store.messages import Message

from ..random_model import TEMPLATE, byte_tokenizer
from .templates import END, Habit

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}}  # fmt: skip
ASKED = [Message("system", "be brief"), Message("user", "look twice")]
RESULT = Message("tool", "one", tool_call_id="call_0")
SAMPLED = '<think>\nhm\n</think>\n\n<tool_call>\n{"name": "look", "arguments": {"x":  "a"}}\n</tool_call>'
AGAIN = Message("user", "and again")


def counted(chat: ChatFormat, prefix: Sequence[int], before: list[Message], everything: list[Message]) -> list[int]:
    """The rule NeMo Gym's model server follows: cut where the template has as many end tokens as the history has up to the turn."""
    end = 2
    prefix = prefix[:-1] if prefix[-1] == end else prefix
    whole = chat.render(everything, [TOOL], generation_prompt=True)
    wanted = chat.render(before, [TOOL], generation_prompt=False).count(end)
    cut = [at for at, token in enumerate(whole) if token == end][wanted - 1]
    return [*prefix, *whole[cut:]]


def turn(chat: ChatFormat, prompt: list[int], text: str, ended: bool) -> tuple[list[int], Message]:
    """(prompt and sampled tokens, the message a client would get)."""
    sampled = [*chat.tokenizer.encode(text), *([2] if ended else [])]
    return [*prompt, *sampled], chat.parse(sampled)[0]


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "cut by the limit"])
@pytest.mark.parametrize("habit", [Habit(), Habit(strip_thinking=True), Habit(trim=True, merge=True), Habit(late_tools=True)])  # fmt: skip
@pytest.mark.parametrize("followers", [[RESULT], [RESULT, RESULT], [AGAIN], [RESULT, AGAIN]])
def test_the_splice_is_nemo_gyms(habit: Habit, ended: bool, followers: list[Message]) -> None:
    chat = ChatFormat(byte_tokenizer(habit.template()))
    first = chat.splice([], [], ASKED, [TOOL])
    assert first == chat.render(ASKED, [TOOL], generation_prompt=True)
    seen, message = turn(chat, first, SAMPLED, ended)
    history = [*ASKED, message]
    second = chat.splice(seen, history, [*history, *followers], [TOOL])
    assert second[: len(seen)] == seen and second == counted(chat, seen, history, [*history, *followers])
    assert chat.tokenizer.decode(second[len(first) :]) == SAMPLED + habit.after_turn(followers, ["look"])
    # And once more, on top of what was spliced.
    seen, message = turn(chat, second, "I  see", ended)
    later = [*history, *followers, message]
    third = chat.splice(seen, later, [*later, AGAIN], [TOOL])
    assert third[: len(seen)] == seen and third == counted(chat, seen, later, [*later, AGAIN])


def test_a_turn_that_spells_an_end_is_spliced_where_counting_goes_wrong() -> None:
    chat = ChatFormat(byte_tokenizer(Habit(strip_thinking=True).template()))
    prompt = chat.splice([], [], ASKED, [TOOL])
    spelled = [token for sign in f"<think>what is {END}?</think>Look." for token in chat.tokenizer.encode(sign)]
    seen, history = [*prompt, *spelled, 2], [*ASKED, chat.parse([*spelled, 2])[0]]
    assert history[-1].reasoning == f"what is {END}?"
    spliced = chat.splice(seen, history, [*history, AGAIN], [TOOL])
    assert spliced[: len(seen)] == seen
    assert chat.tokenizer.decode(spliced[len(seen) :]) == Habit().after_turn([AGAIN], ["look"]).removeprefix(END)
    assert counted(chat, seen, history, [*history, AGAIN]) != spliced


def test_turns_without_tokens_in_between_are_rendered() -> None:
    chat = ChatFormat(byte_tokenizer(Habit().template()))
    seen, message = turn(chat, chat.splice([], [], ASKED, []), "Hello.", True)
    more = [AGAIN, Message("assistant", "written by somebody"), AGAIN]
    spliced = chat.splice(seen, [*ASKED, message], [*ASKED, message, *more], [])
    assert chat.tokenizer.decode(spliced[len(seen) :]) == Habit().after_turn(more, []).removeprefix(END)


@pytest.mark.parametrize("before", [[], ASKED])
def test_a_history_that_does_not_end_in_the_turn_is_refused(before: Any) -> None:
    chat = ChatFormat(byte_tokenizer(Habit().template()))
    with pytest.raises(TemplateError, match="does not end in an assistant message"):
        chat.splice([5, 6], before, [*ASKED, AGAIN], [])


@pytest.mark.parametrize("counts", [False, True], ids=["looks at the last turn", "counts the messages"])
def test_a_long_conversation_is_spliced_as_its_whole_history_is_rendered(counts: bool) -> None:
    template = TEMPLATE.replace("<|im_start|>assistant\n' }}{% endif %}", "<|im_start|>assistant\n' }}{{ messages | length }}{% endif %}")  # fmt: skip
    chat = ChatFormat(byte_tokenizer(template if counts else TEMPLATE), [2, 0])
    rendered: list[int] = []
    after_turn = chat.template.after_turn

    def watched(messages: Sequence[Message], turn: int, tools: Any) -> str:
        rendered.append(len(messages))
        return after_turn(messages, turn, tools)

    chat.template.after_turn = watched  # type: ignore[method-assign]
    messages, ids = list(ASKED), chat.render(ASKED, [TOOL], generation_prompt=True)
    for number in range(40):
        ids, said = turn(chat, ids, f"Turn {number}.", True)
        before = [*messages, said]
        messages = [*before, Message("user", f"go on {number}")]
        whole = [*ids, *chat.tokenizer.encode(after_turn(messages, len(before) - 1, [TOOL]))[1:]]
        ids = chat.splice(ids, before, messages, [TOOL])
        assert ids == whole, number
    assert (max(rendered[-3:]) > 60) == counts, "only a template that looks back is given the whole history"


HABITS = [Habit(), Habit(strip_thinking=True), Habit(trim=True, merge=True), Habit(late_tools=True)]
FOLLOWERS = [[RESULT], [RESULT, RESULT], [AGAIN], [RESULT, AGAIN], [Message("system", "be quick"), AGAIN], [Message("tool", "late", tool_call_id="call_7")]]  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(HABITS), st.integers(0, 3), st.lists(st.sampled_from(FOLLOWERS), min_size=1, max_size=20))
def test_what_is_left_out_of_a_rendering_makes_no_difference(habit: Habit, n_tools: int, rounds: Any) -> None:
    chat = ChatFormat(byte_tokenizer(habit.template()), [2, 0])
    tools = [{**TOOL, "function": {**TOOL["function"], "name": f"look{number}"}} for number in range(n_tools)]
    messages, ids = list(ASKED), chat.render(ASKED, tools, generation_prompt=True)
    for number, followers in enumerate(rounds):
        ids, said = turn(chat, ids, SAMPLED if number % 3 else "I  see", True)
        before = [*messages, said]
        messages = [*before, *followers]
        whole = chat.template.after_turn(messages, len(before) - 1, tools)
        whole_ids = [*ids, *chat.tokenizer.encode(whole)[1:]]
        ids = chat.splice(ids, before, messages, tools)
        assert ids == whole_ids, number
