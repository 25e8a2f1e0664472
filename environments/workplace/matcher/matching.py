"""Matches a doubtful pattern in a worker process. Imported from its folder, without rollhouse and without site-packages, so that it starts quickly."""

import re


def match(pattern: str, texts: list[str]) -> list[bool] | str:
    """Whether the pattern occurs in each text, case ignored; parallel to texts. A string is the error of an invalid pattern."""
    try:
        re.compile(pattern)
        search = re.compile(pattern, re.IGNORECASE).search
    except (re.error, RecursionError, OverflowError) as error:
        return str(error)
    return [search(text) is not None for text in texts]
