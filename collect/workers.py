"""Rollouts spread over a Ray cluster: each worker process has an environment and a policy of its own, and rows come back to one writer."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError, EngineError, one_line
from ..base.packages import need
from ..environments.mixture import open_mixture
from ..policies.engines.base import EngineGone
from ..policies.engines.cluster import NAMESPACE, ensure_ray, our_error, require_resources, shutdown_ray
from ..policies.opening import loads_model, open_policy
from ..policies.types import Sampling
from .config import CollectConfig
from .episode import Episode, Slot, lost_episode, play_episode

_START_LIMIT_S = 600.0
# A rollout that ran in this many workers when they died is taken to have killed them.
_MOST_DEATHS_OF_A_SLOT = 3
# Deaths in a row for each worker there is, with no rollout finished between them, after which it is the workers' own fault.
_MOST_DEATHS_IN_A_ROW = 3


@dataclass
class _PolicyName:
    """What the rows of lost rollouts say about the policy."""

    engine: str
    policy_id: str
    token_identity: tuple[str | None, str | None] | None = None
    version: int = 0

    async def respond(self, conversation: Any, sampling: Sampling) -> Any:
        """It cannot."""
        raise EngineError("The policy is in another process.")


@dataclass(frozen=True)
class _Gone:
    """EngineGone as a value: exceptions that cross Ray come out wrapped."""

    message: str


class Player:
    """Runs in the Ray worker."""

    def __init__(self, config: CollectConfig) -> None:
        self._config = config
        self._opened = ExitStack()
        self._environment: Any = None
        self._policy: Any = None

    async def open(self) -> _PolicyName:
        """Opens environment and policy, once. Raises what they raise."""
        config = self._config
        if self._policy is None:  # nothing is awaited here: calls of an actor may overtake each other
            self._environment = open_mixture(config.environment.specs(), config.seed)
            policy = open_policy(config.policy, seed=config.seed or 0, max_turns=config.environment.fewest_turns())
            self._policy = self._opened.enter_context(policy)
        return _PolicyName(self._policy.engine, self._policy.policy_id, None, self._policy.version)

    async def play(self, slot: Slot, sampling: Sampling) -> Episode | _Gone:
        """One rollout, as `play_episode`."""
        await self.open()
        limits = self._config.limits
        most = self._config.environment.max_turns, limits.time_limit_s, limits.tool_time_limit_s
        try:
            episode = await play_episode(self._environment, self._policy, slot, sampling, *most)
            # The task goes with the slot: it need not travel back, tools and all.
            return replace(episode, rollout=episode.rollout.changed(task=None, prompt=None, tools=None))
        except EngineGone as error:
            return _Gone(error.message)

    async def close(self) -> None:
        """Ends what was opened here."""
        self._opened.close()


@dataclass(eq=False)
class _Worker:
    actor: Any
    in_flight: int = 0
    dead: bool = False


class Workers:
    """The worker processes. One that dies is replaced, and its rollouts are played again as the same slots.

    Attributes:
        lost: Workers that died.
    """

    def __init__(self, config: CollectConfig, count: int) -> None:
        """Starts them and waits until all are open. Raises what their environment or policy raises, and EngineError."""
        import ray

        self.lost = 0
        self._config = _with_whole_paths(config)
        self._deaths_in_a_row = 0
        self._workers = [_Worker(self._start()) for _ in range(count)]
        try:
            opened = ray.get([worker.actor.open.remote() for worker in self._workers], timeout=_START_LIMIT_S)
        except Exception as error:
            self.close()
            raise our_error(error, lambda why: EngineError(f"A worker did not start: {why}.", "Look at its log, or collect without --workers.")) from error  # fmt: skip
        self._policy: _PolicyName = opened[0]

    async def play(self, slot: Slot, sampling: Sampling) -> Episode:
        """One rollout, on the worker with the fewest in flight. Raises EngineGone when the workers die one after the other."""
        why = ""
        for _ in range(_MOST_DEATHS_OF_A_SLOT):
            worker = min(self._workers, key=lambda one: one.in_flight)
            worker.in_flight += 1
            try:
                played = await worker.actor.play.remote(slot, sampling)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                why = self._lost(worker, our_error(error, lambda why: EngineError(f"{why}.")).message)
                continue
            finally:
                worker.in_flight -= 1
            if isinstance(played, Episode):
                self._deaths_in_a_row = 0
                task = slot.task
                return replace(played, rollout=played.rollout.changed(task=task, prompt=task.prompt, tools=task.tools))
            if self._policy.engine == "openai":  # another process would find the endpoint no better
                raise EngineGone(played.message)
            why = self._lost(worker, played.message)
        return lost_episode(self._policy, slot, sampling, "worker", one_line(f"its workers died: {why}"))

    def close(self) -> None:
        """Ends the workers and what they started."""
        import ray

        # One that is dead, or hangs in a tool, is not waited for: killing it ends it either way.
        ray.wait([worker.actor.close.remote() for worker in self._workers], num_returns=len(self._workers), timeout=10)
        for worker in self._workers:
            ray.kill(worker.actor)

    def _lost(self, worker: _Worker, why: str) -> str:
        """Replaces a worker that died, once, and returns why it did. Raises EngineGone when too many died in a row."""
        import ray

        if worker.dead:
            return why
        worker.dead = True
        self.lost += 1
        self._deaths_in_a_row += 1
        ray.kill(worker.actor)
        if self._deaths_in_a_row > _MOST_DEATHS_IN_A_ROW * len(self._workers):
            raise EngineGone(
                f"{self._deaths_in_a_row} workers died one after the other, the last one so: {why.rstrip('.')}."
            )
        self._workers[self._workers.index(worker)] = _Worker(self._start())
        return why

    def _start(self) -> Any:
        import ray

        options = {
            "num_cpus": 1,
            "max_concurrency": self._config.limits.concurrency + 2,
            "scheduling_strategy": "SPREAD",
        }
        return ray.remote(Player).options(**options).remote(self._config)


@contextmanager
def open_workers(config: CollectConfig) -> Iterator[Workers]:
    """The workers of `config.workers`, ended afterwards with the cluster if it was started for them.

    The cluster is the one at RAY_ADDRESS, which stays, or one of our own on this machine. Without a number there is a worker for each of its CPUs.
    Raises ConfigError when the cluster has no room for that many.
    """
    _, _, number = (config.workers or "").partition(":")
    # Ray prints what it has to say about a dead worker to stdout, which is data.
    with redirect_stdout(sys.stderr), _cluster(int(number) if number else None) as count:
        workers = Workers(config, min(count, config.limits.concurrency))
        try:
            yield workers
        finally:
            workers.close()


@contextmanager
def _cluster(count: int | None) -> Iterator[int]:
    """Joins or starts the cluster; gives the number of workers."""
    ray = need("ray")
    address = os.environ.get("RAY_ADDRESS")
    if address and not ray.is_initialized():
        try:
            _knock(address)
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise ConfigError(f"There is no Ray cluster at {address} (RAY_ADDRESS): {one_line(error, 200)}.", "Start it (with the same RAY_AUTH_MODE and token as here), or unset RAY_ADDRESS to use this machine alone.") from error  # fmt: skip
        end: Any = ray.shutdown
    else:
        wanted = count or os.cpu_count() or 1
        # Logical: a worker, and an engine it may start.
        end = shutdown_ray if ensure_ray(num_cpus=max(4, 2 * wanted)) else lambda: None
        count = wanted
    try:
        count = count or max(1, int(ray.cluster_resources().get("CPU", 1)))
        require_resources(f"{count} workers", "Ask for fewer with --workers ray:N.", cpus=count)
        yield count
    finally:
        end()


def _knock(address: str) -> None:
    """Raises OSError when nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def _with_whole_paths(config: CollectConfig) -> CollectConfig:
    """The same with paths that hold in another working directory."""

    def whole(path: str | None) -> str | None:
        return str(Path(path).absolute()) if path is not None and Path(path).exists() else path

    def named(name: str) -> str:
        file, colon, rest = name.partition(":")
        return f"{whole(file)}{colon}{rest}"

    environment, policy = config.environment, config.policy
    mixture = [
        spec.model_copy(update={"name": named(spec.name), "tables": whole(spec.tables), "tasks": whole(spec.tasks)})
        for spec in environment.specs()
    ]
    kept = {name: getattr(environment, name) for name in ("split", "limit", "max_turns")}
    chat = policy.chat.model_copy(
        update={"template": whole(policy.chat.template), "tool_parser": named(policy.chat.tool_parser)}
    )
    model = whole(policy.model_name) if loads_model(policy.engine) else policy.model_name
    return config.model_copy(
        update={
            "environment": type(environment)(mixture=mixture, **kept),
            "policy": policy.model_copy(update={"chat": chat, "model_name": model}),
        }
    )
