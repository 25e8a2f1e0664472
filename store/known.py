"""The keys a writer has seen, in bounded memory."""

_LIMIT = 500_000


class Known:
    """The newest keys; when there are too many the oldest are forgotten, and `complete` says so.

    A writer that has forgotten keys can no longer tell alone what it wrote: it asks the store, by insert-if-absent.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self.complete = True
        self._limit = limit
        self._keys: dict[str, None] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, key: str) -> None:
        """Remembers a key."""
        self._keys[key] = None
        if len(self._keys) > self._limit:
            self.complete = False
            for old in list(self._keys)[: self._limit // 10]:
                del self._keys[old]
