"""Responses that `previous_response_id` and `item_reference` may name later: the items of the last ones, in memory."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from .errors import ApiError

_MOST_BYTES = 256 << 20
_MOST = 10_000

Item = dict[str, Any]


@dataclass(frozen=True)
class _Kept:
    items: list[Item]
    size: int


class KeptResponses:
    """The last responses, oldest dropped first."""

    def __init__(self) -> None:
        self._responses: OrderedDict[str, _Kept] = OrderedDict()
        self._items: dict[str, Item] = {}
        self._bytes = 0

    def put(self, response_id: str, given: list[Item], made: list[Item], size: int) -> None:
        """Keeps a response: the items that it was given, those of earlier responses included, and those that it made.

        `size` is about the bytes of what is new.
        """
        self._responses[response_id] = _Kept([*given, *made], size)
        self._items |= {item["id"]: item for item in made if isinstance(item.get("id"), str)}
        self._bytes += size
        while len(self._responses) > 1 and (self._bytes > _MOST_BYTES or len(self._responses) > _MOST):
            _, dropped = self._responses.popitem(last=False)
            self._bytes -= dropped.size
            for item in dropped.items:
                self._items.pop(item.get("id") or "", None)

    def before(self, response_id: Any) -> list[Item]:
        """All items of a response's conversation, its own at the end. Raises ApiError for one that is not kept."""
        kept = self._responses.get(response_id) if isinstance(response_id, str) else None
        if kept is None:
            raise ApiError(
                404,
                "The response of `previous_response_id` is not kept: send the whole conversation as `input`.",
                "response_not_found",
            )
        return list(kept.items)

    def item(self, item_id: Any) -> Item:
        """The item that a reference names. Raises ApiError for one that is not kept."""
        item = self._items.get(item_id) if isinstance(item_id, str) else None
        if item is None:
            raise ApiError(404, "An `item_reference` names an item that is not kept: send the item itself.", "item_not_found")  # fmt: skip
        return item
