"""The planned inputs of NeMo Gym's results: which task a result row is of."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..store.ids import canonical_json, hash_id
from ..store.messages import Message
from ..store.reading import MessageReader
from ..store.tool_schemas import Tool, read_tools
from .rollout import Row

TASK_FIELDS = ("ground_truth", "category", "id", "environment_name")

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Planned:
    """One row of the inputs.

    Attributes:
        fields: The fields of its task, without the prompt.
        prompt: The hash of its prompt; None where it has none.
        params: Its request, where a failed attempt may have to be read with it.
    """

    fields: Row
    prompt: str | None = None
    params: Row | None = None


NOTHING = Planned({})


@dataclass
class PlannedInputs:
    """Inputs by their indices and by their prompt."""

    _by_index: dict[Key, Planned] = field(default_factory=dict)
    _by_prompt: dict[str, Planned | None] = field(default_factory=dict)
    _last: Row = field(default_factory=dict)

    def add(self, row: Row, keep_request: bool) -> None:
        """Takes a row. Raises KeyError, TypeError or ValueError for a prompt that cannot be read."""
        fields = {name: row[name] for name in (*TASK_FIELDS, "verifier_metadata") if name in row}
        # One object for the repeats of a task: a plan names each task many times.
        fields = self._last = self._last if fields == self._last else fields
        params = row.get("responses_create_params")
        prompt = None if params is None else prompt_key(read_request(params)[1])
        planned = Planned(fields, prompt, params if keep_request else None)
        if (key := index_key(row)) is not None:
            self._by_index[key] = planned
        if prompt is not None:
            same = self._by_prompt.get(prompt, planned)
            # Two tasks have this prompt, so it joins neither.
            self._by_prompt[prompt] = planned if same is not None and same.fields == fields else None

    def find(self, row: Row, prompt: Sequence[Message] | None, counts: Counter[str]) -> Planned:
        """The input of a result: the one of its indices, unless the prompts differ, else the one of its prompt; NOTHING without one.

        Args:
            prompt: The result's; None without one.
            counts: Counts how the input was found.
        """
        key = index_key(row)
        found = None if key is None else self._by_index.get(key)
        asked = None if prompt is None else prompt_key(prompt)
        how = "input_by_index"
        if found is None or (asked is not None and found.prompt is not None and found.prompt != asked):
            found, how = self._by_prompt.get(asked or ""), "input_by_prompt"
        counts["without_input" if found is None else how] += 1
        return found or NOTHING


def index_key(row: Row) -> Key | None:
    """What joins a results file with the files beside it; None for a row without its index. Null joins nothing."""
    task, rollout = row.get("_ng_task_index"), row.get("_ng_rollout_index")
    return None if task is None or rollout is None else (task, rollout)


def attempt_key(row: Row) -> Key | None:
    """What the attempts at one rollout share; None where a row has neither."""
    name = row.get("_ng_rollout_id")
    return index_key(row) if name in (None, "") else (name,)


def prompt_key(prompt: Sequence[Message]) -> str:
    """The hash of a prompt's messages."""
    return hash_id(canonical_json([message.to_openai() for message in prompt]))


def read_request(params: Row) -> tuple[list[Tool], list[Message], MessageReader]:
    """Tools and prompt of `responses_create_params`, and the reader that goes on with the output. `instructions` are the system message.

    Raises KeyError, TypeError or ValueError for what is not a request.
    """
    tools = read_tools(params.get("tools"))
    reader = MessageReader(tools=tools)
    instructions = params.get("instructions")
    prompt = [Message("system", instructions)] if instructions and isinstance(instructions, str) else []
    return tools, prompt + reader.read(params["input"], where="input"), reader
