"""A rollout: prompt, messages, tokens and verdict of one attempt at a task. The class defines the table `rollouts`."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime
from typing import Annotated, Any, Protocol

import pyarrow as pa

from ..base.errors import SchemaMismatch
from ..base.html import cell_text, html_table
from .messages import Message, VersionSpan
from .pairing import parses
from .reading import MessageList, MessageReader, split_prompt
from .schema import Stored, Table, json_object_text
from .task import Component, Prompt, PromptTokens, Score, Task
from .token_pieces import token_pieces
from .tool_schemas import read_tools

STATUSES = ("completed", "truncated", "error", "timeout", "aborted")
FAILED = ("error", "timeout", "aborted")
_I64, _F64 = pa.int64(), pa.float64()
# Tool results that begin like this are errors.
_TOOL_ERRORS = ('{"error":', '{"detail":', '{"output":"Error executing tool')


@dataclass(frozen=True)
class Token:
    """One token after the prompt.

    Attributes:
        text: What it adds to the text of the tokens before it: joined they are the tokenizer's text of all. None without a tokenizer.
        sampled: Whether the policy sampled it; others are tool results and chat markup.
        logprob: The engine's, None for a token that was not sampled or whose logprob is not known.
        version: Policy version it was sampled from; None when not known.
    """

    id: int
    text: str | None
    sampled: bool
    logprob: float | None
    version: int | None


class Decodes(Protocol):
    """A tokenizer, as far as tokens need it."""

    def decode(self, token_ids: list[int]) -> str:
        """The text of some tokens."""
        ...


class Texts(Protocol):
    """Texts of tokens by the hash of their tokenizer."""

    def pieces(self, tokenizer_hash: str | None, ids: Sequence[int]) -> list[str] | None:
        """The text that each token adds; None without the tokenizer."""
        ...

    def gap(self, tokenizer_hash: str | None) -> str | None:
        """Why there is no text; None when there is."""
        ...


@dataclass(kw_only=True)
class Rollout:
    """One trajectory of one agent.

    `Rollout(messages=[{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}], reward=1.0)` is enough: the rest is
    filled in. Messages are in OpenAI chat form or `Message` objects. Without `prompt` and `task` they are the whole conversation: what
    comes before the first assistant message becomes the prompt, and `messages` is what follows. With a prompt or a task they are what
    follows it.

    Filled in where they are None: prompt, task and tools, ids that follow from content (`prompt_id`, `task_id`), counts, `passed` (a reward of 1
    or more), `stop_reason` of a failed rollout, `gaps`. What depends on the run is filled in when the rollout is added to one: `run_id`,
    `rollout_id` and `slot_id` ("" until then), `group_id`, `episode_id` and `sample_index`.

    Attributes:
        prompt: The first messages and the tools; None only for a row that was read without it, or that refers to none.
        tools: Tool schemas in OpenAI chat form, in order; those of the prompt.
        task: The task; without one given, a task of the prompt without a ground truth.
        prompt_token_ids: The prompt's tokens; None when unknown.
        scores: Verdicts of other scorers, or the raw verdict beside a shaped reward.

    The other attributes are the columns of `rollouts`, see docs/store.md. None means not observed, an empty list that there was none.

    Raises SchemaMismatch, naming the path, for what does not fit: an unknown key in a message, a reward that is not finite, an unknown
    status, token lists of different lengths, no assistant message in a conversation that did not fail.
    """

    rollout_id: Annotated[str, Stored("H(run_id, step or -1, task_id, sample_index, attempt)")] = ""
    slot_id: Annotated[str, Stored("the same without attempt")] = ""
    run_id: Annotated[str, Stored("the run that wrote it")] = ""
    step: Annotated[int | None, Stored("optimizer step it was sampled for; null outside online training")] = None
    task_id: Annotated[str | None, Stored("row of `tasks`")] = None
    prompt_id: Annotated[str | None, Stored("row of `prompts`")] = None
    group_id: Annotated[str | None, Stored("shared by rollouts of one task sampled together")] = None
    sample_index: Annotated[int | None, Stored("position in the group, from 0")] = None
    attempt: Annotated[int, Stored("0 for the first try at a slot")] = 0
    episode_id: Annotated[str | None, Stored("shared by the agents and branches of one episode")] = None
    agent: Annotated[str, Stored("agent of the episode")] = "main"
    branch: Annotated[int, Stored("branch of the agent's conversation, from 0")] = 0
    trainable: Annotated[bool, Stored("whether the agent is trained")] = True
    environment: Annotated[str, Stored("name of the environment")] = "unknown"
    policy_id: Annotated[str | None, Stored("weights hash, run_id of the online run, or the endpoint's model name")] = (
        None
    )
    policy_version: Annotated[int | None, Stored("policy version of the first sampled token")] = None
    policy_version_last: Annotated[int | None, Stored("of the last sampled token")] = None
    version_spans: Annotated[
        list[VersionSpan] | None,
        Stored("policy version from position `start` of token_ids on; null without tokens"),
    ] = None
    tokenizer_hash: Annotated[str | None, Stored("of the tokenizer; null without tokens")] = None
    template_hash: Annotated[str | None, Stored("of the chat template")] = None
    engine: Annotated[str | None, Stored("vllm, torch, openai, scripted, or the imported format")] = None
    temperature: Annotated[float | None, Stored("null if the engine has none")] = None
    top_p: Annotated[float | None, Stored("1 is off")] = None
    top_k: Annotated[int | None, Stored("-1 is off")] = None
    min_p: Annotated[float | None, Stored("0 is off")] = None
    max_tokens: Annotated[int | None, Stored("sampled tokens per model call")] = None
    sampling_seed: Annotated[int | None, Stored("seed of the engine", _I64)] = None
    logprobs_mode: Annotated[
        str | None, Stored("processed: of the distribution sampled from; raw: before temperature and filters")
    ] = None
    messages: Annotated[MessageList, Stored("after the prompt: assistant and tool messages", like=list[Message])] = (
        MessageList()  # noqa: RUF009  (a descriptor, no default)
    )
    token_ids: Annotated[
        list[int] | None,
        Stored("after the prompt, tool results included, as the engine saw them", zstd=True),
    ] = None
    loss_mask: Annotated[
        list[int] | None, Stored("parallel to token_ids: 1 if sampled by the policy", pa.list_(pa.int8()))
    ] = None
    logprobs: Annotated[list[float] | None, Stored("the engine's, one per sampled token", zstd=True)] = None
    n_prompt_tokens: Annotated[int | None, Stored("prompt length")] = None
    n_tokens: Annotated[int | None, Stored("length of token_ids")] = None
    n_sampled_tokens: Annotated[int | None, Stored("sum of loss_mask")] = None
    n_turns: Annotated[int | None, Stored("model calls")] = None
    n_tool_calls: Annotated[int | None, Stored("tool calls")] = None
    n_tool_errors: Annotated[int | None, Stored("tool calls that returned an error")] = None
    n_parse_failures: Annotated[int | None, Stored("tool calls that did not parse")] = None
    reward: Annotated[float | None, Stored("verdict at collection time; null if none")] = None
    reward_components: Annotated[list[Component] | None, Stored("parts of the reward")] = None
    passed: Annotated[bool | None, Stored("whether the task is solved")] = None
    scorer: Annotated[str | None, Stored("scorer of the verdict")] = None
    scorer_version: Annotated[str | None, Stored("its version")] = None
    status: Annotated[str, Stored("completed, truncated, error, timeout or aborted")] = "completed"
    stop_reason: Annotated[str | None, Stored("why the episode ended: stop, length, max_turns, …")] = None
    error_type: Annotated[
        str | None, Stored("what failed: engine, tool, environment, verifier, template, …; null if nothing")
    ] = None
    error_message: Annotated[str | None, Stored("one line")] = None
    prefix_ok: Annotated[
        bool | None, Stored("whether every prompt began with all earlier tokens; null without tokens")
    ] = None
    gaps: Annotated[list[str] | None, Stored("what the source lacks: no_token_ids, no_task, …")] = None
    extra: Annotated[dict[str, Any], Stored("JSON of imported fields without a column", text=json_object_text)] = field(
        default_factory=dict
    )
    started_at: Annotated[datetime | None, Stored("first model call")] = None
    duration_s: Annotated[float | None, Stored("start to verdict", _F64)] = None
    generate_s: Annotated[float | None, Stored("waiting for the policy", _F64)] = None
    tool_s: Annotated[float | None, Stored("in tools", _F64)] = None
    verify_s: Annotated[float | None, Stored("in the verifier", _F64)] = None
    n_retries: Annotated[int | None, Stored("retried requests to the policy; null if not observed")] = None
    turn_rewards: Annotated[list[float] | None, Stored("reward of each turn; null if turns have none")] = None
    rationale: Annotated[str | None, Stored("why the verdict is so, in a judge's words; null without any")] = None
    routed_experts: Annotated[
        str | None,
        Stored("experts the engine chose by position and layer, a packed array; null unless requested"),
    ] = None
    prompt: Prompt | None = None
    tools: Sequence[Mapping[str, Any]] | None = field(default=None, compare=False)
    task: Task | None = None
    prompt_token_ids: list[int] | None = None
    scores: list[Score] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._fill_prompt()
        self._fill_verdict()
        self._fill_counts()
        if self.gaps is None:
            self.gaps = self.missing()
        self._check()

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Rollout":
        """A rollout from a dict of constructor arguments. Keys that no field takes go to `extra`, those inside messages by their path.

        Raises as the constructor does.
        """
        known = {each.name for each in fields(cls)}
        extra = {name: value for name, value in record.items() if name not in known}
        given = {name: value for name, value in record.items() if name in known}
        reader = MessageReader(on_unknown=extra.__setitem__)
        if isinstance(given.get("prompt"), Mapping):
            prompt = given["prompt"]
            before = reader.read(prompt.get("messages"), where="prompt.messages")
            given["prompt"] = Prompt(tuple(before), tuple(read_tools(prompt.get("tools"))))
        given["messages"] = reader.read(record.get("messages"), "assistant")
        rollout = cls(**{**given, "extra": {**(given.get("extra") or {}), **extra}})
        if reader.gaps and given.get("gaps") is None:
            rollout.gaps = sorted({*(rollout.gaps or ()), *reader.gaps})
        return rollout

    @classmethod
    def from_row(
        cls,
        row: Mapping[str, Any],
        prompt: Prompt | None = None,
        task: Task | None = None,
        prompt_token_ids: list[int] | None = None,
        scores: Sequence[Score] = (),
    ) -> "Rollout":
        """A row of `rollouts` as it was read; columns it lacks have their defaults. Nothing is filled in or checked."""
        rollout = object.__new__(cls)
        values = ROLLOUTS.values(row)
        for each in fields(cls):
            if each.name not in values:
                values[each.name] = each.default_factory() if each.default_factory is not MISSING else each.default
        values["messages"] = values["messages"] if isinstance(values["messages"], list) else []
        rollout.__dict__.update(values)
        rollout.prompt, rollout.task, rollout.prompt_token_ids = prompt, task, prompt_token_ids
        rollout.tools = None if prompt is None else prompt.tools
        rollout.scores = list(scores)
        return rollout

    def to_row(self) -> dict[str, Any]:
        """The row of `rollouts`: every column, structs as dicts and JSON as text."""
        return ROLLOUTS.row(self)

    def changed(self, **columns: Any) -> "Rollout":
        """A copy with other values in some attributes; nothing is filled in or checked again."""
        other = copy.copy(self)
        for name, value in columns.items():
            setattr(other, name, value)
        return other

    def to_openai(self) -> list[dict[str, Any]]:
        """The whole conversation, prompt included, as OpenAI chat messages."""
        prompt = self.prompt.messages if self.prompt is not None else ()
        return [message.to_openai() for message in (*prompt, *self.messages)]

    def tokens(self, tokenizer: Decodes | None = None) -> list[Token]:
        """The tokens after the prompt, in order; empty when none were observed.

        Their texts come from `tokenizer`, else from the store that the rollout was read from (`Store.rollout`); `text_gap` says why there are none.
        """
        ids = self.token_ids or []
        kept = self._texts()
        texts: Sequence[str] | None = None
        if tokenizer is not None:
            texts = token_pieces(ids, lambda some: tokenizer.decode(list(some)))
        elif kept is not None:
            texts = kept.pieces(self.tokenizer_hash, ids)
        found: list[Token] = []
        logprobs = iter(self.logprobs or ())
        spans = list(self.version_spans or ())
        version = None
        for position, (token, mask) in enumerate(zip(ids, self.loss_mask or (), strict=True)):
            while spans and spans[0].start <= position:
                version = spans.pop(0).version
            text = None if texts is None else texts[position]
            found.append(Token(token, text, bool(mask), next(logprobs, None) if mask else None, version))
        return found

    def text_gap(self) -> str | None:
        """Why `tokens()` have no text; None when they have, or when there are no tokens."""
        if not self.token_ids:
            return None
        kept = self._texts()
        return "the rollout was not read from a store" if kept is None else kept.gap(self.tokenizer_hash)

    def read_texts_from(self, texts: "Texts") -> None:
        """Names the source of the tokens' texts."""
        self.__dict__["texts from"] = texts  # not a field: two rollouts are equal wherever they were read

    def _texts(self) -> "Texts | None":
        return self.__dict__.get("texts from")

    def _repr_html_(self) -> str:
        """For notebooks: verdict and status, then the conversation, a row a message."""
        prompt = self.prompt.messages if self.prompt is not None else ()
        facts = {
            "reward": self.reward,
            "passed": self.passed,
            "status": self.status,
            "run": self.run_id,
            "policy": self.policy_id,
        }
        said = ", ".join(f"{name} {cell_text(value)}" for name, value in facts.items() if value is not None)
        rows = [
            {
                "role": message.role,
                "message": message.text or message.reasoning or message.parts or "",
                "calls": _calls(message),
            }
            for message in (*prompt, *self.messages)
        ]
        return html_table(rows, title=f"rollout {self.rollout_id or '(not stored)'}", note=said)

    def prompt_tokens(self) -> PromptTokens | None:
        """The row of `prompt_tokens` it refers to; None when the prompt's tokens, or the tokenizer they are of, are not known."""
        hashes = (self.tokenizer_hash, self.template_hash)
        if self.prompt_token_ids is None or self.prompt_id is None or hashes == (None, None):
            return None
        return PromptTokens(self.prompt_id, *hashes, self.prompt_token_ids)

    def missing(self) -> list[str]:
        """What the rollout does not tell, as `gaps` names it: no_tools, no_system_prompt, no_task, no_reward, no_token_ids, no_prompt_tokens."""
        prompt = self.prompt.messages if self.prompt is not None else ()
        found = {
            "no_tools": not self.tools,
            "no_system_prompt": not any(message.role in ("system", "developer") for message in prompt),
            "no_task": self.task is None or self.task.ground_truth is None,
            "no_reward": self.reward is None,
            "no_token_ids": self.token_ids is None and self.prefix_ok is None,
            "no_prompt_tokens": self.token_ids is not None and self.prompt_token_ids is None,
        }
        return sorted({name for name, is_so in found.items() if is_so} | self.__dict__.get("_read_gaps", set()))

    def _fill_prompt(self) -> None:
        if self.task is not None:
            self.prompt = self.prompt or self.task.prompt
            self.environment = self.task.environment if self.environment == "unknown" else self.environment
            self.task_id = self.task_id or self.task.task_id
        elif self.prompt is None and self.prompt_id is None and self.messages:
            failed = self.status in FAILED and all(message.role != "assistant" for message in self.messages)
            before, after = (self.messages, []) if failed else split_prompt(self.messages)
            self.prompt = Prompt(tuple(before), tuple(self.tools or ()))
            self.__dict__["messages"] = after
        if self.prompt is None:
            return
        if self.tools is not None and not self.prompt.tools:
            self.prompt = Prompt(self.prompt.messages, tuple(self.tools))
        self.tools = self.prompt.tools
        self.prompt_id = self.prompt_id or self.prompt.prompt_id
        if self.task is None and self.task_id is None:
            self.task = Task.of(self.environment, self.prompt)
            self.task_id = self.task.task_id

    def _fill_verdict(self) -> None:
        if self.reward_components is not None:
            self.reward_components = [_component(part) for part in self.reward_components]
        if self.reward is not None:
            self.passed = self.reward >= 1.0 if self.passed is None else self.passed
        if self.stop_reason is None and self.status in FAILED:
            self.stop_reason = self.status

    def _fill_counts(self) -> None:
        messages, calls = self.messages, None
        if self.n_turns is None:
            self.n_turns = sum(message.role == "assistant" for message in messages)
        if self.n_tool_calls is None:
            self.n_tool_calls = sum(len(message.tool_calls) for message in messages)
        if self.n_tool_errors is None:
            outputs = (message.text or "" for message in messages if message.role == "tool")
            self.n_tool_errors = sum(text.startswith(_TOOL_ERRORS) for text in outputs)
        if self.n_parse_failures is None:
            calls = (call for message in messages for call in message.tool_calls)
            self.n_parse_failures = sum(not parses(call.arguments) for call in calls)
        if self.version_spans is not None:
            self.version_spans = [
                VersionSpan(**span) if isinstance(span, Mapping) else span for span in self.version_spans
            ]
        if self.token_ids is not None:
            self.n_tokens = len(self.token_ids) if self.n_tokens is None else self.n_tokens
            if self.n_sampled_tokens is None and self.loss_mask is not None:
                self.n_sampled_tokens = sum(self.loss_mask)
            if self.n_prompt_tokens is None and self.prompt_token_ids is not None:
                self.n_prompt_tokens = len(self.prompt_token_ids)
            self.prefix_ok = True if self.prefix_ok is None else self.prefix_ok

    def _check(self) -> None:
        if self.status not in STATUSES:
            raise self._wrong(f"status {self.status!r} is not one of {', '.join(STATUSES)}")
        if self.reward is not None and not math.isfinite(self.reward):
            raise self._wrong(f"reward is {self.reward}; write null and an error_type when there is no verdict")
        if self.turn_rewards is not None:
            if not all(map(math.isfinite, self.turn_rewards)):
                raise self._wrong(f"turn_rewards are not finite: {self.turn_rewards}")
            if len(self.turn_rewards) != self.n_turns:
                raise self._wrong(f"{self.n_turns} turns but {len(self.turn_rewards)} turn_rewards")
        if (self.token_ids is None) != (self.loss_mask is None):
            raise self._wrong("token_ids and loss_mask go together; one of them is null")
        if self.token_ids is None or self.loss_mask is None:
            if self.logprobs:
                raise self._wrong("logprobs without token_ids")
            return
        if len(self.token_ids) != len(self.loss_mask):
            raise self._wrong(f"{len(self.token_ids)} token_ids but {len(self.loss_mask)} in loss_mask")
        if self.logprobs is not None and len(self.logprobs) != (n_sampled := sum(self.loss_mask)):
            raise self._wrong(f"{n_sampled} sampled tokens but {len(self.logprobs)} logprobs")

    def _wrong(self, what: str) -> SchemaMismatch:
        name = f"Rollout {self.rollout_id}" if self.rollout_id else "A rollout"
        return SchemaMismatch(f"{name}: {what}.", "See docs/store.md for its columns.")


ROLLOUTS = Table.of_class(
    "rollouts",
    "One trajectory of one agent, with its verdict at collection time.",
    "rollout_id",
    Rollout,
    "exactly once: appended under the run's lease, inserted if absent after a failed commit",
)


VERDICT = ("reward", "passed", "reward_components", "scorer", "scorer_version", "rationale")


def verdict_columns(score: Score | None) -> dict[str, Any]:
    """The columns of `VERDICT`, and turn_rewards, for a verdict; all None without one."""
    if score is None:
        return dict.fromkeys((*VERDICT, "turn_rewards"))
    return {
        "reward": score.reward,
        "turn_rewards": None if score.turn_rewards is None else list(score.turn_rewards),
        "passed": score.passed,
        "reward_components": [Component(*part) for part in score.components],
        "scorer": score.scorer,
        "scorer_version": score.scorer_version,
        "rationale": score.rationale,
    }


def _component(part: Any) -> Component:
    return Component(**part) if isinstance(part, Mapping) else Component(*part)


def _calls(message: Message) -> str:
    return "; ".join(f"{call.name}({call.arguments})" for call in message.tool_calls)
