"""What an engine does for weights that travel from GPU to GPU, and for a GPU it shares: vLLM's own weight transfer, sleep and wake.

Each function runs on the engine's stepping thread. From `begin` to `finish` no step is taken: vLLM's layers are not whole in between. Not run
on a GPU; on a CPU vLLM loads nothing this way and never sleeps, which is refused.
"""

from typing import Any

from ...base.errors import ConfigError
from .base import EngineGone


def check_gpu(engine: Any, what: str) -> None:
    """Raises ConfigError on a CPU."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        raise ConfigError(
            f"This engine runs on a CPU, where there is no {what}.",
            "Set policy.generation.weight_sync=auto and policy.generation.sleep_while_training=false.",
        )


def connect(engine: Any, init_info: dict[str, Any]) -> None:
    """The engine's side of the handshake; for nccl it returns when the learner has joined too."""
    check_gpu(engine, "weight transfer from GPU to GPU")
    engine.rpc("init_weight_transfer_engine", init_info=init_info)


def begin(engine: Any) -> None:
    """Before the first tensor."""
    engine.rpc("start_weight_update")
    engine.held = True


def receive(engine: Any, update_info: dict[str, Any]) -> None:
    """Takes tensors. An engine that fails here is not whole any more: it ends."""
    try:
        engine.rpc("update_weights", update_info=update_info)
    except Exception as error:
        engine.held = False
        raise EngineGone(
            f"The engine's weights are not whole: a transfer failed ({error}).",
            "Start the run again; it goes on where it stopped.",
        ) from error


def finish(engine: Any, version: int) -> None:
    """After the last tensor: steps go on, with the new weights."""
    try:
        engine.rpc("finish_weight_update")
    except Exception as error:
        raise EngineGone(
            f"The engine's weights are not whole: a transfer failed ({error}).",
            "Start the run again; it goes on where it stopped.",
        ) from error
    finally:
        engine.held = False
    engine.take_version(version)


def sleep(engine: Any, level: int = 1) -> None:
    """Gives the GPU's memory away, weights kept in the machine's. With requests in flight vLLM would drop them: refused."""
    check_gpu(engine, "memory to give to the learner (sleep)")
    if engine.in_flight():
        raise ConfigError(
            f"An engine with {engine.in_flight()} requests in flight cannot sleep.",
            "sleep_while_training is for synchronous runs.",
        )
    engine.core.reset_prefix_cache(reset_running_requests=True)
    engine.core.sleep(level)
    engine.held = True


def wake(engine: Any) -> None:
    """Takes the memory back; steps go on."""
    engine.core.wake_up()
    engine.held = False


STEPS = {"connect": connect, "begin": begin, "receive": receive, "finish": finish, "sleep": sleep, "wake": wake}
