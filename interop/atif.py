"""ATIF, Harbor's trajectory format: a JSON object with steps, one file a trajectory; JSONL with one a line is read and written too.

Arguments are objects there, so their bytes are not kept; there is no reward and no sampling in it. Other columns travel under
`extra.rollhouse`, which the format leaves to its users.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

<<<<<<< HEAD
from ..base.errors import one_line
from ..store.ids import file_name, hash_id
=======
from ..store.items import TokenCall
>>>>>>> main
from ..store.messages import Message, ToolCall
from .atif_files import records
from .atif_steps import EMBEDDED, EPISODE, FORMAT, TOKENS, read
from .lines import whole_file, write_objects
from .rollout import FileRollout, Row, keepsake
from .source_record import source_record
from .tokens import calls_of

__all__ = ["held", "read", "record", "records", "wanted", "write"]

# What overlays of stores are made over; `_todays` turns it into the version that is written.
_BASE = "ATIF-v1.6"
_VERSION = "ATIF-v1.8"
_OURS = {EPISODE, EMBEDDED}


def held(rollout: FileRollout) -> set[str]:
    """The columns it has a place for."""
    return {"policy_id", "agent"}


<<<<<<< HEAD
def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The trajectories of a JSONL file, of one JSON file, or of a folder's `*.json`; a continued one as a whole, then its sub-agents' own.

    Files that a trajectory refers to must lie in the folder, else it is set aside; links that lead out of the folder count as outside.
    """
    if path.suffix == ".jsonl":
        yield from read_objects(path, quarantine, on_progress)
        return
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    followed = {other for file in files for other in _referred(file)} if path.is_dir() else set()
    done = 0
    for number, file in enumerate(files, start=1):
        done += file.stat().st_size
        if file.resolve() not in followed:
            line = Line(number, "", False, done, file)
            try:
                if path.is_dir() and not file.resolve().is_relative_to(path.resolve()):
                    raise ValueError("it is a link to a file outside the folder")
                trajectories = list(_follow(file, file.parent, None, set()))
            except MemoryError:
                raise
            except Exception as error:
                quarantine.add(line, f"it cannot be read ({one_line(error)})")
                continue
            for trajectory in trajectories:
                yield line, trajectory
        if on_progress:
            on_progress(done)


def read(trajectory: Row, source: Source) -> list[FileRollout]:
    """One trajectory. Steps before the agent's first are the prompt."""
    gaps = {"no_reward"}
    prompt: list[Message] = []
    messages: list[Message] = []
    for step in trajectory["steps"]:
        if step["source"] == "agent":
            messages += _agent_messages(step, gaps)
        else:
            (messages if messages else prompt).append(_said(step["source"], step.get("message")))
    agent = trajectory.get("agent") or {}
    columns = {"policy_id": agent.get("model_name"), "agent": agent.get("name")}
    rollout = FileRollout(prompt, read_tools(agent.get("tool_definitions")), messages, columns, gaps=gaps)
    session = trajectory.get("session_id")
    rollout.source_key = session
    if trajectory.get(_EPISODE) or session:
        rollout.columns["episode_id"] = hash_id(
            _FORMAT, source.source_run, "episode", trajectory.get(_EPISODE) or session
        )
    take_keepsake(rollout, (trajectory.get("extra") or {}).get("rollhouse"))
    if rollout.get("reward") is not None:
        gaps.discard("no_reward")
    return [rollout]


=======
>>>>>>> main
def wanted(built: Row, trajectory: Row) -> Row:
    """The trajectory without the keys that only we added."""
    return {name: value for name, value in trajectory.items() if name not in _OURS}


def record(rollouts: list[FileRollout], plain: bool = True) -> Row:
    """The trajectory of one rollout."""
    [rollout] = rollouts
    steps: list[Row] = []
    calls = iter(calls_of(rollout) or ())
    for place, message in enumerate((*rollout.prompt, *rollout.messages)):
        if message.role == "tool" and steps:
            steps[-1].setdefault("observation", {"results": []})["results"].append(_result(message))
        elif message.role == "assistant":
            steps.append(
                _agent_step(
                    message,
                    len(steps) + 1,
                    next(calls, None) if place >= len(rollout.prompt) else None,
                    TOKENS in rollout.extra,
                )
            )
        else:
            source = "system" if message.role in ("system", "developer") else "user"
            steps.append({"step_id": len(steps) + 1, "source": source, "message": _content(message)})
    agent = {"name": rollout.get("agent"), "version": "unknown", "model_name": rollout.get("policy_id")}
    tools = {"tool_definitions": rollout.tools} if rollout.tools else {}
    ours = {} if plain else {"extra": {"rollhouse": keepsake(rollout, held(rollout))}}
    return {
        "schema_version": _BASE,
        "session_id": rollout.get("rollout_id"),
        "agent": {name: value for name, value in agent.items() if value is not None} | tools,
        "steps": steps,
        **ours,
    }


def write(episodes: Iterable[list[FileRollout]], path: Path, plain: bool = False) -> None:
    """Writes a trajectory a line for a path that ends in .jsonl, else a folder with a file for each rollout."""
    trajectories = ((rollout, _trajectory(rollout, plain)) for rollouts in episodes for rollout in _apart(rollouts))
    if path.suffix == ".jsonl":
        write_objects((trajectory for _, trajectory in trajectories), path)
        return
    path.mkdir(parents=True, exist_ok=True)
    for rollout, trajectory in trajectories:
        with whole_file(path / f"{file_name(rollout.get('rollout_id'))}.json") as file:
            json.dump(trajectory, file, ensure_ascii=False, indent=1)


