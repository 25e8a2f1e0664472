"""What a source's record holds beyond the columns: the difference between the record that the columns alone would give and the source's own.

A reader keeps this difference in `extra`; an exporter lays it over what the columns give and has the source's record back, whatever the columns
cannot hold. An overlay is JSON: an object adds or replaces keys, `$gone` names keys to take out, `$at` changes some entries of a list of the same
length, `$is` replaces the value as a whole; anything else is the value itself.

What a format's `record` fills in by itself is therefore part of what stores hold: changing it changes what their overlays give.
"""

from typing import Any

_GONE, _AT, _IS = "$gone", "$at", "$is"
_RESERVED = {_GONE, _AT, _IS}
_ABSENT = object()
SAME = object()


def difference(built: Any, wanted: Any) -> Any:
    """The overlay that turns `built` into `wanted`; SAME when they are equal as JSON (1 and 1.0 are, 1 and true are not)."""
    if isinstance(wanted, dict):
        return _object_difference(built, wanted)
    if isinstance(wanted, list) and isinstance(built, list) and len(built) == len(wanted) and _is_nested(wanted):
        pairs = enumerate(zip(built, wanted, strict=True))
        changes = {str(index): change for index, pair in pairs if (change := difference(*pair)) is not SAME}
        return {_AT: changes} if changes else SAME
    return SAME if _equal(built, wanted) else wanted


def _object_difference(built: Any, wanted: dict[str, Any]) -> Any:
    base = built if isinstance(built, dict) else {}
    if _RESERVED & wanted.keys():
        return SAME if _equal(built, wanted) else {_IS: wanted}
    overlay = {}
    for key, value in wanted.items():
        change = difference(base.get(key, _ABSENT), value)
        if change is not SAME:
            overlay[key] = change
    gone = [key for key in base if key not in wanted]
    if gone:
        overlay[_GONE] = gone
    return overlay if overlay or not isinstance(built, dict) else SAME


def _is_nested(values: list[Any]) -> bool:
    return any(isinstance(value, (dict, list)) for value in values)


def _equal(built: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return built == wanted and all(_equal(built[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        same = built == wanted and _truths(built) == _truths(wanted)
        return same and (not _is_nested(wanted) or all(map(_equal, built, wanted)))
    return built == wanted and isinstance(built, bool) == isinstance(wanted, bool)


def _truths(values: list[Any]) -> list[bool]:
    return [isinstance(value, bool) for value in values]


def lay_over(built: Any, overlay: Any) -> Any:
    """The value the overlay was made from. `built` stays as it is."""
    if not isinstance(overlay, dict):
        return overlay
    if _IS in overlay:
        return overlay[_IS]
    if _AT in overlay:
        changed = list(built)
        for index, change in overlay[_AT].items():
            changed[int(index)] = lay_over(changed[int(index)], change)
        return changed
    base = built if isinstance(built, dict) else {}
    gone = set(overlay.get(_GONE, ()))
    kept = {key: value for key, value in base.items() if key not in gone}
    changes = {key: lay_over(base.get(key), change) for key, change in overlay.items() if key != _GONE}
    return kept | changes
