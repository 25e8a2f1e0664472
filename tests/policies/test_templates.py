"""Whatever a chat template does to history, a rollout's stored tokens are those the engine was given and those it sampled."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.base.config import content_hashes, differing
from rollhouse.collect.episode import Episode, Slot, play_episode
from rollhouse.environments.types import Done
from rollhouse.policies.chat import ChatFormat
from rollhouse.policies.config import ChatOptions
from rollhouse.policies.engines.base import SampledTokens, TokenEngine
from rollhouse.policies.engines.torch_engine import TorchEngine
from rollhouse.policies.models import load_tokenizer
from rollhouse.policies.token_policy import TokenPolicy
from rollhouse.policies.types import Sampling, Turn
from rollhouse.store.messages import Message, VersionSpan
from rollhouse.store.task import Score, Task

from .templates import END, HABITS, Habit

TOOLS = tuple(
    {"type": "function", "function": {"name": name, "description": "", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}}
    for name in ("look", "list")
)  # fmt: skip
TASK = Task("talk", (Message("user", "look twice"),), TOOLS)
WITH_SYSTEM = replace(TASK, messages=(Message("system", " be brief "), Message("user", "look twice")))


class Talk:
    """An environment that answers every call by the next of `results`, and a turn without calls by a user message."""

    name = "talk"

    def __init__(self, turns: int, results: Sequence[str] = ("one", " two ", "three")) -> None:
        self.turns = turns
        self.results = results

    def tasks(self, split: str) -> Iterable[Task]:
        return [TASK]

    def start(self, task: Task) -> "Talk":
        self.left, self.said, self.followers = self.turns, 0, []
        return self

    async def step(self, turn: Turn) -> list[Message] | Done:
        self.left -= 1
        if self.left <= 0:
            return Done("stop")
        answers = [Message("tool", self._next(), tool_call_id=call.id) for call in turn.message.tool_calls]
        answers = answers or [Message("user", self._next())]
        self.followers.append(answers)
        return answers

    def _next(self) -> str:
        self.said += 1
        return self.results[(self.said - 1) % len(self.results)]

    def verify(self) -> Score:
        return Score(1.0, True, "talk", "1")

    def close(self) -> None:
        pass


class Says:
    """A token engine that samples the given texts, so that a turn can hold anything. Keeps what it was given."""

    kind, version, max_model_len = "torch", 0, 100_000

    def __init__(self, turns: Sequence[list[int]], stop_ids: Sequence[int]) -> None:
        self.turns = turns
        self.stop_ids = stop_ids
        self.given: list[list[int]] = []

    async def generate(self, prompt_ids: list[int], sampling: Sampling) -> SampledTokens:
        sampled = self.turns[len(self.given) % len(self.turns)]
        self.given.append(list(prompt_ids))
        stop = "stop" if sampled[-1] in self.stop_ids else "length"
        return SampledTokens(list(sampled), [-0.5] * len(sampled), (VersionSpan(0, 0),), stop)

    async def score(self, token_ids: list[int]) -> list[float]:
        return [0.0] * len(token_ids)

    async def load_weights(self, path: str, version: int) -> None:
        self.version = version

    def close(self) -> None:
        pass


class Recorded:
    """Another engine, and what it was given and gave."""

    def __init__(self, engine: TokenEngine) -> None:
        self.engine = engine
        self.kind, self.version, self.max_model_len = engine.kind, engine.version, engine.max_model_len
        self.score, self.load_weights, self.close = engine.score, engine.load_weights, engine.close
        self.given: list[list[int]] = []
        self.turns: list[list[int]] = []

    async def generate(self, prompt_ids: list[int], sampling: Sampling) -> SampledTokens:
        self.given.append(list(prompt_ids))
        generation = await self.engine.generate(prompt_ids, sampling)
        self.turns.append(generation.token_ids)
        return generation


def play(
    engine: Any, chat: ChatFormat, task: Task = TASK, turns: int = 4, talk: Talk | None = None, **sampling: Any
) -> tuple[Episode, Talk]:
    talk = talk or Talk(turns)
    slot = Slot("r", None, task, task.task_id, task.prompt_id, 0)
    episode = asyncio.run(
        play_episode(talk, TokenPolicy(engine, chat, "w"), slot, Sampling(**sampling), max_turns=turns)
    )
    assert episode.rollout.status in ("completed", "truncated"), episode.rollout.error_message
    return episode, talk


def check_row(episode: Episode, given: list[list[int]], turns: Sequence[list[int]]) -> list[list[int]]:
    """The row's tokens are what the engine saw and sampled, and the mask tells the two apart. Returns what came between the turns."""
    row, prompt = episode.rollout.to_row(), episode.rollout.prompt_token_ids or []
    assert prompt == given[0] and row["prefix_ok"] is True
    stored = prompt + row["token_ids"]
    between, sampled = [], []
    for number, seen in enumerate(given):
        turn = turns[number % len(turns)]
        assert stored[: len(seen)] == seen, f"request {number} was given other tokens than the row holds"
        assert stored[len(seen) : len(seen) + len(turn)] == turn
        sampled += range(len(seen) - len(prompt), len(seen) - len(prompt) + len(turn))
        if number + 1 < len(given):
            between.append(given[number + 1][len(seen) + len(turn) :])
    assert [at for at, bit in enumerate(row["loss_mask"]) if bit] == sampled
    assert len(stored) == len(given[-1]) + len(turns[(len(given) - 1) % len(turns)])
    assert row["n_sampled_tokens"] == len(sampled) == len(row["logprobs"])
    return between


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return load_tokenizer(tiny_base)


