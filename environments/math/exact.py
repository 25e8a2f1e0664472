"""Compares two parsed values exactly, where math-verify compares floats or does not see that two forms are one set. Runs in a worker process."""

from typing import Any

from latex2sympy2_extended.logic import And as LatexAnd
from sympy import Basic, Eq, Float, Intersection, Interval, MatrixBase, Rational, Set, Tuple, Union, nan
from sympy import FiniteSet as SympyFiniteSet
from sympy.core.relational import Relational

_DIGITS, _MOST_DIGITS = 30, 500


def differ(gold: Any, found: Any, strict: bool = False) -> bool:
    """Whether two values that the library calls equal are different exact values, also inside sets, tuples, intervals and matrices.

    Args:
        strict: Decimals are exact values too, percentages are parts of one, and a tuple is no set. Otherwise values with a decimal are left to the library,
            which compares six places.
    """
    gold, found = _without_name(gold), _without_name(found)
    if isinstance(gold, MatrixBase) and isinstance(found, MatrixBase):
        return gold.shape != found.shape or any(
            differ(a, b, strict) for a, b in zip(gold.flat(), found.flat(), strict=True)
        )
    if isinstance(gold, SympyFiniteSet) and isinstance(found, SympyFiniteSet):
        return len(gold) != len(found) or any(all(differ(a, b, strict) for b in found.args) for a in gold.args)
    if isinstance(gold, Interval) and isinstance(found, Interval):
        return differ(gold.start, found.start, strict) or differ(gold.end, found.end, strict)
    if isinstance(gold, Tuple) and isinstance(found, Tuple):
        return len(gold) != len(found) or any(differ(a, b, strict) for a, b in zip(gold, found, strict=True))
    if strict and any(isinstance(gold, kind) != isinstance(found, kind) for kind in (SympyFiniteSet, Interval, Tuple)):
        return True
    return _numbers_differ(gold, found, strict)


def equal_sets(gold: Any, gold_text: str, found: Any, found_text: str) -> bool:
    """Whether an inequality and an interval, or two forms of inequalities, are the same set of numbers."""
    if not (_is_inequality(gold) or _is_inequality(found)):
        return False
    try:
        a, b = _as_set(gold, gold_text), _as_set(found, found_text)
        return a is not None and b is not None and (a == b or bool(a.symmetric_difference(b).is_empty))
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        return False


def _without_name(value: Any) -> Any:
    """The value of `x = 5`."""
    return value.rhs if isinstance(value, Eq) and value.lhs.is_Symbol else value


def _numbers_differ(gold: Any, found: Any, strict: bool) -> bool:
    if not all(isinstance(value, Basic) and getattr(value, "is_number", False) for value in (gold, found)):
        return False
    if strict:
        gold, found = _exact(gold), _exact(found)
    elif gold.has(Float) or found.has(Float):
        return False
    gold, found = gold.doit(), found.doit()
    if gold == found:
        return False
    if isinstance(gold, Rational) and isinstance(found, Rational):
        return strict or not _is_percentage_of(gold, found)
    difference = (gold - found).evalf(_DIGITS, maxn=_MOST_DIGITS)
    if difference is nan or not difference.is_number:
        return False
    parts = difference.as_real_imag()
    return any(isinstance(part, Float) and part != 0 and part._prec > 1 for part in parts)


def _is_percentage_of(a: Rational, b: Rational) -> bool:
    """The library takes 50% for 50 and for 1/2."""
    return a == 100 * b or b == 100 * a


def _exact(value: Any) -> Any:
    return value.xreplace({decimal: Rational(str(decimal)) for decimal in value.atoms(Float)})


def _is_inequality(value: Any) -> bool:
    return (
        (isinstance(value, Relational) and not isinstance(value, Eq))
        or isinstance(value, LatexAnd)
        or (isinstance(value, SympyFiniteSet) and any(_is_inequality(part) for part in value.args))
    )


def _as_set(value: Any, text: str) -> Set | None:
    value = _exact(_without_name(value))
    if isinstance(value, SympyFiniteSet) and _is_inequality(value):
        parts: list[Set] = [part.as_set() for part in value.args if isinstance(part, Relational | LatexAnd)]
        if len(parts) < len(value.args):
            return None
        return Intersection(*parts) if _joined_by_and(text, parts) else Union(*parts)
    if isinstance(value, LatexAnd):
        return Intersection(*(part.as_set() for part in value.args))
    if isinstance(value, Relational):
        return value.as_set()
    return value if isinstance(value, Set) else None


def _joined_by_and(text: str, parts: list[Set]) -> bool:
    """Inequalities with only a comma between are joined by `and` when they can hold together."""
    if "and" in text:
        return True
    return "or" not in text and not Intersection(*parts).is_empty
