"""What models really write around tool calls is read in each built-in form, in time linear in its length."""

from itertools import product
from time import thread_time

import pytest
from rollhouse.policies.parsers import BUILT_IN, split_thinking

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}} for name in ("f", "now")]  # fmt: skip
CALL = '{"name": "f", "arguments": {"x":  1}}'
ONE = [("f", '{"x":  1}')]

# body of a block, calls, failures, text that is left beside the calls
BODIES = [
    ('{"name": "f", "arguments": {"x": "a CLOSE tag"}}', [("f", '{"x": "a CLOSE tag"}')], 0, None),
    ('{"name": "f", "arguments": {"x": "an OPEN tag"}}', [("f", '{"x": "an OPEN tag"}')], 0, None),
    ('{"name": "f", "arguments": {"x": "OPENCLOSE\\"CLOSE"}}', [("f", '{"x": "OPENCLOSE\\"CLOSE"}')], 0, None),
    ('{"name": "f", "arguments": "{\\"x\\": \\"CLOSE\\"}"}', [("f", '{"x": "CLOSE"}')], 0, None),
    ('{"name": "now"}', [("now", "{}")], 0, None),
    ('{"name": "now", "arguments": null}', [("now", "{}")], 0, None),
    ('{"name": "now", "arguments": ""}', [("now", "{}")], 0, None),
    ('{"name": "now", "arguments": {}}', [("now", "{}")], 0, None),
    ('{"name": "f", "parameters": {"x":  1}}', ONE, 0, None),
    ('{"tool_call_id": "0", "tool_name": "f", "parameters": {"x":  1}}', ONE, 0, None),
    ('{"tool_call_id": "0", "tool_name": "now"}', [("now", "{}")], 0, None),
    ('{"type": "function", "function": {"name": "f", "arguments": {"x":  1}}}', ONE, 0, None),
    ('{"name": "f", "arguments": {"name": "g"}}', [("f", '{"name": "g"}')], 0, None),
    (f"```json\n{CALL}\n```", ONE, 0, None),
    (f"[{CALL}]", ONE, 0, None),
    (f"[{CALL}, {CALL}]", ONE * 2, 0, None),
    (f"{CALL}\n{CALL}", ONE * 2, 0, None),
    (f"{CALL}}}", ONE, 0, "}"),
    (f"{CALL} as you wished", ONE, 0, "as you wished"),
    (CALL[:-1], ONE, 1, None),
    (f"[{CALL}", ONE, 1, None),
    (f"[{CALL}, {{bad]", ONE, 1, ", {bad]"),
    ('{"name": "f", "arguments": {"x": "two\nlines CLOSE"}}', [("f", '{"x": "two\nlines CLOSE"}')], 1, None),
    ('{"name": "f", "arguments": {"x": "CLOSE", "y": }}', [("f", '{"x": "CLOSE", "y": }')], 1, None),
]  # fmt: skip
TAGS = {"hermes": ("<tool_call>", "</tool_call>"), "nemotron_json": ("<TOOLCALL>", "</TOOLCALL>"), "cohere": ("<|START_ACTION|>", "<|END_ACTION|>")}  # fmt: skip


@pytest.mark.parametrize("parser", TAGS)
@pytest.mark.parametrize(("body", "calls", "failures", "rest"), BODIES)
@pytest.mark.parametrize("frame", ["OPEN\nBODY\nCLOSE", "OPENBODY", "OPEN\nOPENBODYCLOSE\nCLOSE", "OPENBODYOPEN\n"])
def test_one_block(parser: str, body: str, calls: list, failures: int, rest: str | None, frame: str) -> None:
    opening, closing = TAGS[parser]
    text, found, counted = BUILT_IN[parser](_tagged(frame.replace("BODY", body), parser), TOOLS)
    expected = [(name, _tagged(arguments, parser)) for name, arguments in calls]
    assert (text, found, counted) == (rest, expected, failures), (opening, closing)


@pytest.mark.parametrize("parser", TAGS)
@pytest.mark.parametrize(
    ("text", "calls", "failures", "rest"),
    [
        (f"a OPEN{CALL}CLOSE b OPEN{CALL}CLOSE c", 2, 0, "a\nb\nc"),
        (f"OPEN{CALL}\nOPEN{CALL}\nCLOSE", 2, 0, None),
        (f"OPENjunk OPEN{CALL}CLOSE", 1, 1, "OPENjunk"),
        (f"OPEN{CALL}CLOSE OPEN junk CLOSE", 1, 1, "OPEN junk CLOSE"),
        (f"{CALL}CLOSE", 0, 1, f"{CALL}CLOSE"),
        (f"OPEN{{'name': 'f', 'arguments': {{}}}}CLOSE OPEN{CALL}CLOSE", 1, 1, "OPEN{'name': 'f', 'arguments': {}}CLOSE"),
        ('OPEN{"name": "f", "arguments": {"x": "cut', 0, 1, 'OPEN{"name": "f", "arguments": {"x": "cut'),
        ('OPEN{"name": "f", "x": 1}CLOSE', 0, 1, 'OPEN{"name": "f", "x": 1}CLOSE'),
        ("no call", 0, 0, "no call"),
    ],
)  # fmt: skip
def test_tags(parser: str, text: str, calls: int, failures: int, rest: str | None) -> None:
    expected = (None if rest is None else _tagged(rest, parser), ONE * calls, failures)
    assert BUILT_IN[parser](_tagged(text, parser), TOOLS) == expected