@pytest.fixture(scope="module")
def chat_of(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Habit], ChatFormat]:
    """The tiny policy's chat format under a template of these habits, by way of a file."""
    made: dict[Habit, ChatFormat] = {}
    folder = tmp_path_factory.mktemp("templates")

    def chat(habit: Habit) -> ChatFormat:
        if habit not in made:
            file = folder / f"{len(made)}.jinja"
            file.write_text(habit.template())
            made[habit] = ChatFormat.of(tiny_base, ChatOptions(template=str(file)))
        return made[habit]

    return chat


def call(name: str, x: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{"x":  "{x}"}}}}\n</tool_call>'


def spelled(tokenizer: Any, text: str) -> list[int]:
    """The text sign by sign, so that a control token's text is not its token."""
    return [token for sign in text for token in tokenizer.encode(sign, add_special_tokens=False)]


def samples(tokenizer: Any) -> list[list[int]]:
    """Turns a policy might sample: thinking and parallel calls, white space, a look-alike end, a cut one, another stop token."""
    end, other = tokenizer.convert_tokens_to_ids([END, "<|endoftext|>"])

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    return [
        [*ids(f"<think>\nI look\n</think>\n\n{call('look', 'a')}\n{call('list', 'b')}"), end],
        [*ids("  spaces all around \n\n"), end],
        [*ids("<think>"), *spelled(tokenizer, f"what if {END}\n{END} ends"), *ids(f"</think>then {call('look', 'c')}"), end],
        ids(f"{call('list', 'd')}<tool_call>\n{{"),  # cut by the limit
        [*ids("another end"), other],
        [*spelled(tokenizer, f'say {END} and <tool_call>{{"name": "look", "arguments": {{"x": }}}}</tool_call>'), end],
        [end],
    ]  # fmt: skip


