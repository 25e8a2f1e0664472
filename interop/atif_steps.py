"""One ATIF trajectory as a rollout: its steps as messages, the tokens of its metrics as one sequence."""

from collections.abc import Mapping
from typing import Any

from ..store.ids import canonical_json, hash_id
from ..store.items import TokenCall
from ..store.messages import Message
from ..store.reading import MessageReader
from ..store.tool_schemas import read_tools
from .rollout import FileRollout, Row, take_keepsake, unread_fields
from .storing import Source
from .tokens import place_calls
from .traces import time_of

FORMAT = "atif"
# Keys of ours on records that belong to another's episode; no file has them.
EPISODE = "_rollhouse_episode"
# In `extra`: whether steps held their prompts' tokens, and whether the trajectory stood inside another.
TOKENS, EMBEDDED = "atif.tokens", "atif.embedded"

_TAKEN = {"schema_version", "session_id", "trajectory_id", "agent", "steps", "extra", EPISODE, EMBEDDED, "subagent_trajectories", "final_metrics", "continued_trajectory_ref"}  # fmt: skip
_STEP = {
    "step_id", "timestamp", "source", "model_name", "message", "reasoning_content", "tool_calls", "observation", "metrics",
    "is_copied_context", "llm_call_count",
}  # fmt: skip
_RESULT = {"source_call_id", "content", "subagent_trajectory_ref"}


def read(trajectory: Row, source: Source) -> list[FileRollout]:
    """One trajectory. The steps before the agent's first own one are the prompt: what was copied from another context is never trained on."""
    agent = trajectory.get("agent") or {}
    tools = read_tools(agent.get("tool_definitions"))
    steps = _Steps(MessageReader(tools=tools))
    for number, step in enumerate(trajectory["steps"]):
        steps.add(step, f"steps[{number}]")
    model = next((step["model_name"] for step in trajectory["steps"] if step.get("model_name")), None)
    columns = {"policy_id": agent.get("model_name") or model, "agent": agent.get("name"), **_times(trajectory["steps"])}
    gaps = steps.reader.all_gaps() | unread_fields(trajectory, _TAKEN) | {"no_reward"}
    rollout = FileRollout(steps.prompt, tools, steps.messages, columns, gaps=gaps)
    _place_tokens(rollout, steps)
    _identify(rollout, trajectory, source)
    kept = trajectory.get("extra") or {}
    take_keepsake(rollout, kept.get("rollhouse") if isinstance(kept, Mapping) else None)
    if rollout.get("reward") is not None:
        rollout.gaps.discard("no_reward")
    return [rollout]


def _times(steps: list[Row]) -> Row:
    """Start and duration, from the first step with a timestamp to the last; empty where no step has one."""
    times = [time for step in steps if not step.get("is_copied_context") and (time := time_of(step.get("timestamp"))) is not None]  # fmt: skip
    return {"started_at": times[0], "duration_s": (times[-1] - times[0]).total_seconds()} if times else {}


