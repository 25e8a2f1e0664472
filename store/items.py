"""OpenAI Responses items as drafts of messages.

One model call gives several items (reasoning, text, calls); the store keeps one assistant message for it. A call ends at the item that carries
its tokens, else at an output or at the end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .content import BOOKKEEPING, CallDraft, MessageDraft, Notes, json_text, read_call, read_content, read_result, wrong

_TOKEN_KEYS = ("prompt_token_ids", "generation_token_ids", "generation_log_probs")
_CALLS = {"function_call", "custom_tool_call"}
# Only Responses has items of these kinds.
KINDS = {*_CALLS, "function_call_output", "custom_tool_call_output", "reasoning", "item_reference", "compaction"}

Item = Mapping[str, Any]


@dataclass(frozen=True)
class TokenCall:
    """What one model call saw and sampled. `logprobs` is parallel to `generation`."""

    prompt: list[int]
    generation: list[int]
    logprobs: list[float]


def is_item(value: Any) -> bool:
    """Whether a value is of a kind that only Responses has. Older files leave the type out."""
    if not isinstance(value, Mapping) or isinstance(value.get("from"), str):
        return False
    kind = value.get("type")
    if isinstance(kind, str):
        return kind in KINDS or kind.endswith(("_call", "_call_output"))
    return "role" not in value and any(name in value for name in ("arguments", "summary", "output"))


def item_type(item: Item) -> str:
    """The item's type; older files leave it out."""
    if isinstance(item.get("type"), str):
        return item["type"]
    if "arguments" in item:
        return "function_call"
    if "summary" in item:
        return "reasoning"
    return "function_call_output" if "output" in item else "message"


class Items:
    """Reads one list of items.

    Attributes:
        token_calls: The calls that carry tokens, in order.
        lengths: After each item, how many drafts are complete.
    """

    def __init__(self, notes: Notes, message: Callable[[Item, str], list[MessageDraft]]) -> None:
        """`message` reads a message that is not the policy's."""
        self._notes, self._message = notes, message
        self._drafts: list[MessageDraft] = []
        self._pending: MessageDraft | None = None
        self._n_pending = 0
        self.token_calls: list[TokenCall] = []

    def read(self, items: Sequence[Any], path: str) -> list[MessageDraft]:
        for number, item in enumerate(items):
            if not isinstance(item, Mapping):
                raise wrong(f"{path}[{number}]", f"is a {type(item).__name__}, not an item")
            self._item(item, f"{path}[{number}]")
        self._close()
        return self._drafts

    def _item(self, item: Item, path: str) -> None:
        kind = item_type(item)
        if kind == "message":
            self._said(item, path)
        elif kind == "reasoning":
            self._thought(item, path)
        elif kind.endswith("_output"):
            self._close()
            self._drafts.append(read_result(item, path, self._notes))
        elif kind in _CALLS:
            # The item's own id is not the call's.
            self._open().calls.append(read_call({name: value for name, value in item.items() if name not in ("id", "type", *_TOKEN_KEYS)}, path, self._notes))  # fmt: skip
        elif kind.endswith("_call"):
            self._server_call(kind, item, path)
        else:
            self._notes.note(path, dict(item))
        if item.get("generation_token_ids"):
            prompt, generation, logprobs = (list(item.get(key) or []) for key in _TOKEN_KEYS)
            self.token_calls.append(TokenCall(prompt, generation, logprobs))
            self._close(inferred=False)

    def _open(self) -> MessageDraft:
        self._pending = self._pending or MessageDraft("assistant")
        self._n_pending += 1
        return self._pending

    def _close(self, inferred: bool = True) -> None:
        if self._pending is not None:
            self._drafts.append(self._pending)
            if inferred and self._n_pending > 1:
                self._notes.gaps.add("call_boundaries_inferred")
        self._pending, self._n_pending = None, 0

    def _said(self, item: Item, path: str) -> None:
        if item.get("role", "assistant") != "assistant":
            self._close()
            self._drafts += self._message(item, path)
            return
        draft = self._open()
        self._notes.leftovers(item, {*BOOKKEEPING, *_TOKEN_KEYS, "role", "content", "routed_experts", "phase"}, path)
        for one in read_content(item.get("content"), "assistant", f"{path}.content", self._notes):
            if one.text is not None:
                draft.text = (draft.text or "") + one.text
            draft.parts = [*(draft.parts or []), *one.parts] if one.parts else draft.parts
            draft.calls += one.calls
            self._think(draft, one.reasoning)

    def _thought(self, item: Item, path: str) -> None:
        draft = self._open()
        content, summary = (item.get(name) for name in ("content", "summary"))
        texts = [self._notes.text(text) for text in map(_texts, (content, summary)) if text]
        if len(texts) > 1 and texts[0] != texts[1]:
            self._notes.note(f"{path}.summary", summary)
        self._notes.leftovers(item, {*BOOKKEEPING, *_TOKEN_KEYS, "content", "summary", "routed_experts"}, path)
        self._think(draft, texts[0] if texts else "")

    def _think(self, draft: MessageDraft, text: str | None) -> None:
        if text is not None:
            draft.reasoning = text if draft.reasoning is None else f"{draft.reasoning}\n{text}"

    def _server_call(self, kind: str, item: Item, path: str) -> None:
        """A call that the server answers itself, such as a web search; its result is in the item where there is one."""
        rest = {name: value for name, value in item.items() if name not in {*BOOKKEEPING, *_TOKEN_KEYS, "call_id", "name", "arguments", "output", "result", "server_label"} and value is not None}  # fmt: skip
        id = item.get("call_id") or item.get("id")
        arguments = item.get("arguments") if item.get("arguments") is not None else rest.get("action", rest)
        if not isinstance(arguments, str):
            arguments = json_text(arguments)
        name = item["name"] if isinstance(item.get("name"), str) else kind.removesuffix("_call")
        self._notes.gaps.add("server_calls")
        self._open().calls.append(CallDraft(str(id) if id else None, name, self._notes.text(arguments or "{}")))
        output = item.get("output") if item.get("output") is not None else item.get("result")
        if output is not None:
            self._close()
            made = read_content(output, "tool", f"{path}.output", self._notes) or [MessageDraft("tool")]
            made[0].answers, made[0].tool = (str(id) if id else None), name
            self._drafts.append(made[0])


def _texts(parts: Any) -> str:
    """The text of a reasoning item's content or summary, its parts on lines of their own."""
    if isinstance(parts, str):
        return parts
    found = [part if isinstance(part, str) else part.get("text") for part in parts or () if isinstance(part, str | Mapping)]  # fmt: skip
    return "\n".join(text for text in found if isinstance(text, str) and text)