@pytest.mark.parametrize("task", [TASK, WITH_SYSTEM], ids=["no system", "system"])
@pytest.mark.parametrize("habit", HABITS.values(), ids=HABITS)
def test_a_row_holds_what_the_engine_saw(chat_of: Any, tokenizer: Any, habit: Habit, task: Task) -> None:
    chat, turns = chat_of(habit), samples(tokenizer)
    engine = Says(turns, chat.stop_token_ids)
    episode, talk = play(engine, chat, task, turns=2 * len(turns))
    between = check_row(episode, engine.given, turns)
    assert len(between) == 2 * len(turns) - 1
    for number, (ids, followers) in enumerate(zip(between, talk.followers, strict=True)):
        expected = habit.after_turn(followers, ["look", "list"])
        if turns[number % len(turns)][-1] in chat.stop_token_ids:
            expected = expected.removeprefix(END)
        assert chat.tokenizer.decode(ids) == expected


def test_what_a_turn_said_is_in_the_row(chat_of: Any, tokenizer: Any) -> None:
    chat, turns = chat_of(Habit()), samples(tokenizer)
    engine = Says(turns, chat.stop_token_ids)
    row = play(engine, chat, turns=len(turns), max_tokens=77, temperature=0.6, top_p=0.9, seed=5)[0].rollout.to_row()
    said = [message for message in row["messages"] if message["role"] == "assistant"]
    assert [one["reasoning"] for one in said] == ["I look", None, f"what if {END}\n{END} ends", *[None] * 4]
    assert [one["text"] for one in said[1:3]] == ["  spaces all around \n\n", "then"]
    calls = [[(made["id"], made["name"], made["arguments"]) for made in one["tool_calls"]] for one in said]
    assert calls[0] == [("call_0", "look", '{"x":  "a"}'), ("call_1", "list", '{"x":  "b"}')]
    assert calls[2:4] == [[("call_2", "look", '{"x":  "c"}')], [("call_3", "list", '{"x":  "d"}')]]
    assert calls[5] == [("call_4", "look", '{"x": }')]
    # One block cut off and one with broken arguments; the last turn was ended by its stop token.
    assert (row["n_parse_failures"], row["stop_reason"], row["n_tool_calls"]) == (2, "stop", 5)
    assert (row["temperature"], row["top_p"], row["max_tokens"], row["sampling_seed"]) == (0.6, 0.9, 77, 5)
    cut = play(Says(turns[3:4], chat.stop_token_ids), chat, turns=1)[0].rollout.to_row()
    assert (cut["status"], cut["stop_reason"], cut["n_parse_failures"]) == ("truncated", "length", 1)


def test_thinking_that_the_prompt_opened_is_reasoning(chat_of: Any, tokenizer: Any) -> None:
    chat = chat_of(Habit(opens_thinking=True))
    turns = [[*tokenizer.encode(f"I look\n</think>\n\n{call('look', 'a')}"), 2], tokenizer.encode("never done")]
    row = play(Says(turns, chat.stop_token_ids), chat, turns=2)[0].rollout.to_row()
    first, _, second = row["messages"]
    assert (first["reasoning"], first["text"], len(first["tool_calls"])) == ("I look", None, 1)
    assert (second["reasoning"], second["text"]) == ("never done", "")


def test_a_well_behaved_template_renders_the_very_trajectory(chat_of: Any, tokenizer: Any) -> None:
    chat = chat_of(Habit(merge=True))
    turns = [[*tokenizer.encode(text), 2] for text in (f"{call('look', 'a')}\n{call('list', 'b')}", "Done.")]
    episode, _ = play(Says(turns, chat.stop_token_ids), chat, turns=4)
    messages = episode.rollout.messages
    whole = chat.render([*TASK.messages, *messages], TOOLS, generation_prompt=False)
    assert whole == [
        *(episode.rollout.prompt_token_ids or []),
        *(episode.rollout.token_ids or []),
        *tokenizer.encode("\n"),
    ]


WORDS = st.sampled_from(["look", " ", "\n", END, "<think>", "</think>", "<tool_call>", "</tool_call>", "é", "Done.", "{", '"'])  # fmt: skip
TEXT = st.lists(WORDS, max_size=5).map("".join)
HABIT = st.builds(Habit, *[st.booleans()] * 6)
CALLS = st.lists(st.builds(call, st.sampled_from(["look", "list"]), st.sampled_from(["a", "b c"])), max_size=2).map("\n".join)  # fmt: skip
TURN = st.tuples(TEXT, CALLS, st.sampled_from([(2,), (0,), ()]))