def _apart(rollouts: list[FileRollout]) -> list[FileRollout]:
    """Those that are not inside another's record, where the other is written too."""
    outer = [rollout for rollout in rollouts if EMBEDDED not in rollout.extra]
    return outer if any(FORMAT in rollout.extra for rollout in outer) else rollouts


def _trajectory(rollout: FileRollout, plain: bool) -> Row:
    if FORMAT in rollout.extra:
        return source_record(record, [rollout], rollout.extra[FORMAT])
    return _todays(record([replace(rollout, extra={**rollout.extra, TOKENS: True})], plain), rollout)


def _todays(trajectory: Row, rollout: FileRollout) -> Row:
    """The trajectory in the version that is written today. `session_id` is of the run there."""
    steps = [step | ({"llm_call_count": 1} if step["source"] == "agent" else {}) for step in trajectory["steps"]]
    ids = {"session_id": rollout.get("run_id") or trajectory["session_id"], "trajectory_id": trajectory["session_id"]}
    return {"schema_version": _VERSION, **ids, **{name: value for name, value in trajectory.items() if name not in ("schema_version", "session_id", "steps")}, "steps": steps}  # fmt: skip


def _agent_step(message: Message, number: int, call: TokenCall | None, prompt_too: bool) -> Row:
    step: Row = {"step_id": number, "source": "agent", "message": _content(message)}
    if message.reasoning is not None:
        step["reasoning_content"] = message.reasoning
    if message.tool_calls:
        step["tool_calls"] = [
            {"tool_call_id": tool_call.id, "function_name": tool_call.name, "arguments": _arguments(tool_call)}
            for tool_call in message.tool_calls
        ]
    if call is not None:
        step["metrics"] = {
            "prompt_tokens": len(call.prompt),
            "completion_tokens": len(call.generation),
            **({"prompt_token_ids": call.prompt} if prompt_too else {}),
            "completion_token_ids": call.generation,
            "logprobs": call.logprobs,
        }
    return step


def _arguments(call: ToolCall) -> Row:
    """As an object; text that is none is kept under `raw`."""
    try:
        return call.parsed()
    except (ValueError, RecursionError):
        return {"raw": call.arguments}


def _result(message: Message) -> Row:
    linked = {} if message.tool_call_id is None else {"source_call_id": message.tool_call_id}
    return {**linked, "content": _content(message)}


def _content(message: Message) -> Any:
    return json.loads(message.parts) if message.parts else message.text or ""
<<<<<<< HEAD


def _agent_messages(step: Row, gaps: set[str]) -> list[Message]:
    calls = []
    for call in step.get("tool_calls") or ():
        if not isinstance(call["arguments"], str):
            gaps.add("args_reserialized")
        arguments = call["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        calls.append(ToolCall(call["tool_call_id"], call["function_name"], text))
    said = _said("assistant", step.get("message"))
    # There is no way to say "nothing" but an empty text.
    text = None if said.text == "" and calls else said.text
    found = [Message("assistant", text, tuple(calls), reasoning=step.get("reasoning_content"), parts=said.parts)]
    for result in (step.get("observation") or {}).get("results") or ():
        answer = _said("tool", result.get("content"))
        found.append(Message("tool", answer.text, tool_call_id=result.get("source_call_id"), parts=answer.parts))
    return found


def _said(role: str, content: Any) -> Message:
    if role == "agent":
        role = "assistant"
    if content is None or isinstance(content, str):
        return Message(role, content)
    return Message(role, None, parts=json.dumps(content, ensure_ascii=False))


def _follow(file: Path, root: Path, episode: str | None, seen: set[Path]) -> Iterator[Row]:
    """A trajectory joined with its continuations, then those of its sub-agents, all in the folder `root`.

    Raises ValueError when files refer to each other in a circle, or to one outside.
    """
    whole = _load(file, seen)
    link, here = whole.pop("continued_trajectory_ref", None), file
    while link:
        here = _beside(root, here, link)
        more = _load(here, seen)
        whole["steps"] = whole["steps"] + [step for step in more["steps"] if not step.get("is_copied_context")]
        whole |= {name: more[name] for name in ("final_metrics",) if name in more}
        link = more.get("continued_trajectory_ref")
    first = episode or whole.get("session_id")
    yield whole if episode is None else {**whole, _EPISODE: episode}
    for other in _subagents(whole, root, file):
        if other.is_file():
            yield from _follow(other, root, first, seen)


def _load(file: Path, seen: set[Path]) -> Row:
    if file.resolve() in seen:
        raise ValueError(f"{file.name} refers back to itself")
    seen.add(file.resolve())
    trajectory = json.loads(file.read_text(encoding="utf-8"))
    trajectory["steps"] = list(trajectory["steps"])
    return trajectory


def _subagents(trajectory: Row, root: Path, file: Path) -> list[Path]:
    found = []
    for step in trajectory["steps"]:
        for result in (step.get("observation") or {}).get("results") or ():
            for reference in result.get("subagent_trajectory_ref") or ():
                if reference.get("trajectory_path"):
                    found.append(_beside(root, file, reference["trajectory_path"]))
    return found


def _beside(root: Path, file: Path, reference: str) -> Path:
    """The file that another one refers to, resolved. Raises ValueError when it lies outside the imported folder."""
    found = (file.parent / reference).resolve()
    if not found.is_relative_to(root.resolve()):
        raise ValueError(f"it refers to {reference!r}, which lies outside its folder")
    return found


def _referred(file: Path) -> list[Path]:
    """Files that another file's rollouts are read with; none for a file that cannot be read."""
    try:
        trajectory = _load(file, set())
        link = trajectory.get("continued_trajectory_ref")
        return _subagents(trajectory, file.parent, file) + ([_beside(file.parent, file, link)] if link else [])
    except Exception:  # `records` reads it again, and sets it aside with the reason
        return []
=======
>>>>>>> main
