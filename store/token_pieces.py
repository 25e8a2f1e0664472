"""The text that each token of a sequence adds."""

from collections.abc import Callable, Sequence

BROKEN = "\ufffd"
"""Stands for bytes that are no character."""
_WINDOW = 64


def token_pieces(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """The text that each token adds to those before it, by what `decode` makes of a few tokens at a time; see TokenTexts.pieces."""
    pieces: list[str] = []
    start = done = 0  # what is pending is ids[done:]; ids[start:done] are its context
    for number in range(1, len(ids) + 1):
        before, now = decode(ids[start:done]), decode(ids[start:number])
        whole = not now.endswith(BROKEN) or number - done > _WINDOW
        if whole and len(now) > len(before):
            pieces.append(now[len(before) :])
            start, done = done, number
        else:
            pieces.append("")
    return _aligned(pieces, decode(ids)) if ids else []


def _aligned(pieces: list[str], text: str) -> list[str]:
    """The pieces cut so that joined they are the text: what they lack or differ in goes to the last."""
    at, aligned = 0, []
    for number, piece in enumerate(pieces):
        if not text.startswith(piece, at):
            aligned += [""] * (len(pieces) - number)
            break
        aligned.append(piece)
        at += len(piece)
    aligned[-1] += text[at:]
    return aligned
