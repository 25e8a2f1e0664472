"""Typed functions as tools: their schemas, the arguments they take, and sessions that nothing can stall."""

import asyncio
import json
import math
import threading
import time
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field
from rollhouse.base import threads
from rollhouse.base.errors import ConfigError
from rollhouse.collect.episode import Slot
from rollhouse.environments.tools import ToolSession, schema_of, tool_session
from rollhouse.environments.typed_tools import ArgumentsError, as_text, typed_tool
from rollhouse.environments.types import Done
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.task import Score, Task
from rollhouse.tests.episodes import run_episode


@dataclass
class Guest:
    name: str
    title: str = ""


class Hotel:
    """Tools as methods."""

    def __init__(self) -> None:
        self.rooms: dict[int, str] = {}

    def book(self, room: int, guests: list[Guest], kind: Literal["day", "night"] = "night", schema: str | None = None) -> str:  # fmt: skip
        """Books a room
        for guests.

        Args:
            room: Its number,
                as on the door.
            guests: Who comes.

        Returns:
            A sentence.
        """
        self.rooms[room] = guests[0].name
        return f"{kind} for {len(guests)}"

    def free(self, room: Annotated[int, Field(description="Its number.", ge=1)]) -> dict[str, Any]:
        """Frees a room."""
        return {"freed": self.rooms.pop(room), "on": date(2024, 5, 1), "share": math.nan}


def passed(session: ToolSession) -> Score:
    return Score(1.0, True, "t", "1")


def test_a_schema_from_annotations_and_docstring() -> None:
    function = schema_of(Hotel.book)["function"]
    assert (function["name"], function["description"]) == ("book", "Books a room for guests.")
    parameters = function["parameters"]
    assert list(parameters["properties"]) == ["room", "guests", "kind", "schema"]
    assert parameters["properties"]["room"] == {"description": "Its number, as on the door.", "type": "integer"}
    assert parameters["properties"]["kind"] == {"default": "night", "enum": ["day", "night"], "type": "string"}
    assert parameters["required"] == ["room", "guests"] and parameters["additionalProperties"] is False
    assert set(parameters["$defs"]["Guest"]["properties"]) == {"name", "title"}
    room = schema_of(Hotel().free)["function"]["parameters"]["properties"]["room"]
    assert room == {"description": "Its number.", "minimum": 1, "type": "integer"}
    assert typed_tool(Hotel().free) is typed_tool(Hotel.free)


def test_arguments_are_checked_and_given_as_the_types_say() -> None:
    tool = typed_tool(Hotel.book)
    assert tool.check({"room": "7", "guests": [{"name": "Bo"}]}) == {"room": 7, "guests": [Guest("Bo")]}
    for wrong, output in (
        ({"room": "x", "guests": []}, "room: "),
        ({"guests": []}, "room: Field required"),
        ({"room": 1, "guests": [], "floor": 2}, "floor: "),
        ([1], "not an object"),
    ):
        with pytest.raises(ArgumentsError, match=output):
            tool.check(wrong)


def test_results_are_text_or_json() -> None:
    assert as_text("half \ud800") == "half ?"  # no table holds half a character
    assert as_text("as it is") == "as it is"
    assert json.loads(as_text([Guest("Bo"), None, date(2024, 5, 1), math.inf])) == [
        {"name": "Bo", "title": ""},
        None,
        "2024-05-01",
        None,
    ]


def untyped(x) -> str:  # type: ignore[no-untyped-def]
    """Doc."""
    return x


def undocumented(x: int) -> int:
    return x


def greedy(*x: int) -> int:
    """Doc."""
    return len(x)


def odd(x: threading.Thread) -> int:
    """Doc."""
    return 1


@pytest.mark.parametrize(
    ("function", "output"),
    [
        (untyped, "Parameter x of tool untyped has no type"),
        (undocumented, "Tool undocumented has no docstring"),
        (greedy, "Parameter x of tool greedy"),
        (odd, "Tool odd has a parameter that JSON cannot express"),
        (3, "3 is not a tool"),
    ],
)
def test_what_cannot_be_a_tool_is_refused(function: Any, output: str) -> None:
    with pytest.raises(ConfigError, match=output):
        schema_of(function)


