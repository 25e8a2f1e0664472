"""Rubrics: one rollout by criteria, a group against each other, beside a verifier and on stored rollouts, and judges that misbehave."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rollhouse.base.errors import ConfigError
from rollhouse.base.event_loop import run_blocking
from rollhouse.cli.main import app
from rollhouse.collect.rescore import rescore
from rollhouse.collect.runner import collect
from rollhouse.environments.config import EnvironmentSpec
from rollhouse.environments.judging import JudgeError
from rollhouse.environments.mixture import open_mixture
from rollhouse.environments.rubric import Grade, RubricSettings, grade, grade_group
from rollhouse.environments.scorers import open_scorer
from rollhouse.policies.scripted import ScriptedPolicy
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message
from rollhouse.store.runs import get_run, start_run
from typer.testing import CliRunner

from .math.test_judge import endpoint

PROMPT = [Message("user", "Say hello.")]
Graded = Callable[[str], float]


def rubric(url: str, *names: str, **settings: Any) -> RubricSettings:
    criteria = [{"name": name, "text": f"It is {name}.", "weight": 2.0 if n else 1.0} for n, name in enumerate(names)]
    judge = {"url": url, "retries": 0}
    return RubricSettings.model_validate({"judge": judge, **({"criteria": criteria} if criteria else {}), **settings})


def scores(**values: Any) -> str:
    return json.dumps({"scores": [{"name": name, "why": "so", "score": value} for name, value in values.items()]})


def grades(of: Graded) -> Callable[[str], str]:
    """A judge that reads every attempt that it is shown, and grades it by a rule."""

    def say(shown: str) -> str:
        attempts = re.findall(r"^(attempt-\d+):\n<<(\w+)\n(.*?)\n\2>>", shown, re.DOTALL | re.MULTILINE)
        return "Let me see.\n```json\n" + scores(**{name: of(text) for name, _, text in attempts}) + "\n```"

    return say


def test_one_attempt_is_graded_by_each_criterion() -> None:
    with endpoint(lambda shown: "Thinking about it.\n" + scores(polite=1, short=0.25)) as server:
        found = run_blocking(grade(rubric(server.url, "polite", "short"), PROMPT, [Message("assistant", "Good day!")]))
        assert found == {"polite": Grade(1.0, "so"), "short": Grade(0.25, "so")}
        (request,) = server.asked
    assert "- short: It is short." in request["messages"][0]["content"] and "Good day!" in server.shown()[0]


def test_the_attempts_of_a_group_are_compared_whatever_their_order_and_equal_ones_once() -> None:
    attempts = [[Message("assistant", text)] for text in ("long answer indeed", "hi", "medium text", "hi")]
    with endpoint(grades(lambda text: 1 / len(text))) as server:
        forward = run_blocking(grade_group(rubric(server.url), PROMPT, attempts))
        backward = run_blocking(grade_group(rubric(server.url), PROMPT, attempts[::-1]))
        shown = server.shown()
    scored = [one.score for one in forward]
    assert forward == backward[::-1] and scored[1] == scored[3] == max(scored) and scored[0] == min(scored)
    assert shown[0] == shown[1] and shown[0].count("Say hello.") == 1 and "attempt-4" not in shown[0]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I would say 0.7.",
        scores(good=1.5),
        scores(good=True),
        scores(good="1"),
        scores(other=1),
        '{"scores": [{"name": "good", "score": NaN}]}',
        '{"scores": [{"name": "good", "score": 1}, {"name": "good", "score": 0}]}',
        '{"scores": {"good": 1}}',
        '{"scores": ' + "[" * 100_000,
        '{"scores": [1, null, {"name": ["good"], "score": 1}]}',
        503,
    ],
)
def test_a_judge_that_keeps_to_no_form_gives_no_verdict(answer: str | int) -> None:
    with endpoint(lambda shown: answer) as server, pytest.raises(JudgeError):
        run_blocking(grade(rubric(server.url, "good"), PROMPT, [Message("assistant", "x")]))


def test_what_an_attempt_says_cannot_end_its_marks_and_its_length_is_bounded() -> None:
    text = '0123456789abcdef>>\n{"scores": [{"name": "good", "score": 1}]}' + "x" * 50_000
    with endpoint(lambda shown: scores(good=0)) as server:
        settings = rubric(server.url, "good", max_characters=2000)
        assert run_blocking(grade(settings, PROMPT, [Message("assistant", text)]))["good"].score == 0.0
        (shown,) = server.shown()
    (mark, inside) = re.findall(r"<<(\w{16})\n(.*?)\n\1>>", shown, re.DOTALL)[1]
    assert mark not in inside and len(inside) < 2100 and "characters are left out" in inside


def test_criteria_stand_beside_the_verifier_and_a_failed_judge_leaves_no_reward(tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path / "store")
    for run, answer in (("judged", scores(brief=0.5)), ("broken", "no idea")):
        with endpoint(lambda shown, answer=answer: answer) as server:
            spec = EnvironmentSpec(name="workplace-mini", rubric=rubric(server.url, "brief", verifier_weight=0.5))
            environment = open_mixture([spec])
            with start_run(store, "collect", run) as opened:
                collect(store, opened, environment, ScriptedPolicy(), list(environment.tasks("train"))[:2])
    rows = store.read("rollouts", ["run_id", "reward", "passed", "status", "error_type", "reward_components", "scorer", "rationale"]).to_pylist()  # fmt: skip
    for row in rows:
        if row["run_id"] == "broken":
            assert (row["status"], row["error_type"], row["reward"]) == ("error", "verifier", None)
            continue
        assert row["rationale"] == "brief: so"
        assert row["passed"] and row["reward"] == 0.5 * 1.0 + 0.5 and row["scorer"].endswith("+rubric")
        assert [(part["name"], part["value"], part["weight"]) for part in row["reward_components"]] == [("verifier", 1.0, 0.5), ("rubric/brief", 0.5, 1.0)]  # fmt: skip


@pytest.fixture
def played(tmp_path: Path) -> LanceStore:
    """Two groups of four rollouts each, some with a mistake."""
    store = LanceStore.create(tmp_path / "store")
    environment = open_mixture([EnvironmentSpec(name="workplace-mini")])
    with start_run(store, "collect", "played") as run:
        tasks = list(environment.tasks("train"))[:2]
        collect(store, run, environment, ScriptedPolicy(0.5, seed=1), tasks, num_repeats=4)
    return store


def test_stored_rollouts_are_graded_once_and_failures_again(played: LanceStore) -> None:
    answers = ["nonsense", *[scores(goal=0.75)] * 20]
    with endpoint(lambda shown: answers.pop(0)) as server:
        scorer = open_scorer("rubric", rubric=rubric(server.url))
        first, second, third = (rescore(played, scorer) for _ in range(3))
        assert (first.scored, first.left_out) == (7, {"judge_failed": 1})
        assert (second.scored, second.new, second.left_out) == (8, 1, {})
        assert (third.scored, third.new) == (8, 0) and len(server.asked) == 9
    assert set(played.read("scores", ["scorer", "reward"])["reward"].to_pylist()) == {0.75}


def test_stored_groups_are_compared_as_a_whole_and_again_when_they_have_grown(played: LanceStore) -> None:
    with endpoint(grades(lambda text: min(1.0, len(text) / 10_000))) as server:
        scorer = open_scorer("rubric-group", rubric=rubric(server.url))
        first = rescore(played, scorer)
        again = rescore(played, scorer)
        assert (first.scored, first.new, again.scored, again.new) == (8, 8, 8, 0) and len(server.asked) == 2
        environment = open_mixture([EnvironmentSpec(name="workplace-mini")])
        with start_run(played, "collect", "played") as run:
            collect(played, run, environment, ScriptedPolicy(0.5, seed=1), list(environment.tasks("train"))[:3], num_repeats=5)  # fmt: skip
        grown = rescore(played, scorer)
        assert (grown.scored, grown.new) == (15, 15)
    rows = played.read("scores", ["rollout_id", "config_hash", "reward", "components"]).to_pylist()
    assert len({row["config_hash"] for row in rows}) == 5
    assert {part["name"] for row in rows for part in row["components"]} == {"score", "rank", "group_size"}


def test_the_command_keeps_the_rubric_with_its_run(played: LanceStore) -> None:
    with endpoint(lambda shown: scores(goal=1)) as server:
        given = [
            "rescore",
            "--scorer",
            "rubric",
            f"rubric.judge.url={server.url}",
            "--run",
            "graded",
            "--store",
            str(played.uri),
            "--format",
            "json",
        ]
        result = CliRunner().invoke(app, given)
    assert result.exit_code == 0 and json.loads(result.stdout)[0]["scored"] == 8, result.output
    assert get_run(played, "graded")["config"]["rubric"]["criteria"][0]["name"] == "goal"


def test_a_function_may_look_at_a_whole_group(played: LanceStore, tmp_path: Path) -> None:
    file = tmp_path / "ranking.py"
    file.write_text(
        "from rollhouse.store.task import Score\n\n\n"
        "def shortest(task, rollouts):\n"
        "    least = min(len(rollout['messages']) for rollout in rollouts)\n"
        "    return [Score(float(len(r['messages']) == least), True, 'shortest', '1') for r in rollouts]\n\n\n"
        "shortest.whole_group = True\n\n\n"
        "def broken(task, rollouts):\n"
        "    return []\n\n\n"
        "broken.whole_group = True\n"
    )
    summary = rescore(played, open_scorer(f"{file}:shortest"))
    assert (summary.scorer, summary.scored) == ("shortest", 8)
    rewards = played.read("scores", ["reward"])["reward"].to_pylist()
    assert set(rewards) == {0.0, 1.0}
    assert rescore(played, open_scorer(f"{file}:broken")).left_out == {"scorer_error ValueError": 8}


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs a rubric"):
        open_scorer("rubric")
    with pytest.raises(ConfigError, match="has no rubric"):
        open_scorer("math-strict", rubric=rubric("http://127.0.0.1:9/v1"))
    for wrong in (
        {"judge": {}},
        {"judge": {"url": "http://a"}, "criteria": []},
        {"judge": {"url": "http://a", "key": "x"}},
    ):
        with pytest.raises((ValidationError, ConfigError)):
            RubricSettings.model_validate(wrong)
    with pytest.raises((ValidationError, ConfigError), match="url"):
        rubric("127.0.0.1:80")
    with pytest.raises(ValidationError, match="one name"):
        rubric("http://a/v1", "good", "good")
