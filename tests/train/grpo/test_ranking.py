"""GRPO whose rewards come from a judge that compares the rollouts of each group: what is stored, resumed, replayed and refused."""

import json
import re
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.collect.config import CollectConfig
from rollhouse.collect.job import load_tasks
from rollhouse.environments.mixture import open_mixture
from rollhouse.train.grpo.checks import refuse_ranked_without_groups
from rollhouse.train.grpo.original import changed_config, stored_config
from rollhouse.train.grpo.replay import replay

from ...environments.math.test_judge import endpoint


def judge(shown: str) -> str:
    """Grades attempts by their length."""
    attempts = re.findall(r"^(attempt-\d+):\n<<(\w+)\n(.*?)\n\2>>", shown, re.DOTALL | re.MULTILINE)
    scores = [{"name": name, "why": "length", "score": min(1.0, len(text) / 2000)} for name, _, text in attempts]
    return json.dumps({"scores": scores})


@pytest.mark.system
def test_groups_are_ranked_before_their_plan_and_a_resumed_run_asks_no_judge_again(
    prompt_store: Any, configure: Any, train_here: Any
) -> None:
    def config(url: str, steps: int) -> Any:
        rubric = {"judge": {"url": url, "retries": 0}, "compare": "group", "verifier_weight": 0.5}
        return configure(run="ranked", environment__rubric=rubric, grpo__max_num_steps=steps, grpo__num_prompts_per_step=2, grpo__num_generations_per_prompt=3)  # fmt: skip

    answers = iter([judge, judge, lambda _: "I cannot say.", judge])
    with endpoint(lambda shown: next(answers)(shown)) as server:
        train_here(config(server.url, 1))
        train_here(config(server.url, 2))
        assert len(server.asked) == 4, "one question a group, none again"
    rows = prompt_store.read("rollouts", ["rollout_id", "group_id", "step", "reward"], "run_id = 'ranked'").to_pylist()
    scores = {row["rollout_id"]: row["reward"] for row in prompt_store.read("scores").to_pylist() if row["scorer"] == "rubric-group"}  # fmt: skip
    plans = {row["step"]: row for row in prompt_store.read("batch_plans", filter="run_id = 'ranked'").to_pylist()}
    for row in rows:
        (entry,) = [entry for entry in plans[row["step"]]["entries"] if entry["rollout_id"] == row["rollout_id"]]
        if row["rollout_id"] in scores:
            assert entry["reward"] == pytest.approx(0.5 * row["reward"] + scores[row["rollout_id"]], abs=1e-6)
        else:
            assert entry["reason"] == "no reward" and row["reward"] is not None, "its group has no verdict of the judge"
    failed = {row["group_id"] for row in rows if row["rollout_id"] not in scores}
    assert len(failed) == 1 and len(scores) == 9
    numbers = {(row["step"], row["name"]): row["value"] for row in prompt_store.read("metrics", filter="run_id = 'ranked'").to_pylist()}  # fmt: skip
    assert [numbers[step, "rubric/ranked"] for step in (1, 2)] == [6, 3] and numbers[2, "rubric/failed"] == 3

    assert replay(prompt_store, "ranked").identical is True
    # A plan that is made again has the same rewards, without a judge.
    anew = replay(
        prompt_store, "ranked", changed_config(stored_config(prompt_store, "ranked"), ["grpo.normalize_rewards=false"])
    )
    made = {
        row["step"]: row for row in prompt_store.read("batch_plans", filter=f"run_id = '{anew.replay}'").to_pylist()
    }
    assert anew.plans == "made anew"
    for step, plan in plans.items():
        before = {entry["rollout_id"]: entry["reward"] for entry in plan["entries"]}
        assert {entry["rollout_id"]: entry["reward"] for entry in made[step]["entries"]} == before


def test_where_groups_are_not_compared_such_a_rubric_is_refused(configure: Any) -> None:
    rubric = {"judge": {"url": "http://127.0.0.1:9/v1"}, "compare": "group"}
    settings = {"environment": {"name": "workplace-mini", "rubric": rubric}, "policy": {"engine": "scripted"}}
    with pytest.raises(ConfigError, match="compares the rollouts of a group while a run trains"):
        load_tasks(CollectConfig.model_validate(settings))
    config = configure(environment__rubric=rubric, environment__name="workplace-mini", grpo__use_dynamic_sampling=True)
    with pytest.raises(ConfigError, match=r"does not go with grpo\.use_dynamic_sampling"):
        refuse_ranked_without_groups(config, open_mixture(config.environment.specs()))
