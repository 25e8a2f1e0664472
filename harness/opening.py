"""What plays the slots of a run: the agent loop, or the harness of the task's environment."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

from ..base.errors import ConfigError
from ..collect.episode import Episode, Slot, play_episode
from ..collect.job import open_play as open_loops
from ..collect.runner import Play
from ..environments.harness import HarnessSettings, refuse_unplayable
from ..environments.mixture import harnesses_of, limits_of
from ..environments.types import Environment
from ..policies.opening import open_policy
from ..policies.types import Policy, Sampling

if TYPE_CHECKING:
    from ..collect.config import CollectConfig


@contextmanager
def open_harnesses(
    environment: Environment,
    policy: Policy,
    max_turns: int,
    time_limit_s: float,
    tool_limit_s: float | None = None,
) -> Iterator[Play]:
    """What plays a slot of a run over this policy: the harness of the task's environment (`harnesses_of`), or the agent loop.

    All that was started ends with the block.

    Args:
        max_turns: Of the agent loop.

    Raises ConfigError for a harness that cannot be imported, and a policy that cannot be served.
    """
    limits, harnesses = (max_turns, time_limit_s, tool_limit_s), harnesses_of(environment)

    async def by_agent_loop(slot: Slot, sampling: Sampling) -> Episode:
        return await play_episode(environment, policy, slot, sampling, *limits)

    if not harnesses:
        yield by_agent_loop
        return
    refuse_unplayable(harnesses.values(), policy.engine)
    from .gateway import Gateway
    from .playing import HarnessPlayer
    from .running import open_runner

    with ExitStack() as opened:
        runners: dict[str, Any] = {}
        for name, settings in harnesses.items():
            same = next((known for known in runners if harnesses[known] == settings), None)
            runners[name] = runners[same] if same else opened.enter_context(closing(open_runner(settings)))
        gateway = opened.enter_context(Gateway(policy, *_address(harnesses.values())))
        players = {
            name: HarnessPlayer(settings, environment, policy, gateway, runners[name])
            for name, settings in harnesses.items()
        }

        async def play(slot: Slot, sampling: Sampling) -> Episode:
            player = players.get(slot.task.environment)
            if player is None:
                return await by_agent_loop(slot, sampling)
            own = limits_of(environment, slot.task)
            return await player.play(slot, sampling, own.time_limit_s or time_limit_s, own.tool_time_limit_s or tool_limit_s)  # fmt: skip

        yield play


def _address(harnesses: Iterable[HarnessSettings]) -> tuple[int, str | None]:
    """The port and the shared key of the gateway. Raises ConfigError for harnesses that differ in them, or a variable that is not set."""
    given = {(one.port, one.key_env) for one in harnesses if one.port or one.key_env is not None} or {(0, None)}
    if len(given) > 1:
        raise ConfigError("The harnesses of the run have different ports or keys.", "Give them the same port and key_env.")  # fmt: skip
    ((port, variable),) = given
    key = None if variable is None else os.environ.get(variable)
    if variable is not None and not key:
        raise ConfigError(f"The environment variable {variable} is not set.", "Set it to the key of the harness.")
    return port, key


@contextmanager
def open_play(config: "CollectConfig", environment: Environment) -> Iterator[tuple[Play, Callable[[], int]]]:
    """As `collect.job.open_play`, with the harnesses of the configuration's environments."""
    if not harnesses_of(environment):
        with open_loops(config, environment) as opened:
            yield opened
        return
    turns, limits = config.environment.max_turns, config.limits
    with (
        open_policy(config.policy, seed=config.seed or 0, max_turns=config.environment.fewest_turns()) as policy,
        open_harnesses(environment, policy, turns, limits.time_limit_s, limits.tool_time_limit_s) as play,
    ):
        yield play, lambda: 0
