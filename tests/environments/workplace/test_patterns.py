"""Regular expressions that a policy sends: the matcher's own results, and a time limit for those that would run for years."""

import asyncio
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.environments.types import Done
from rollhouse.environments.workplace import WorkplaceEnvironment
from rollhouse.environments.workplace import patterns as patterns_module
from rollhouse.environments.workplace.matcher.matching import match
from rollhouse.environments.workplace.patterns import find_pattern, is_quick, may_wait
from rollhouse.policies.types import Turn
from rollhouse.store.messages import Message, ToolCall

TEXTS = ["Harbour walk", "Budget talk (draft)", "a" * 30 + "!", ""]
HOSTILE = ["(a+)+$", "(a|a)*$", "(a|aa)+$", r"(a*)*\1b", "^(([a-z])+.)+[A-Z]$", "(?:a?){30}a{30}b"]
PLAIN = ["harbour", "walk|talk", "bud.et", "^harbour", r"\(draft\)", "[hb]", "t.*k", "(walk|talk)", "a{3}"]


@pytest.mark.parametrize("pattern", PLAIN)
def test_a_plain_pattern_is_matched_at_once(pattern: str) -> None:
    assert is_quick(pattern, TEXTS)
    assert find_pattern(pattern, TEXTS) == [re.search(pattern, text, re.IGNORECASE) is not None for text in TEXTS]


@pytest.mark.parametrize("pattern", [*HOSTILE, "a*a*a*a*a*a*b", "x" * 2000, "(?P<n>a)(?P=n)", "(a)?(?(1)b|c)"])
def test_a_doubtful_pattern_is_not(pattern: str) -> None:
    assert not is_quick(pattern, TEXTS)


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@settings(deadline=None)
@given(st.text(alphabet="ab(|)?*+{2}\\1[]^$.", max_size=12))
def test_both_ways_give_the_same_answer(pattern: str) -> None:
    texts = ["", "ab", "aabb1", "(a)"]
    try:
        re.compile(pattern)
        expected = [re.search(pattern, text, re.IGNORECASE) is not None for text in texts]
    except (re.error, OverflowError) as error:
        expected = str(error)
    assert match(pattern, texts) == expected
    if is_quick(pattern, texts):
        try:
            assert find_pattern(pattern, texts) == expected
        except (re.error, OverflowError) as error:
            assert str(error) == expected


def test_the_worker_matches_as_this_process_does() -> None:
    assert find_pattern("(wa|ta)*lk", TEXTS) == [True, True, False, False]
    assert find_pattern("(é|ß)+", ["STRASSE", "É", "\ud800"]) == [False, True, False]
    with pytest.raises(re.error, match="invalid group reference 2 at position 1"):
        find_pattern(r"\2(a)+", TEXTS)


def create_and_search(environment: WorkplaceEnvironment, name: str, query: str) -> tuple[Any, float]:
    """What the search answers, and the slowest call in seconds, while another session goes on."""
    session, other = (environment.start(next(iter(environment.tasks("train")))) for _ in range(2))
    event = {"event_name": name, "participant_email": "a@b.c", "event_start": "2023-12-02", "duration": "30"}

    async def work() -> str:
        await session.step(turn("calendar_create_event", event))
        searching = asyncio.create_task(session.step(turn("calendar_search_events", {"query": query})))
        await asyncio.sleep(0)
        others = 0
        while not searching.done():
            await other.step(turn("email_search_emails", {"query": "harbour"}))
            await asyncio.sleep(0.001)
            others += 1
        found = await searching
        # A worker that is there already may be done before the other session's second step.
        assert others > 1 or session.tool_seconds["calendar_search_events"] < 0.1
        assert not isinstance(found, Done)
        return found[0].text or ""

    answer = asyncio.run(work())
    return json.loads(answer)["output"], session.tool_seconds["calendar_search_events"]


def turn(name: str, arguments: dict[str, str]) -> Turn:
    return Turn(Message("assistant", tool_calls=(ToolCall("c", name, json.dumps(arguments)),)))


def test_a_hostile_pattern_gets_an_error_and_stalls_no_other_session(
    environment: WorkplaceEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns_module, "LIMIT_S", 0.3)
    output, seconds = create_and_search(environment, "a" * 60 + "!", "(a+)+$")
    assert output == "Error executing tool 'calendar_search_events': matching the pattern took longer than 0.3 s"
    assert seconds >= 0.3
    # The second time it is refused without another try.
    monkeypatch.setattr(patterns_module, "_matchers", None)
    with pytest.raises(TimeoutError):
        find_pattern("(a+)+$", event_names(environment, "a" * 60 + "!"))


def event_names(environment: WorkplaceEnvironment, *more: str) -> list[str]:
    return [*environment.office.events.cells("event_name"), *more]


def test_a_harmless_doubtful_pattern_is_answered(environment: WorkplaceEnvironment) -> None:
    found, _ = create_and_search(environment, "aaa", "^(a+)+$")
    assert isinstance(found, dict) and found["events"][0]["event_name"] == "aaa"


def test_only_what_could_start_a_process_waits() -> None:
    assert may_wait({"query": "(a+)+"}) and may_wait({"query": "a" * 2000}) and may_wait({"a": 1, "b": "x*"})
    assert not may_wait({"query": "carlos.rodriguez", "time_min": "2023-11-30 10:00:00", "page": 2, "x": None})
