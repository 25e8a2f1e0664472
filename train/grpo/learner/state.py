"""The learner's state on disk: trained weights, AdamW's moments, the step count. safetensors and JSON, nothing that runs code.

What is random in a step follows from (seed, step, rank) alone, see `seeded`, so the step count is the state of the random numbers too.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....base.errors import TrainingError

TENSORS, NUMBERS = "learner.safetensors", "learner.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def gather_state(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, whole: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """All tensors of the state, on the CPU: `weights.NAME`, `exp_avg.NAME`, `exp_avg_sq.NAME` and `step.NAME` of each parameter.

    Args:
        whole: Gives a parameter, or a moment of its shape, in one piece on the CPU; on several ranks a collective call.
    """
    found = {}
    for name, parameter in parameters.items():
        found[f"weights.{name}"] = whole(parameter.detach())
        moments = optimizer.state.get(parameter, {})
        if moments:
            found |= {f"{kind}.{name}": whole(moments[kind]) for kind in _MOMENTS}
            found[f"step.{name}"] = moments["step"].detach().cpu().reshape(1)
    return found


def write_state(folder: Path, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Writes both files, the numbers last, each under another name first, so that a cut leaves no half a state."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{TENSORS}.tmp")
    (folder / f"{TENSORS}.tmp").replace(folder / TENSORS)
    (folder / f"{NUMBERS}.tmp").write_text(json.dumps(numbers))
    (folder / f"{NUMBERS}.tmp").replace(folder / NUMBERS)


def read_numbers(folder: Path) -> dict[str, Any]:
    """The state's numbers. Raises TrainingError for a folder that holds no state."""
    try:
        return json.loads((folder / NUMBERS).read_text())
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{folder} does not hold a learner state: {error}.", "Name a folder that save_state wrote."
        ) from error


def restore(
    folder: Path,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    like: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Puts weights and moments back. Raises TrainingError when they are of another model.

    Args:
        like: Called with a parameter and a whole tensor on the CPU; gives the tensor as that parameter lies (device, shards).
    """
    from safetensors import safe_open

    with safe_open(folder / TENSORS, "pt") as file:
        group = optimizer.param_groups[0]
        stored, counts_there = set(file.keys()), group.get("capturable") or group.get("fused")
        shapes = {n: tuple(file.get_slice(f"weights.{n}").get_shape()) for n in parameters if f"weights.{n}" in stored}
        if shapes != {name: tuple(parameter.shape) for name, parameter in parameters.items()} or sum(
            name.startswith("weights.") for name in stored
        ) != len(parameters):
            raise TrainingError(
                f"The learner state in {folder} belongs to another model or other adapters.",
                "Open the model that the run started from, with the run's policy.lora.",
            )
        for name, parameter in parameters.items():
            with torch.no_grad():
                parameter.copy_(like(parameter, file.get_tensor(f"weights.{name}")))
            if f"step.{name}" not in stored:
                optimizer.state.pop(parameter, None)
                continue
            moments = {kind: like(parameter, file.get_tensor(f"{kind}.{name}")) for kind in _MOMENTS}
            step = file.get_tensor(f"step.{name}").reshape(())
            optimizer.state[parameter] = {"step": step.to(parameter.device) if counts_there else step} | moments


@contextmanager
def seeded(seed: int, step: int, rank: int, device: str) -> Iterator[None]:
    """Random numbers that depend on these three alone; the rest of the process draws as if nothing had been drawn here."""
    devices = [torch.cuda.current_device()] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(hash((seed, step, rank)) % 2**63)
        yield
