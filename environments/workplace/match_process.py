"""The process that matches a doubtful pattern; patterns.py starts it as a script and kills it when it takes too long.

Reads `[pattern, texts]` and writes a list of truth values parallel to texts, or, as a string, why it is no pattern.
"""

import json
import re
import sys


def answer(pattern: str, texts: list[str]) -> list[bool] | str:
    """What the process writes."""
    try:
        re.compile(pattern)
        search = re.compile(pattern, re.IGNORECASE).search
    except (re.error, RecursionError, OverflowError) as error:
        return str(error)
    return [search(text) is not None for text in texts]


if __name__ == "__main__":
    json.dump(answer(*json.load(sys.stdin)), sys.stdout)
