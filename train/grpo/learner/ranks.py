"""Several learner ranks: how they meet, how the model is split over them (FSDP2), and how a tensor is whole again.

Needs torch alone. Rank 0 keeps a TCP store on the address that the ranks get; nothing listens on other addresses.
"""

import datetime
import os
import socket
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ....base.errors import TrainingError

Found = TypeVar("Found")
_reserved: dict[str, socket.socket] = {}


def reserve_rendezvous(host: str) -> str:
    """A free `host:port` to meet at, held until this process joins there as rank 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.bind((host, 0))
    listener.listen()
    address = f"{host}:{listener.getsockname()[1]}"
    _reserved[address] = listener
    return address


def join(rank: int, world_size: int, rendezvous: str, device: str, timeout_s: float) -> None:
    """Meets the other ranks; returns when all are there. gloo on a CPU, NCCL beside it on a GPU.

    Args:
        timeout_s: Of the meeting and of every exchange afterwards.

    Raises TrainingError when they do not come.
    """
    import torch.distributed as dist

    host, _, port = rendezvous.rpartition(":")
    timeout = datetime.timedelta(seconds=timeout_s)
    # Without a name gloo and NCCL take the first interface they find, which on a loopback cluster is open to the network.
    interface = interface_of(host if rank == 0 else own_address(host))
    for library in ("GLOO", "NCCL"):
        if interface is not None:
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", interface)
    try:
        held = _reserved.pop(rendezvous, None)
        listener = None if held is None else held.detach()
        store = dist.TCPStore(host, int(port), world_size, rank == 0, timeout, master_listen_fd=listener)  # type: ignore[reportPrivateImportUsage]
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    except (RuntimeError, OSError) as error:
        raise TrainingError(
            f"Learner rank {rank} of {world_size} did not meet the others at {rendezvous}: {error}.",
            "Check that the machines reach each other at that address, or set cluster.learner_ranks=1.",
        ) from error


def own_address(other: str) -> str:
    """The address of this machine on the way to another."""
    with socket.socket(socket.AF_INET6 if ":" in other else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((other, 9))  # a datagram socket: nothing is sent
        return probe.getsockname()[0]


def interface_of(address: str) -> str | None:
    """The name of this machine's network interface with an address; None where psutil is missing or none has it."""
    try:
        import psutil
    except ImportError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(known.address == address for known in addresses):
            return name
    return None


def split_model(scorer: torch.nn.Module, device: str, precision: str) -> None:
    """Splits a TokenScorer's parameters over the ranks, in place: a unit for each transformer layer and one for the rest.

    Rank 0 has the model on a CPU, the others have one without values (device `meta`): they get them unit by unit, so none of them, and no GPU,
    ever holds more than its share and one unit.
    """
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy()
    if precision == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    mesh = init_device_mesh(device.partition(":")[0], (dist.get_world_size(),))
    for layer in transformer_layers(scorer):
        take_values(layer, device)
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    take_values(scorer, device)
    # By default what is not a layer stays whole after a forward pass without a backward one; its parameters would then not be the optimizer's.
    fully_shard(scorer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def take_values(module: torch.nn.Module, device: str) -> None:
    """Gives parameters and buffers of a module the values of rank 0, on the device, but for those that are split already. A collective call."""
    import torch.distributed as dist

    done: dict[torch.nn.Parameter, torch.nn.Parameter] = {}  # as it was → what took its place, for all that share it

    def real(tensor: Tensor) -> Tensor:
        own = tensor.detach().to(device) if dist.get_rank() == 0 else torch.empty_like(tensor, device=device)
        dist.broadcast(own, 0)
        return own

    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if hasattr(parameter, "full_tensor"):
                continue
            if parameter not in done:
                done[parameter] = torch.nn.Parameter(real(parameter.data.contiguous()), parameter.requires_grad)
            setattr(part, name, done[parameter])
        for name, buffer in list(part.named_buffers(recurse=False)):
            part._buffers[name] = real(buffer)


def transformer_layers(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of a transformers model, by the class names that it declares must not be split."""
    names: set[str] = set()
    for part in module.modules():
        names |= set(getattr(part, "_no_split_modules", None) or ())
    return [part for part in module.modules() if type(part).__name__ in names]


def whole(tensor: Tensor, keep: bool = True) -> Tensor:
    """A parameter's values in one piece on the CPU; only its shape (device `meta`) without `keep`. A collective call where it is split."""
    full = getattr(tensor.detach(), "full_tensor", None)
    found = full() if full is not None else tensor.detach()
    return found.cpu().contiguous() if keep else torch.empty_like(found, device="meta")


def laid_like(parameter: Tensor, values: Tensor) -> Tensor:
    """The values as that parameter lies: on its device, or this rank's shard of what rank 0 has. A collective call where it is split."""
    if not hasattr(parameter, "full_tensor"):
        return values.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor

    device = parameter.to_local().device  # type: ignore[attr-defined]
    return distribute_tensor(values.to(device), parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]


def gathered(found: Found, world_size: int) -> list[Found]:
    """What each rank found, in the order of the ranks. A collective call among more than one."""
    if world_size == 1:
        return [found]
    import torch.distributed as dist

    everything: list[Any] = [None] * world_size
    dist.all_gather_object(everything, found)
    return everything


def dealt(items: Sequence[Found], rank: int, world_size: int) -> list[Found | None]:
    """This rank's share, round robin; None where others have one more, so that all ranks make the same number of passes."""
    mine: list[Found | None] = list(items[rank::world_size])
    return mine + [None] * (-(-len(items) // world_size) - len(mine))
