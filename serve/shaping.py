"""Settings that change the distribution in a way that a learner does not compute: penalties, biases, and forms that an answer must have."""

import json
from collections.abc import Mapping
from typing import Any

from ..policies.types import Shaping
from .errors import refused

_MOST_BIASES = 1024
_GUIDED = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}


def read_shaping(body: Mapping[str, Any]) -> Shaping:
    """The penalties, biases and the form of an answer that a request has. Raises ApiError for values out of range."""
    return Shaping(
        frequency_penalty=_number(body, "frequency_penalty", 0.0, -2.0, 2.0),
        presence_penalty=_number(body, "presence_penalty", 0.0, -2.0, 2.0),
        repetition_penalty=_number(body, "repetition_penalty", 1.0, 0.01, 100.0),
        logit_bias=_biases(body.get("logit_bias")),
        min_tokens=int(_number(body, "min_tokens", 0, 0, 2**31 - 1)),
        constraint=read_constraint(body),
    )


def read_constraint(body: Mapping[str, Any]) -> tuple[str, str] | None:
    """The form that an answer must have, as Shaping.constraint; None for any. Raises ApiError."""
    found = [_response_format(body.get("response_format")), _structured(body.get("structured_outputs"))]
    found += [_constraint(kind, body[name]) for name, kind in _GUIDED.items() if body.get(name) is not None]
    given = [one for one in found if one is not None]
    if len(given) > 1:
        raise refused("The request gives several forms of the answer: leave all but one out.")
    return given[0] if given else None


def _response_format(given: Any) -> tuple[str, str] | None:
    if given is None:
        return None
    kind = given.get("type") if isinstance(given, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return "json_object", ""
    if kind == "json_schema":
        inner = given.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, dict) else None
        if not isinstance(schema, dict):
            raise refused("`response_format.json_schema.schema` must be an object.")
        return _constraint("json", schema)
    if kind == "structural_tag":
        return _constraint("structural_tag", given)
    raise refused("`response_format.type` must be text, json_object, json_schema or structural_tag.", "unsupported")


def _structured(given: Any) -> tuple[str, str] | None:
    """vLLM's `structured_outputs`: one kind of form by its name."""
    if given is None or given == {}:
        return None
    kinds = ("json", "json_object", "regex", "choice", "grammar", "structural_tag")
    named = [kind for kind, value in given.items() if value not in (None, False)] if isinstance(given, dict) else []
    if len(named) != 1 or named[0] not in kinds:
        raise refused(f"`structured_outputs` must have one of {', '.join(kinds)}.")
    return ("json_object", "") if named[0] == "json_object" else _constraint(named[0], given[named[0]])


def _constraint(kind: str, value: Any) -> tuple[str, str]:
    return kind, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _biases(given: Any) -> tuple[tuple[int, float], ...]:
    if not given:
        return ()
    if not isinstance(given, dict) or len(given) > _MOST_BIASES:
        raise refused(f"`logit_bias` must be an object of at most {_MOST_BIASES} token ids.")
    try:
        found = tuple((int(token), float(value)) for token, value in given.items())
    except (TypeError, ValueError) as error:
        raise refused("`logit_bias` must be an object of token ids and numbers.") from error
    if any(token < 0 or not -100 <= value <= 100 for token, value in found):
        raise refused("`logit_bias` must have token ids that are not negative, and values from -100 to 100.")
    return found


def _number(body: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise refused(f"`{name}` must be a number from {low:g} to {high:g}.")
    return float(value)
