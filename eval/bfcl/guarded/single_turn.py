"""The benchmark's verdict on the answer to a case of one turn."""

import json

from bfcl_eval.constants.enums import Language, ReturnFormat
from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker
from bfcl_eval.model_handler.utils import default_decode_ast_prompting, parse_prompt_variation_params
from bfcl_eval.utils import (
    extract_prompt_format_from_id,
    is_empty_output,
    is_format_sensitivity,
    is_function_calling_format_output,
    is_java,
    is_js,
    is_relevance_or_irrelevance,
)
from cases import answers, verdict
from literal import Refused, refuse_expressions


def check(category: str, mode: str, id: str, answer) -> dict:
    """The verdict; an answer that breaks the benchmark's checker is wrong."""
    try:
        return judge(category, mode, id, answer)
    except Exception as error:
        return verdict(False, f"checker_error:{type(error).__name__}", str(error))


def judge(category: str, mode: str, id: str, answer) -> dict:
    """Decodes and checks as bfcl-eval does; text that does not decode is not a call."""
    entry, gold = answers(category)[id]
    decoded, problem = None, ""
    try:
        decoded = decode_calls(answer) if mode == "fc" else decode_text(category, id, answer)
    except Refused as error:
        return verdict(False, "refused", str(error))
    except Exception as error:  # the package's decoders raise any exception
        problem = f"{type(error).__name__}: {error}"
    if is_relevance_or_irrelevance(category):
        called = decoded is not None and not is_empty_output(decoded)
        if "irrelevance" in category:
            return verdict(not called, "irrelevance_error:decoder_success", "a function was called")
        return verdict(called, "relevance_error:decoder_failed", problem)
    if decoded is None:
        return verdict(False, "ast_decoder:decoder_failed", problem)
    if not is_function_calling_format_output(decoded):
        return verdict(False, "ast_decoder:decoder_wrong_output_format", "arguments are not a JSON object")
    # A case of format_sensitivity names the category it is taken from in its id.
    judged_as = id.split(":")[-1] if is_format_sensitivity(category) else category
    result = ast_checker(entry["function"], decoded, gold, language(category), judged_as, f"rollhouse-{mode}")
    # A valid verdict has an error type too, without meaning.
    return verdict(result["valid"], result.get("error_type", "unclear"), result.get("error", ""))


def decode_calls(calls: list[list[str]] | str) -> list[dict]:
    """Function calls as the checker takes them. Raises ValueError without calls: answer text does not decode."""
    if isinstance(calls, str) or not calls:
        raise ValueError("the answer calls nothing")
    return [{name: json.loads(arguments)} for name, arguments in calls]


def decode_text(category: str, id: str, text: str) -> list[dict]:
    """Calls written as text, by the package's decoder for the form that the prompt requires."""
    form, tagged = ReturnFormat.PYTHON, False
    if is_format_sensitivity(category):
        name, tagged, *_ = parse_prompt_variation_params(extract_prompt_format_from_id(id))
        form = ReturnFormat(name)
    elif is_java(category) or is_js(category):
        form = ReturnFormat.JAVA if is_java(category) else ReturnFormat.JAVASCRIPT
    if form is ReturnFormat.PYTHON:
        refuse_expressions(python_of(text, tagged))
    return default_decode_ast_prompting(text, form, tagged)


def python_of(text: str, tagged: bool) -> str:
    """The text that the package's decoder parses as Python: the answer without its fence, in brackets, or the content of its tag."""
    text = text.strip("`\n ")
    text = text if text.startswith("[") else "[" + text
    text = text if text.endswith("]") else text + "]"
    if tagged and "<TOOLCALL>" in text:
        text = text.split("<TOOLCALL>", 1)[1].split("</TOOLCALL>", 1)[0]
    return text


def language(category: str) -> Language:
    """The language of the arguments' literals."""
    return Language.JAVA if is_java(category) else Language.JAVASCRIPT if is_js(category) else Language.PYTHON