def step(session: ToolSession, *calls: tuple[str, Any], text: str | None = None) -> Any:
    made = tuple(ToolCall(f"c{i}", name, json.dumps(arguments)) for i, (name, arguments) in enumerate(calls))
    return asyncio.run(session.step(Turn(Message("assistant", text, made))))  # type: ignore[arg-type]


def test_a_session_over_methods() -> None:
    hotel = Hotel()
    session = tool_session([hotel.book, hotel.free], passed)
    answers = step(session, ("book", {"room": 3, "guests": [{"name": "Bo"}]}), ("free", {"room": 3}), ("free", {"room": 3}))  # fmt: skip
    assert answers[0].text == "night for 1"
    assert json.loads(answers[1].text) == {"freed": "Bo", "on": "2024-05-01", "share": None}
    assert answers[2].text == "Error: 3"
    [unknown, wrong] = step(session, ("fly", {}), ("free", {"room": 0}))
    assert unknown.text == "Error: there is no tool 'fly'; there are book, free"
    assert wrong.text.startswith("Error: invalid arguments: room: ")
    assert session.n_tool_errors == 3 and {"book", "free"} <= session.tool_seconds.keys()
    assert step(session, text="Good night.") == Done("stop") and session.answer == "Good night."
    with pytest.raises(ConfigError, match="Two tools are called book"):
        tool_session([hotel.book, Hotel().book], passed)


