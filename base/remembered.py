"""What was worked out once for an object, remembered by the object's identity: hashing its content would cost as much as working it out again."""

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def remembered(make: Callable[[T], R], most: int) -> Callable[[T], R]:
    """`make`, remembering what it gave for the last `most` objects. For objects that do not change.

    Tasks share their tools, tens of kilobytes of schemas, so what is made of those is made once.
    """
    kept: OrderedDict[int, tuple[T, R]] = OrderedDict()

    def get(of: T) -> R:
        found = kept.get(id(of))
        if found is None:
            found = kept[id(of)] = (of, make(of))  # keeping the object keeps its id its own
            if len(kept) > most:
                kept.popitem(last=False)
        return found[1]

    return get
