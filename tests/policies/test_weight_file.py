"""The file that weights are pushed through: a safetensors file to everybody else, written and read in place."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rollhouse.base.errors import EngineError, TrainingError
from rollhouse.policies.engines.weight_file import mapped_tensors, read_weights, write_weights
from safetensors.torch import load_file, save_file

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]
SHAPES = st.lists(st.integers(0, 4), max_size=3)
LAYOUTS = st.dictionaries(st.text(min_size=1, max_size=6), st.tuples(SHAPES, st.sampled_from(DTYPES)), min_size=1, max_size=5)  # fmt: skip


def random_tensors(layout: dict, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(0, 2, shape, generator=generator).to(dtype) for name, (shape, dtype) in layout.items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return set(left) == set(right) and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=LAYOUTS.filter(lambda layout: "__metadata__" not in layout))
def test_any_tensors_come_back_and_change_in_place(layout: dict, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    first, second = random_tensors(layout, 1), random_tensors(layout, 2)
    write_weights(file, first)
    assert same(load_file(file), first) and same(read_weights(file), first)
    inode = file.stat().st_ino
    write_weights(file, second)
    assert same(load_file(file), second) and same(read_weights(file), second)
    assert file.stat().st_ino == inode, "the same layout is written in place"


def test_another_layout_is_another_file_and_so_is_a_removed_one(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    one = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}
    write_weights(file, one)
    before = read_weights(file)
    write_weights(file, one, "bfloat16")
    assert same(read_weights(file), {name: tensor.bfloat16() for name, tensor in one.items()})
    assert same(before, one), "who holds the old file still reads the old file"
    file.unlink()
    write_weights(file, one, "bfloat16")
    assert same(load_file(file), {name: tensor.bfloat16() for name, tensor in one.items()})


def test_what_safetensors_wrote_is_read_and_what_is_cut_short_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    tensors = random_tensors({"x": ((2, 3), torch.float32), "ü": ((5,), torch.bfloat16)}, 3)
    save_file(tensors, file)
    assert same(read_weights(file), tensors)
    whole = file.read_bytes()
    for cut in (0, 4, 20, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(EngineError, match="not whole"):
            read_weights(file)


def test_parameters_in_the_file_are_trained_there(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, mapped = (torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 1)) for _ in range(2))
    mapped.load_state_dict(plain.state_dict())
    file = tmp_path / "weights.safetensors"
    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.1) for model in (plain, mapped)]
    mapped_tensors(dict(mapped.named_parameters()), file)
    for _ in range(3):
        for model, optimizer in zip((plain, mapped), optimizers, strict=True):
            optimizer.zero_grad()
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    inode = file.stat().st_ino
    write_weights(file, {name: parameter.detach() for name, parameter in mapped.named_parameters()})
    assert file.stat().st_ino == inode
    assert same(load_file(file), dict(plain.state_dict()))


def test_no_room_is_said_before_anything_is_mapped() -> None:
    huge = {"x": torch.empty(1 << 50, device="meta")}
    with pytest.raises(TrainingError, match="no room for"):
        write_weights("/dev/shm/rollhouse-test-no-room", huge)
    assert not list(Path("/dev/shm").glob("rollhouse-test-no-room*"))
