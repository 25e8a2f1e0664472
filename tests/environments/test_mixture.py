"""Several environments in one: the shares of every prefix, and each task to the environment it is of."""

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.base.errors import ConfigError
from rollhouse.environments.config import EnvironmentSpec, EpisodeLimits
from rollhouse.environments.mixture import Mixture, interleave, limits_of, open_mixture
from rollhouse.environments.shaping import RewardShaping
from rollhouse.environments.types import Done
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.types import Turn
from rollhouse.store.messages import Message
from rollhouse.store.task import Score, Task


class Corner:
    """An environment of `n` tasks."""

    def __init__(self, name: str, n: int) -> None:
        self.name, self.n = name, n

    def tasks(self, split: str) -> list[Task]:
        return [Task(self.name, (Message("user", str(i)),), (), split=split) for i in range(self.n)]

    def start(self, task: Task) -> "CornerSession":
        return CornerSession(self.name)


class CornerSession:
    def __init__(self, name: str) -> None:
        self.of = name

    async def step(self, turn: Turn) -> Done:
        return Done()

    def verify(self) -> Score:
        return Score(1.0, True, self.of, "1")

    def close(self) -> None:
        pass


def mixture(*parts: tuple[str, int, float]) -> Mixture:
    return Mixture([(Corner(name, n), EnvironmentSpec(name=name, weight=weight)) for name, n, weight in parts])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=7), st.integers(1, 300))
def test_every_prefix_holds_each_by_its_share(weights: list[float], n: int) -> None:
    counts = [0] * len(weights)
    for length, turn in enumerate(islice(interleave(weights), n), start=1):
        counts[turn] += 1
        assert all(
            abs(count - length * weight / sum(weights)) < 1 + 1e-9
            for count, weight in zip(counts, weights, strict=True)
        )


def test_tasks_keep_their_names_and_order_and_sessions_are_their_own() -> None:
    mixed = mixture(("a", 100, 1), ("b", 100, 3))
    tasks = list(islice(mixed.tasks("train"), 40))
    assert [task.environment for task in tasks].count("a") == 10
    assert [task.messages[0].text for task in tasks if task.environment == "b"] == [str(i) for i in range(30)]
    assert tasks == list(islice(mixed.tasks("train"), 40))
    assert [mixed.start(task).of for task in tasks[:4]] == [task.environment for task in tasks[:4]]  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="of 'c', which is not mixed here"):
        mixed.start(Corner("c", 1).tasks("train")[0])


def test_it_ends_with_the_first_that_runs_out() -> None:
    counts = [task.environment for task in mixture(("a", 5, 1), ("b", 1000, 1)).tasks("train")]
    assert (counts.count("a"), counts.count("b")) == (5, 5)
    with pytest.raises(ConfigError, match="b has no task in split 'train'"):
        list(mixture(("a", 5, 1), ("b", 0, 1)).tasks("train"))


def test_a_recipe_opens_what_it_names() -> None:
    one = [EnvironmentSpec(name="workplace-mini", options={"n_train": 12})]
    alone = open_mixture(one, seed=1)
    assert isinstance(alone, MiniEnvironment) and len(list(alone.tasks("train"))) == 12
    own = {"reward": RewardShaping(scale=2), "limits": EpisodeLimits(max_turns=3)}
    shaped = open_mixture([one[0].model_copy(update=own)], seed=1)
    assert (
        isinstance(shaped, Mixture) and shaped.name == "workplace-mini" and shaped.shaping["workplace-mini"].scale == 2
    )
    assert list(shaped.tasks("train")) == list(alone.tasks("train"))
    task = next(iter(shaped.tasks("train")))
    assert limits_of(shaped, task).max_turns == 3 and limits_of(alone, task).max_turns is None
    with pytest.raises(ConfigError, match="stands twice"):
        open_mixture([*one, *one])
    with pytest.raises(ConfigError, match="No environment is named"):
        open_mixture([])
    with pytest.raises(ConfigError, match="There is no environment 'nowhere'"):
        open_mixture([EnvironmentSpec(name="nowhere")])
