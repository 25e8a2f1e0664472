"""format_sensitivity: gold answers written in each of the forms its prompts ask for, judged by bfcl-eval's own decoders."""

import json
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from rollhouse.eval.bfcl import Checker
from rollhouse.tests.eval.conftest import Calls, as_text

CATEGORY = "format_sensitivity"
EVERY = 11  # there are 26 forms of 200 cases each
# The benchmark's JSON decoder cuts an answer at the first `}]`, so a list of objects among the arguments never decodes.
UNPASSABLE = ("simple_python_96", "json")
_XML_TYPES = {
    bool: "boolean",
    int: "integer",
    float: "float",
    list: "array",
    dict: "dict",
    str: "string",
    type(None): "null",
}


def test_gold_passes_in_every_form_but_one_answer_in_json(gold: Callable) -> None:
    sources: dict[str, dict[str, Calls]] = {}
    forms, failed = set(), set()
    with Checker() as checker:
        everything = [case["id"] for case in checker.cases(CATEGORY, None, "prompt")]
        for number, case in enumerate(everything):
            form, tagged, source = form_of(case)
            if number % EVERY and source != UNPASSABLE[0]:
                continue
            category = source.rsplit("_", 1)[0]
            if category not in sources:
                sources[category] = gold(category, True)
            forms.add((form, tagged))
            if not checker.check(CATEGORY, case, written(sources[category][source], form, tagged), "prompt").passed:
                failed.add((case, (source, form)))
        wrong = checker.check(CATEGORY, everything[0], "I cannot do that.", "prompt")
    assert len(everything) == 5200 and len(forms) == 8
    assert len(failed) == 6 and {why for _, why in failed} == {UNPASSABLE}
    assert not wrong.passed and wrong.error_type == "ast_decoder:decoder_failed"


def written(calls: Calls, form: str, tagged: bool) -> str:
    """The calls in a form of the benchmark's."""
    text = {"python": as_text, "json": _as_json, "verbose_xml": _as_verbose_xml, "concise_xml": _as_concise_xml}[form](
        calls
    )
    return f"<TOOLCALL>{text}</TOOLCALL>" if tagged else text


def _as_json(calls: Calls) -> str:
    return json.dumps([{"function": name, "parameters": json.loads(text)} for name, text in calls])


def _as_verbose_xml(calls: Calls) -> str:
    def param(name: str, value: Any) -> str:
        return f'<param name={quoteattr(name)} value={quoteattr(_value(value))} type="{_XML_TYPES[type(value)]}"/>'

    return _functions(calls, lambda given: f"<params>{''.join(param(*item) for item in given.items())}</params>")


def _as_concise_xml(calls: Calls) -> str:
    def param(name: str, value: Any) -> str:
        return f'<param name={quoteattr(name)} type="{_XML_TYPES[type(value)]}">{escape(_value(value))}</param>'

    return _functions(calls, lambda given: "".join(param(*item) for item in given.items()))


def _functions(calls: Calls, inside: Callable[[dict[str, Any]], str]) -> str:
    listed = [f"<function name={quoteattr(name)}>{inside(json.loads(text))}</function>" for name, text in calls]
    return f"<functions>{''.join(listed)}</functions>"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def form_of(case: str) -> tuple[str, bool, str]:
    """(form of the answer, whether it stands in a tag, the case it is taken from) of an id."""
    _, wanted, source = case.split(":")
    settings = dict(part.split("=") for part in wanted.split("&"))
    return settings["ret_fmt"], settings["tool_call_tag"] == "True", source
