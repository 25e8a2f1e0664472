"""Decides which text may be passed to code that evaluates: literals, and calls of known functions with literals."""

import ast

# Results of these are at most a few digits longer than their text; those of powers and shifts are not.
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)


class Refused(ValueError):
    """An answer contains code other than literals."""


def refuse_expressions(text: str) -> None:
    """Raises Refused when decoding the text as Python would evaluate more than sums of numbers; SyntaxError if it is not Python.

    bfcl-eval's decoder evaluates binary operations and lambdas that it finds among the arguments.
    """
    for node in ast.walk(ast.parse(text.strip().strip("'"), mode="eval")):
        if isinstance(node, ast.BinOp) and not _sum_of_numbers(node):
            raise Refused("the answer has an expression among its arguments")
        if isinstance(node, (ast.Lambda, ast.Await, ast.NamedExpr, ast.GeneratorExp, ast.ListComp, ast.DictComp, ast.SetComp)):  # fmt: skip
            raise Refused("the answer has code among its arguments")


def _sum_of_numbers(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, _ARITHMETIC) and _sum_of_numbers(node.left) and _sum_of_numbers(node.right)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, (ast.USub, ast.UAdd)) and _sum_of_numbers(node.operand)
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def plain_call(source: str, names: set[str]) -> bool:
    """Whether the text is `name(literal, key=literal)` with a known name."""
    try:
        call = ast.parse(source, mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names):
            return False
        for value in [*call.args, *(keyword.value for keyword in call.keywords)]:
            ast.literal_eval(value)
        return all(keyword.arg for keyword in call.keywords)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return False
