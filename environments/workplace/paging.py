"""The page object of the search tools."""

from typing import Any


def page_of(kind: str, records: list[dict[str, Any]], page: Any, page_size: Any) -> dict[str, Any] | None:
    """One page of records and its position, the page clamped to the existing ones; None when there are no records.

    Raises ZeroDivisionError or TypeError when `page` and `page_size` are not valid numbers; policies see the message.
    """
    total = len(records)
    total_pages = (total + page_size - 1) // page_size
    page = max(1, min(page, total_pages)) if total_pages > 0 else 1
    if not records:
        return None
    start = (page - 1) * page_size
    pagination = {f"total_{kind}": total, "page": page, "page_size": page_size, "total_pages": total_pages}
    return {kind: records[start : min(start + page_size, total)], "pagination": pagination}