class Slow:
    """Tools that wait, for ever where they can."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.release = threading.Event()

    def spin(self) -> str:
        """Never ends, in Python."""
        self.running.add("spin")
        try:
            while True:
                pass
        finally:
            self.running.discard("spin")

    def wait(self) -> str:
        """Waits outside Python."""
        self.release.wait(30)
        return "late"

    async def sleep(self) -> str:
        """Sleeps on the loop."""
        await asyncio.sleep(30)
        return "late"

    def leave(self) -> str:
        """Ends the process, it thinks."""
        raise SystemExit(3)

    def quick(self) -> str:
        """Answers."""
        return "here"


class Plays:
    """A policy that calls these tools at once, then stops."""

    engine, policy_id, token_identity, version = "scripted", "plays", None, 0

    def __init__(self, *tools: str) -> None:
        self.calls = tuple(ToolCall(f"c{i}", tool, "{}") for i, tool in enumerate(tools))

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        return Turn(Message("assistant", "Done.") if conversation.messages else Message("assistant", None, self.calls))


class Place:
    name = "place"

    def __init__(self, **options: Any) -> None:
        self.slow, self.options = Slow(), options
        self.verify: Any = options.pop("verify", passed)

    def tasks(self, split: str) -> list[Task]:
        return [Task("place", (Message("user", "go"),), ())]

    def start(self, task: Task) -> ToolSession:
        tools = [self.slow.spin, self.slow.wait, self.slow.sleep, self.slow.leave, self.slow.quick]
        return tool_session(tools, self.verify, **self.options)


def play(environment: Any, policy: Any, **limits: float) -> dict[str, Any]:
    [task] = environment.tasks("train")
    slot = Slot("run", None, task, task.task_id, task.prompt_id, 0)
    return asyncio.run(run_episode(environment, policy, slot, Sampling(), **limits))  # type: ignore[arg-type]


def test_a_tool_that_never_ends_costs_one_error() -> None:
    place = Place()
    row = play(place, Plays("spin", "wait", "sleep", "leave", "quick"), tool_limit_s=0.2)
    place.slow.release.set()
    assert (row["status"], row["reward"], row["n_tool_errors"]) == ("completed", 1.0, 4)
    outputs = [message["text"] for message in row["messages"] if message["role"] == "tool"]
    assert outputs[:3] == [f"Error: {name} took longer than 0.2 s" for name in ("spin", "wait", "sleep")]
    assert outputs[3:] == ["Error: 3", "here"]
    deadline = time.monotonic() + 20
    while "spin" in place.slow.running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "spin" not in place.slow.running  # the thread was stopped, it does not spin on beside the others


class Rude:
    """Async tools that hold their loop, and tools that raise what ends runs."""

    async def spin(self) -> str:
        """Never lets the loop go."""
        while True:
            pass

    async def nap(self) -> str:
        """Waits without awaiting."""
        time.sleep(5)
        return "late"

    async def cancel(self) -> str:
        """Raises what a time limit raises."""
        raise asyncio.CancelledError

    async def interrupt(self) -> str:
        """Raises Ctrl-C on the loop."""
        raise KeyboardInterrupt

    def leave(self) -> str:
        """Raises what closes generators, in a thread."""
        raise GeneratorExit

    async def good(self) -> str:
        """Works."""
        await asyncio.sleep(0)
        return "here"

    def tasks(self, split: str) -> list[Task]:
        return [Task("rude", (Message("user", "Go on."),), ())]

    def start(self, task: Task) -> Any:
        tools = [self.spin, self.nap, self.cancel, self.interrupt, self.leave, self.good]
        return tool_session(tools, lambda session: Score(1.0, True, "rude", "1"))


def test_async_tools_that_hold_the_loop_or_raise_what_ends_runs_cost_an_error_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "_HELD_S", 0.1)
    output = ("cancel", "interrupt", "leave", "spin", "good", "nap", "good", "good")
    row = play(Rude(), Plays(*output), tool_limit_s=0.7, max_turns=10)
    assert (row["status"], row["reward"], row["n_tool_errors"]) == ("completed", 1.0, 6)
    outputs = [message["text"] for message in row["messages"] if message["role"] == "tool"]
    assert outputs[:3] == ["Error: CancelledError:", "Error: KeyboardInterrupt:", "Error: GeneratorExit:"]
    assert outputs[3:5] == ["Error: spin took longer than 0.7 s", "here"]
    # What is asked while the loop is held by native code waits in vain; then there is another loop.
    assert outputs[5:] == [*(f"Error: {name} took longer than 0.7 s" for name in ("nap", "good")), "here"]


def test_the_rollouts_own_limit_ends_it_too() -> None:
    row = play(Place(), Plays("spin"), time_limit_s=0.3)
    assert (row["status"], row["reward"]) == ("timeout", None)


def test_an_exception_declared_fatal_fails_the_rollout() -> None:
    place = Place(fatal=(LookupError,))
    place.slow.quick = type("Broken", (), {"__call__": None})  # type: ignore[method-assign,assignment]

    def quick() -> str:
        """Answers."""
        raise KeyError("the database is gone")

    place.slow.quick = quick  # type: ignore[method-assign]
    row = play(place, Plays("quick"))
    assert (row["status"], row["error_type"], row["reward"]) == ("error", "environment", None)
    assert "the database is gone" in row["error_message"]


def broken(session: ToolSession) -> Score:
    raise ZeroDivisionError("no verdict")


def no_score(session: ToolSession) -> Any:
    return True


@pytest.mark.parametrize(
    ("verify", "output"), [(broken, "no verdict"), (no_score, "verify returned a bool, not a Score")]
)
def test_a_verifier_that_fails_is_an_error_row(verify: Any, output: str) -> None:
    for inline in (False, True):
        row = play(Place(verify=verify, inline=inline), Plays("quick"))
        assert (row["status"], row["error_type"], row["reward"]) == ("error", "verifier", None)
        assert output in row["error_message"]


async def later(session: ToolSession) -> Score:
    return Score(0.5, False, "t", "1", (("calls", float(len(session.calls)), 1.0),))


def test_an_async_verifier_and_sync_code_on_the_loop() -> None:
    place = Place(verify=later, inline=True)
    seen: list[str] = []

    def quick() -> str:
        """Answers."""
        seen.append(threading.current_thread().name)
        return "here"

    place.slow.quick = quick  # type: ignore[method-assign]
    assert play(place, Plays("quick"))["reward"] == 0.5
    assert seen == [threading.current_thread().name]
