"""Weights in a safetensors file that both sides keep mapped: the learner writes it in place, engines copy from the mapping.

Nothing is allocated, serialised or closed between two pushes, so a push costs one memory copy a side. A learner on a CPU can go further
and keep its parameters in the file (`mapped_tensors`): then its own side copies nothing. Needs torch only.
"""

import json
import mmap
import os
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import EngineError, TrainingError

if TYPE_CHECKING:
    import torch

_ALIGNMENT = 64
_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}  # fmt: skip
_CODES = {name: code for code, name in _NAMES.items()}


class WeightFile:
    """A safetensors file of one layout, mapped for writing.

    Attributes:
        tensors: By name, views of the file: writing to one writes the file.
    """

    def __init__(
        self,
        path: str | Path,
        like: Mapping[str, "torch.Tensor"],
        dtype: str | None = None,
        fill: bool = False,
        kept: Collection[str] = (),
    ) -> None:
        """Replaces what is at `path` by a file with the names and shapes of `like`, in `dtype` (None and `kept` as in write_weights): of zeros, or with `fill` of its values.

        Raises TrainingError where the file's file system has no room for it.
        """
        self.path = str(path)
        header, self._layout = _header(like, dtype, kept)
        size = len(header) + sum(n_bytes for *_, n_bytes in self._layout.values())
        new = f"{self.path}.new"
        with open(new, "w+b") as file:
            file.truncate(size)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(
                        file.fileno(), 0, size
                    )  # a mapping that finds no room later would end the process
            except OSError as error:
                os.unlink(new)
                raise TrainingError(
                    f"There is no room for {size / 2**20:.0f} MiB of weights in {Path(self.path).parent}: {error.strerror}.",
                    "Enlarge it (in a container /dev/shm is small by default: --shm-size), or set TMPDIR and run again.",
                ) from error
            file.write(header)
            file.flush()
            self._key = _key(file.fileno())
            mapped = mmap.mmap(file.fileno(), size)
        self.tensors = _views(mapped, self._layout, len(header))
        if fill:
            self.write(like)
        os.replace(new, self.path)

    def fits(self, like: Mapping[str, "torch.Tensor"], dtype: str | None = None, kept: Collection[str] = ()) -> bool:
        """Whether these tensors have this layout and the file is still the one at its path."""
        try:
            return _header(like, dtype, kept)[1] == self._layout and _key(self.path) == self._key
        except OSError:
            return False

    def write(self, tensors: Mapping[str, "torch.Tensor"]) -> None:
        """Copies tensors of the layout into the file; one that lives in the file already is left alone."""
        import torch

        with torch.no_grad():
            for name, tensor in tensors.items():
                target = self.tensors[name]
                if tensor.data_ptr() != target.data_ptr():
                    target.copy_(tensor)


_written: dict[str, WeightFile] = {}


def torch_dtype(code: str) -> "torch.dtype":
    """The dtype of a safetensors name (`BF16`, …)."""
    import torch

    return getattr(torch, _NAMES[code])


def write_weights(
    path: str | Path, tensors: Mapping[str, "torch.Tensor"], dtype: str | None = None, kept: Collection[str] = ()
) -> None:
    """Writes tensors to the safetensors file `path`: in place when the last call of this process wrote the same layout there.

    Readers that hold the file mapped see it change, so keep them away meanwhile (`restarting.new_weights`).

    Args:
        dtype: What they are converted to (`float32`, `bfloat16`, …); None keeps each tensor's own.
        kept: Names of tensors that keep their own dtype in any case, as those that are no floating-point numbers do.
    """
    file = _written.get(str(path))
    if file is None or not file.fits(tensors, dtype, kept):
        file = _written[str(path)] = WeightFile(path, tensors, dtype, kept=kept)
    file.write(tensors)


def mapped_tensors(tensors: Mapping[str, "torch.Tensor"], path: str | Path) -> None:
    """Moves a model's parameters and buffers into the safetensors file `path`, where they stay: training changes the file itself.

    `write_weights` of the same tensors to that path then copies nothing. For tensors on a CPU that no other process holds a shard
    of. Gradients and optimizers hold on to the tensor objects, which stay the same. Raises TrainingError when there is no space.
    """
    import torch

    file = WeightFile(path, tensors, fill=True)  # a reader of the file before finds the new one whole
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.data = file.tensors[name]
    _written[str(path)] = file


_read: dict[str, tuple[tuple, bytes, dict[str, "torch.Tensor"]]] = {}


def read_weights(path: str | Path) -> dict[str, "torch.Tensor"]:
    """The tensors of a safetensors file as views of its mapping, which stays for the next call. They are only to be read.

    Raises EngineError for a file that is cut short or is none.
    """
    path = str(path)
    try:
        with open(path, "rb") as file:
            key = _key(file.fileno())
            header = _read_header(file, key[2])
            known = _read.get(path)
            if known is not None and known[:2] == (key, header):
                return known[2]
            layout = _parse(header)
            if len(header) + sum(n_bytes for *_, n_bytes in layout.values()) != key[2]:
                raise ValueError("its length differs from its header")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"The weights at {path} are not whole: {error}.", "Write the safetensors file again.") from error  # fmt: skip
    _read.clear()  # one at a time: a mapping keeps a removed file's memory
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        _read[path] = (key, header, _views(mapped, layout, len(header)))
    return _read[path][2]


_Layout = dict[str, tuple[str, tuple[int, ...], int, int]]
"""By name: dtype code, shape, first byte after the header, bytes."""


def _header(
    tensors: Mapping[str, "torch.Tensor"], dtype: str | None, kept: Collection[str] = ()
) -> tuple[bytes, _Layout]:
    """The file's first bytes, padded so that tensors begin aligned. Wider types come first: no gap is allowed between tensors."""
    wanted = {
        name: dtype if dtype and name not in kept and tensor.is_floating_point() else tensor.dtype
        for name, tensor in tensors.items()
    }
    codes = {name: _CODES[str(each).removeprefix("torch.")] for name, each in wanted.items()}
    widths = {name: _width(code) for name, code in codes.items()}
    layout: _Layout = {}
    start = 0
    for name in sorted(tensors, key=lambda name: -widths[name]):
        n_bytes = tensors[name].numel() * widths[name]
        layout[name] = (codes[name], tuple(tensors[name].shape), start, n_bytes)
        start += n_bytes
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, (code, shape, first, n_bytes) in layout.items():
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [first, first + n_bytes]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, layout


def _read_header(file: Any, size: int) -> bytes:
    first = file.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > size - 8:
        raise ValueError("it ends within its header")
    return first + file.read(length)


def _parse(header: bytes) -> _Layout:
    layout: _Layout = {}
    for name, entry in json.loads(header[8:]).items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            layout[name] = (entry["dtype"], tuple(entry["shape"]), start, end - start)
    return layout


def _views(mapped: mmap.mmap, layout: _Layout, begin: int) -> dict[str, "torch.Tensor"]:
    import torch

    views = {}
    for name, (code, shape, first, n_bytes) in layout.items():
        dtype = getattr(torch, _NAMES[code])
        count = n_bytes // _width(code)
        flat = torch.frombuffer(mapped, dtype=dtype, count=count, offset=begin + first) if count else torch.empty(0, dtype=dtype)  # fmt: skip
        views[name] = flat.view(shape)
    return views


def _width(code: str) -> int:
    import torch

    return getattr(torch, _NAMES[code]).itemsize


def _key(file: int | str) -> tuple[int, int, int]:
    """The identity of a file: device, inode, size."""
    found = os.stat(file)
    return found.st_dev, found.st_ino, found.st_size