@settings(max_examples=60, deadline=None)
@given(habit=HABIT, said=st.lists(TURN, min_size=1, max_size=5), results=st.lists(TEXT, min_size=1, max_size=4))
def test_any_conversation_under_any_template(chat_of: Any, tokenizer: Any, habit: Habit, said: Any, results: Any) -> None:  # fmt: skip
    chat = chat_of(habit)
    turns = [[*spelled(tokenizer, text), *tokenizer.encode(calls), *stop] or [5] for text, calls, stop in said]
    turns = [turn for turn in turns if turn] or [[2]]
    engine = Says(turns, chat.stop_token_ids)
    episode, talk = play(engine, chat, turns=len(turns) + 2, talk=Talk(len(turns) + 2, results))
    between = check_row(episode, engine.given, turns)
    for number, (ids, followers) in enumerate(zip(between, talk.followers, strict=True)):
        ended = turns[number % len(turns)][-1] in chat.stop_token_ids
        expected = habit.after_turn(followers, ["look", "list"])
        assert chat.tokenizer.decode(ids) == (expected.removeprefix(END) if ended else expected)


@pytest.mark.parametrize("name", ["strips earlier thinking", "all of it"])
def test_rows_of_the_torch_engine_too(tmp_path: Path, random_models: tuple[Path, Path], name: str) -> None:
    file = tmp_path / "template.jinja"
    file.write_text(HABITS[name].template())
    chat = ChatFormat.of(random_models[0], ChatOptions(template=str(file)))
    engine = Recorded(TorchEngine(random_models[0], 1500, stop_ids=chat.stop_token_ids))
    episode, _ = play(engine, chat, turns=3, max_tokens=12, seed=3, temperature=0.8)
    check_row(episode, engine.given, engine.turns)
    assert episode.rollout.template_hash == chat.template_hash != ChatFormat.of(random_models[0]).template_hash


def test_rows_of_the_vllm_engine_too(engine: Any, tiny_base: Path, chat_of: Any) -> None:
    asyncio.run(engine.load_weights(str(tiny_base), 0))
    chat = chat_of(HABITS["all of it"])
    for limit in (4, 40):  # turns that the limit cuts, and turns that mostly end
        recorded = Recorded(engine)
        episode, _ = play(recorded, chat, turns=4, max_tokens=limit, seed=1)
        check_row(episode, recorded.given, recorded.turns)
        ended = recorded.turns[-1][-1] in chat.stop_token_ids
        assert episode.rollout.stop_reason == ("stop" if ended else "length") and episode.rollout.max_tokens == limit


def test_settings_and_template_are_in_the_hash(tiny_base: Path, tmp_path: Path) -> None:
    file = tmp_path / "thinks.jinja"
    file.write_text(
        Habit().template() + "{%- if enable_thinking is false -%}{{ '<think>\n\n</think>\n\n' }}{%- endif -%}"
    )

    def hash_of(**options: Any) -> str:
        return ChatFormat.of(tiny_base, ChatOptions(template=str(file), **options)).template_hash

    hashes = {hash_of(), hash_of(enable_thinking=False), hash_of(enable_thinking=True), ChatFormat.of(tiny_base).template_hash}  # fmt: skip
    assert len(hashes) == 4
    assert hash_of(template_kwargs={"enable_thinking": False}) == hash_of(enable_thinking=False)
    options = ChatOptions(template=str(file), enable_thinking=False)
    assert differing(options) == {"template": str(file), "enable_thinking": False} and not differing(ChatOptions())
    assert content_hashes(options) == {"template": hashlib.sha256(file.read_bytes()).hexdigest()}