class _Steps:
    """The messages of a trajectory so far.

    Attributes:
        prompt: Messages before the agent's first own step.
        messages: The rest.
        calls: The tokens of each own step; None for a step without them.
        has_prompts: Whether each call's prompt tokens are known.
    """

    def __init__(self, reader: MessageReader) -> None:
        self.reader = reader
        self.prompt: list[Message] = []
        self.messages: list[Message] = []
        self.calls: list[TokenCall | None] = []
        self.has_prompts = True
        self._own = False

    def add(self, step: Row, path: str) -> None:
        """Takes the next step. Raises KeyError, TypeError or ValueError for what is not one."""
        source = step["source"]
        own = source == "agent" and not step.get("is_copied_context")
        if own:
            self._own = True
            self.calls.append(self._tokens(step, path))
        elif step.get("is_copied_context") and self._own:
            self.reader.gaps.add("copied_context_after_own_steps")
        if source == "agent" and step.get("llm_call_count") == 0:
            self.reader.gaps.add("steps_without_model_call")
        elif (step.get("llm_call_count") or 1) > 1:
            self.reader.gaps.add("aggregated_model_calls")
        into = self.messages if self._own else self.prompt
        said = self._said(step, source, path)
        if source == "agent" or step.get("message") is not None or not step.get("observation"):
            into += self.reader.read_one(said, path)
        self._observed(step, source, into, path)
        self._note(step, path)

    def _said(self, step: Row, source: str, path: str) -> Row:
        if source != "agent":
            return {"role": source, "content": step.get("message")}
        calls = step.get("tool_calls")
        # There is no way to say "nothing" but an empty text.
        said = None if step.get("message") == "" and calls else step.get("message")
        return {
            "role": "assistant",
            "content": said,
            "reasoning_content": step.get("reasoning_content"),
            "tool_calls": calls,
        }

    def _observed(self, step: Row, source: str, into: list[Message], path: str) -> None:
        """What the step observed: the results of its calls, and what answers no call, which the agent gets as a user's message."""
        waiting = [str(call.get("tool_call_id")) for call in step.get("tool_calls") or () if isinstance(call, Mapping)]
        observation: Any = step.get("observation") or {}
        results: Any = observation.get("results") or ()
        linked = {result.get("source_call_id") for result in results}
        waiting = [id for id in waiting if id not in linked]
        for number, result in enumerate(results):
            where = f"{path}.observation.results[{number}]"
            call_id = result.get("source_call_id")
            if call_id is None and not waiting and result.get("content") is None:
                pass  # nothing was observed
            elif call_id is None and not waiting:
                self.reader.gaps.add("observations_as_user")
                into += self.reader.read_one({"role": "user" if source == "agent" else source, "content": result.get("content")}, where)  # fmt: skip
            else:
                if call_id is None:
                    waiting.pop(0)
                into += self.reader.read_one({"role": "tool", "tool_call_id": call_id, "content": result.get("content")}, where)  # fmt: skip
            for name in result.keys() - _RESULT:
                if result[name]:
                    self.reader.unread[f"{where}.{name}"] = result[name]

    def _tokens(self, step: Row, path: str) -> TokenCall | None:
        metrics = step.get("metrics") or {}
        sampled = metrics.get("completion_token_ids")
        if not sampled or step.get("llm_call_count") not in (None, 1):
            return None
        prompt = metrics.get("prompt_token_ids")
        self.has_prompts = self.has_prompts and prompt is not None
        return TokenCall(list(prompt or ()), list(sampled), list(metrics.get("logprobs") or ()))

    def _note(self, step: Row, path: str) -> None:
        for name in step.keys() - _STEP:
            if step[name]:
                self.reader.unread[f"{path}.{name}"] = step[name]


def _place_tokens(rollout: FileRollout, steps: _Steps) -> None:
    calls = [call for call in steps.calls if call is not None]
    if not calls:
        return
    if not steps.has_prompts:
        rollout.gaps.add("no_prompt_tokens")
        return
    if len(calls) < len(steps.calls):
        rollout.gaps.add("calls_without_tokens")
    rollout.extra[TOKENS] = True
    place_calls(rollout, calls)


def _identify(rollout: FileRollout, trajectory: Row, source: Source) -> None:
    """A session is of one trajectory up to v1.6; from v1.7 on it may be of a whole run, whose trajectories have ids of their own."""
    session, own = trajectory.get("session_id"), trajectory.get("trajectory_id")
    if own:
        rollout.source_key = [session, own]
    elif _version(trajectory) < (1, 7):
        rollout.source_key = session
    episode = trajectory.get(EPISODE) or own or session
    if episode:
        rollout.columns["episode_id"] = hash_id(FORMAT, source.source_run, "episode", episode)
    if trajectory.get(EMBEDDED):
        rollout.extra[EMBEDDED] = True


def _version(trajectory: Row) -> tuple[int, ...]:
    """(1, 8) of `ATIF-v1.8`; (0,) without a version."""
    text = str(trajectory.get("schema_version") or "").rpartition("v")[2]
    return tuple(int(part) for part in text.split(".") if part.isdecimal()) or (0,)


def inner_trajectories(trajectory: Row) -> list[Row]:
    """The trajectories of sub-agents that stand inside one, all levels, each marked as a part of its episode."""
    episode = trajectory.get(EPISODE) or trajectory.get("trajectory_id") or trajectory.get("session_id") or hash_id(canonical_json(trajectory))  # fmt: skip
    found: list[Row] = []
    inside: Any = trajectory.get("subagent_trajectories") or ()
    for inner in inside:
        marked = {**inner, EPISODE: episode, EMBEDDED: True}
        found += [marked, *inner_trajectories(marked)]
    return found
