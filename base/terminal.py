"""Text from rollouts, files and servers on its way to a terminal: control characters are shown, not sent.

A terminal acts on them: it clears its screen, sets its title and clipboard, and hides parts of a line.
"""

import re

# C0 but tab and line end, DEL and C1; marks that reverse what is written; halves of surrogate pairs, which no stream can encode.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str) -> str:
    """The text with every control character as its escape: `\\x1b`, `\\u202e`. Tabs and line ends stay."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSEEN.sub(lambda match: _escape(match.group()), text)


def visible_json(text: str) -> str:
    """JSON text with the control characters that json.dumps leaves as they are escaped; its value stays the same."""
    return text if text.isascii() else _UNSEEN.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def csv_text(text: str) -> str:
    """A text cell of a CSV file: control characters shown, and `'` before what a spreadsheet would take for a formula."""
    shown = visible(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