def _tagged(text: str, parser: str) -> str:
    opening, closing = TAGS[parser]
    return text.replace("OPEN", opening).replace("CLOSE", closing)


P = '{"name": "f", "parameters": {"x":  1}}'


@pytest.mark.parametrize(
    ("parser", "text", "expected"),
    [
        ("llama3_json", P, (None, ONE, 0)),
        ("llama3_json", f"<|python_tag|>{P}; {P}", (None, ONE * 2, 0)),
        ("llama3_json", '{"name": "now"}', (None, [("now", "{}")], 0)),
        ("llama3_json", '{"name": "Bob"}', ('{"name": "Bob"}', [], 0)),
        ("llama3_json", '{"total": 3}', ('{"total": 3}', [], 0)),
        ("llama3_json", "The set {1}", ("The set {1}", [], 0)),
        ("llama3_json", f"{P}\nDone.", ("Done.", ONE, 0)),
        ("llama3_json", '{"name": "f", "parameters": {"x": }}', (None, [("f", '{"x": }')], 1)),
        ("llama3_json", "<|python_tag|>print(1)", ("<|python_tag|>print(1)", [], 1)),
        ("mistral", f"[TOOL_CALLS] [{CALL}, {CALL}]", (None, ONE * 2, 0)),
        ("mistral", f"ok [TOOL_CALLS]{CALL}", ("ok", ONE, 0)),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"x":  1}[TOOL_CALLS]f{"x":  1}', (None, ONE * 2, 0)),
        ("mistral", '[TOOL_CALLS]f[CALL_ID]abc123def[ARGS]{"x":  1} then', ("then", ONE, 0)),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"x": "a [TOOL_CALLS] mark"}', (None, [("f", '{"x": "a [TOOL_CALLS] mark"}')], 0)),
        ("mistral", "[TOOL_CALLS]now", (None, [("now", "{}")], 0)),
        ("mistral", '[TOOL_CALLS]f[ARGS]{"x": }', (None, [("f", '{"x": }')], 1)),
        ("mistral", "[TOOL_CALLS] junk here", ("[TOOL_CALLS] junk here", [], 1)),
        ("mistral", "[TOOL_CALLS]", ("[TOOL_CALLS]", [], 1)),
        ("mistral", "no call", ("no call", [], 0)),
    ],
)  # fmt: skip
def test_forms_with_a_mark(parser: str, text: str, expected: tuple) -> None:
    assert BUILT_IN[parser](text, TOOLS) == expected


MARKS = {
    "hermes": TAGS["hermes"],
    "nemotron_json": TAGS["nemotron_json"],
    "cohere": TAGS["cohere"],
    "llama3_json": ("<|python_tag|>", ""),
    "mistral": ("[TOOL_CALLS]", "[TOOL_CALLS]f[ARGS]"),
}
STARTS = ["", '{"name": "f", "arguments": ', '{"name": "f", "arguments": {"x": "', "[", "f[CALL_ID]"]
PIECES = [" ", "\n", '"', "\\", "{", "[", '\\"', '{"', '["', "'", "1", "x", "},{", '{"name":"f"},', '{"a":']
BEHIND = [*PIECES, '","', "```", '{"name": "f", "arguments": {"', "\\\\", '"\\']


@pytest.mark.parametrize("parser", BUILT_IN)
def test_time_is_linear(parser: str) -> None:
    """Quadruple text takes about four times as long: a quadratic reader takes sixteen times as long."""
    marks = MARKS[parser]
    repeated = [*PIECES, *marks, "".join(marks), *(f"{mark}{piece}" for mark in marks for piece in BEHIND)]
    for start, piece in product([f"{mark}{start}" for mark in marks for start in STARTS], filter(None, repeated)):
        times = [_seconds(parser, start, piece, length) for length in (2_000, 8_000)]
        if times[1] > 0.002 and times[1] > 8 * times[0]:  # measured again, longer, before it is a fault
            times = [min(_seconds(parser, start, piece, n) for _ in range(3)) for n in (10_000, 40_000)]
            assert times[1] < 8 * times[0], (start, piece, times)


def _seconds(parser: str, start: str, piece: str, length: int) -> float:
    text = start + piece * (length // len(piece))
    began = thread_time()
    BUILT_IN[parser](text, TOOLS)
    split_thinking(text)
    return thread_time() - began
