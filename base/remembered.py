"""A cache by object identity: hashing an object's content would cost as much as computing its value again."""

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def remembered(make: Callable[[T], R], most: int) -> Callable[[T], R]:
    """`make` with a cache of its values for the last `most` objects. For objects that do not change.

    Tasks share their tools, tens of kilobytes of schemas, so that values made of them are made once.
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
