"""Several environments as one, their tasks interleaved by weight."""

import math
from collections.abc import Awaitable, Iterator, Sequence
from fractions import Fraction

from ..base.errors import ConfigError
from ..store.task import Task
from .config import EnvironmentSpec, EpisodeLimits
from .harness import HarnessSettings
from .judged import JudgedEnvironment
from .registry import load_environment
from .rubric import RubricSettings
from .shaping import RewardShaping
from .types import Environment, Session

_NO_LIMITS = EpisodeLimits()


class Mixture:
    """Environments whose tasks are interleaved by weight.

    Attributes:
        name: `mixture`; of one environment, its own.
        environments: By the name in tasks and rollouts, in the order of the recipe.
        weights: Share of the tasks relative to the others, by the same names.
        shaping: How rewards of each are shaped, by the same names.
        limits: Limits of the rollouts of each, by the same names.
        harnesses: The harness of each, by the same names.
        rubrics: The rubric of each, by the same names.
    """

    def __init__(self, parts: Sequence[tuple[Environment, EnvironmentSpec]]) -> None:
        """Each environment with its settings. Raises ConfigError when two have one name."""
        self.environments: dict[str, Environment] = {}
        self.weights: dict[str, float] = {}
        self.shaping: dict[str, RewardShaping] = {}
        self.limits: dict[str, EpisodeLimits] = {}
        self.harnesses: dict[str, HarnessSettings] = {}
        self.rubrics: dict[str, RubricSettings | None] = {}
        for environment, spec in parts:
            name = environment.name
            if name in self.environments:
                raise ConfigError(
                    f"The environment {name!r} stands twice in the mixture.",
                    "Merge its tasks files with `rollhouse tasks prepare`, or give one class another name.",
                )
            self.environments[name], self.harnesses[name], self.rubrics[name] = environment, spec.harness, spec.rubric
            self.weights[name], self.shaping[name], self.limits[name] = spec.weight, spec.reward, spec.limits
        self.name = next(iter(self.environments)) if len(self.environments) == 1 else "mixture"

    def tasks(self, split: str) -> Iterator[Task]:
        """The tasks of all, interleaved: of the first n, each environment has n times its share of the weights, within one.

        Ends when the next environment has no task left, so that the shares hold. Raises ConfigError for an environment without tasks.
        """
        if len(self.environments) == 1:
            yield from self.environments[self.name].tasks(split)
            return
        waiting = [iter(environment.tasks(split)) for environment in self.environments.values()]
        names = list(self.environments)
        taken = [0] * len(names)
        for turn in interleave(list(self.weights.values())):
            task = next(waiting[turn], None)
            if task is None:
                if not taken[turn]:
                    raise ConfigError(
                        f"{names[turn]} has no task in split {split!r}, so it cannot be mixed.",
                        "Remove it, or name the split of its tasks file with tasks_split.",
                    )
                return
            taken[turn] += 1
            yield task

    def start(self, task: Task) -> Session | Awaitable[Session]:
        """A session of the task's environment. Raises ConfigError for an unknown environment."""
        if task.environment not in self.environments:
            known = ", ".join(self.environments)
            raise ConfigError(f"A task is of {task.environment!r}, which is not mixed here.", f"Mixed are {known}.")
        return self.environments[task.environment].start(task)


def open_mixture(specs: Sequence[EnvironmentSpec], seed: int | None = 0) -> Environment:
    """The environment of one spec without settings of a mixture (limits, reward shaping, harness, a rubric that compares groups), else a Mixture.

    Args:
        seed: Seed of generated tasks; None is 0.

    Raises ConfigError for no spec, an unknown name or two environments of one name.
    """
    if not specs:
        raise ConfigError("No environment is named.", "Name one with --env, or several under environment.mixture.")
    opened = [_open(spec, seed) for spec in specs]
    compared = specs[0].rubric is not None and specs[0].rubric.compare == "group"
    plain = specs[0].limits == _NO_LIMITS and specs[0].reward.changes_nothing and not specs[0].harness.chosen
    plain = plain and not compared
    if len(opened) == 1 and plain:
        return opened[0]
    return Mixture(list(zip(opened, specs, strict=True)))


def _open(spec: EnvironmentSpec, seed: int | None) -> Environment:
    environment = load_environment(spec.name, spec.tables, spec.tasks, seed, spec.tasks_split, **spec.options)
    if spec.rubric is None or spec.rubric.compare == "group":
        return environment
    return JudgedEnvironment(environment, spec.rubric)


def parts_of(environment: Environment) -> dict[str, Environment]:
    """The environments of a mixture by name, or the one environment."""
    return environment.environments if isinstance(environment, Mixture) else {environment.name: environment}


def group_rubrics(environment: Environment) -> dict[str, RubricSettings]:
    """The rubrics that compare the rollouts of a group, by `Task.environment`."""
    rubrics = environment.rubrics if isinstance(environment, Mixture) else {}
    return {name: rubric for name, rubric in rubrics.items() if rubric is not None and rubric.compare == "group"}


def refuse_group_rubrics(environment: Environment) -> None:
    """Raises ConfigError for a rubric that compares groups, where rollouts are not taken by groups."""
    if group_rubrics(environment):
        raise ConfigError(
            "rubric.compare=group compares the rollouts of a group while a run trains on them.",
            "Set compare=each, or compare stored groups with `rollhouse rescore --scorer rubric-group`.",
        )


def harnesses_of(environment: Environment) -> dict[str, HarnessSettings]:
    """The harnesses that play tasks, by `Task.environment`; environments that the agent loop plays have none."""
    harnesses = environment.harnesses if isinstance(environment, Mixture) else {}
    return {name: settings for name, settings in harnesses.items() if settings.chosen}


def weights_of(environment: Environment) -> dict[str, float] | None:
    """Weights by environment; None where there is only one."""
    if isinstance(environment, Mixture) and len(environment.environments) > 1:
        return environment.weights
    return None


def limits_of(environment: Environment, task: Task) -> EpisodeLimits:
    """The limits that the rollouts of a task have of their own; each is None outside a mixture."""
    found = environment.limits.get(task.environment) if isinstance(environment, Mixture) else None
    return found or _NO_LIMITS


def interleave(weights: Sequence[float]) -> Iterator[int]:
    """Endless turns, as indices into weights: of the first n, index i has more than n · share − 1 and less than n · share + 1.

    The j-th turn of i (from 0) falls into the slots from ⌊j / share⌋ to ⌈(j + 1) / share⌉; of the possible ones, the one whose slots end first comes,
    which is always feasible if the shares add up to one (proportionate-progress scheduling on one processor; Baruah et al. 1996). Shares are exact fractions.
    """
    exact = [Fraction(weight) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    counts = [0] * len(shares)
    slot = 0
    while True:
        ready = [i for i, share in enumerate(shares) if math.floor(counts[i] / share) <= slot]
        chosen = min(ready, key=lambda i: math.ceil((counts[i] + 1) / shares[i]))
        counts[chosen] += 1
        slot += 1
        yield chosen
