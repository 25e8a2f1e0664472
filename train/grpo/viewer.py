"""What may look on while a run trains."""

from collections.abc import Mapping
from typing import Protocol


class Viewer(Protocol):
    """Is told of everything as it happens, on the main thread; must return at once."""

    def phase(self, step: int, what: str) -> None:
        """A step has come to a part: `wait`, `store`, `train`, …, the names of `time/…`."""
        ...

    def numbers(self, step: int, numbers: Mapping[str, float]) -> None:
        """A step has ended. The numbers are those that are logged, and `checkpoint/step`, the last step that a checkpoint was taken after."""
        ...
