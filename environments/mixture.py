"""Several environments as one, their tasks interleaved by weight."""

import math
from collections.abc import Awaitable, Iterator, Sequence
from fractions import Fraction

from ..base.errors import ConfigError
from ..store.task import Task
from .config import EnvironmentSpec
from .registry import load_environment
from .shaping import RewardShaping
from .types import Environment, Session


class Mixture:
    """Environments whose tasks are interleaved by weight.

    Attributes:
        environments: By the name in tasks and rollouts, in the order of the recipe.
        shaping: How rewards of each are shaped, by the same names.
    """

    name = "mixture"

    def __init__(self, parts: Sequence[tuple[Environment, float, RewardShaping]]) -> None:
        """(environment, weight, shaping) of each. Raises ConfigError when two have one name."""
        self.environments: dict[str, Environment] = {}
        self.shaping: dict[str, RewardShaping] = {}
        self._weights: list[float] = []
        for environment, weight, shaping in parts:
            if environment.name in self.environments:
                raise ConfigError(
                    f"The environment {environment.name!r} stands twice in the mixture.",
                    "Merge its tasks files with `rollhouse tasks prepare`, or give one class another name.",
                )
            self.environments[environment.name] = environment
            self.shaping[environment.name] = shaping
            self._weights.append(weight)

    def tasks(self, split: str) -> Iterator[Task]:
        """The tasks of all, interleaved: of the first n, each environment has n times its share of the weights, within one.

        Ends when the next environment has no task left, so that the shares hold. Raises ConfigError for an environment without tasks.
        """
        waiting = [iter(environment.tasks(split)) for environment in self.environments.values()]
        names = list(self.environments)
        taken = [0] * len(names)
        for turn in interleave(self._weights):
            task = next(waiting[turn], None)
            if task is None:
                if not taken[turn]:
                    raise ConfigError(
                        f"{names[turn]} has no task in split {split!r}, so it cannot be mixed.",
                        "Take it out, or say of which split its tasks file is with tasks_split.",
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
    """The environment of one spec, or a Mixture of several.

    Args:
        seed: Seed of generated tasks; None is 0.

    Raises ConfigError for no spec, an unknown name or two environments of one name.
    """
    if not specs:
        raise ConfigError("No environment is named.", "Name one with --env, or several under environment.mixture.")
    opened = [
        load_environment(spec.name, spec.tables, spec.tasks, seed, spec.tasks_split, **spec.options) for spec in specs
    ]
    if len(opened) == 1:
        return opened[0]
    return Mixture([(one, spec.weight, spec.reward) for one, spec in zip(opened, specs, strict=True)])


def shaping_by_environment(environment: Environment, specs: Sequence[EnvironmentSpec]) -> dict[str, RewardShaping]:
    """Reward shaping by `Task.environment`, for the environment that `open_mixture` returned for these specs."""
    return environment.shaping if isinstance(environment, Mixture) else {environment.name: specs[0].reward}


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
