"""Sorting e-mails as upstream does: by numpy's quicksort, which is not stable for equal times.

It shows when a policy has sent several e-mails, all of the same time, and a search finds more than sixteen.
"""

from collections.abc import Sequence
from typing import Any

_SMALL = 16  # as many are sorted by insertion
# Far more e-mails than this are not worth the time: equal ones then keep their order.
_MOST = 10_000


def latest_first(times: Sequence[Any]) -> list[int]:
    """Positions of comparable times, latest first."""
    count = len(times)
    if count <= _SMALL or count > _MOST or len(set(times)) == count:
        return sorted(range(count), key=times.__getitem__, reverse=True)
    backwards = quicksort_order(times[::-1])
    return [count - 1 - place for place in reversed(backwards)]


def quicksort_order(values: Sequence[Any]) -> list[int]:
    """Positions of the values in ascending order: median of three, the smaller part first, insertion below seventeen.

    Equal values come in the order that these steps leave them in. Too deep a recursion, which takes values made for it, is not cut off.
    """
    order = list(range(len(values)))
    parts = [(0, len(values) - 1)]
    while parts:
        low, high = parts.pop()
        while high - low >= _SMALL:
            split = _partition(values, order, low, high)
            if split - low < high - split:
                parts.append((split + 1, high))
                high = split - 1
            else:
                parts.append((low, split - 1))
                low = split + 1
        # An insertion sort keeps equal values in order, and so does this.
        order[low : high + 1] = sorted(order[low : high + 1], key=values.__getitem__)
    return order


def _partition(values: Sequence[Any], order: list[int], low: int, high: int) -> int:
    middle = low + (high - low) // 2
    for left, right in ((low, middle), (middle, high), (low, middle)):
        if values[order[right]] < values[order[left]]:
            order[left], order[right] = order[right], order[left]
    pivot = values[order[middle]]
    i, j = low, high - 1
    order[middle], order[j] = order[j], order[middle]
    while True:
        i += 1
        while values[order[i]] < pivot:
            i += 1
        j -= 1
        while pivot < values[order[j]]:
            j -= 1
        if i >= j:
            break
        order[i], order[j] = order[j], order[i]
    order[i], order[high - 1] = order[high - 1], order[i]
    return i
