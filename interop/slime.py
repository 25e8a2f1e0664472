"""Rollout dumps of slime and miles (`--save-debug-rollout-data`, `--dump-details`): `.pt` files of samples with tokens and logprobs.

A file is loaded with `weights_only`, which builds tensors and plain values only; one that would run code is refused.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError, FormatError
from ..store.ids import hash_id
from ..store.messages import Message
from ..store.reading import MessageReader
from ..store.tool_schemas import read_tools
from .lines import Line, Quarantine
from .rollout import FileRollout, Row
from .sample import FileSample
from .storing import Source
from .values import read_json

_FORMAT = "slime"
_STATUS = {"completed": "completed", "truncated": "truncated", "aborted": "aborted", "failed": "error", "pending": "aborted"}  # fmt: skip
_PLACED = {
    "group_index", "index", "rollout_id", "prompt", "tokens", "response", "response_length", "label", "reward", "loss_mask", "rollout_log_probs",
    "status", "metadata", "weight_versions", "spec_info", "prefix_cache_info", "teacher_log_probs",
}  # fmt: skip
# Too large, and of use to one trainer only.
_ARRAYS = ("rollout_top_p_token_ids", "rollout_top_p_token_offsets", "rollout_routed_experts", "multimodal_inputs", "multimodal_train_inputs")  # fmt: skip


def signs(sample: FileSample) -> str | None:
    """An archive that torch.save wrote."""
    if sample.kind == "zip" and any(name.endswith("/data.pkl") for name in sample.members):
        return "it is a file of torch.save"
    if sample.kind == "folder" and any(name.endswith(".pt") for name in sample.members):
        return "it has files of torch.save"
    return None


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The samples of a file, or of the `rollout_data` of a folder, in the order of steps."""
    files = [path] if path.is_file() else sorted(path.rglob("*.pt"), key=lambda file: (len(file.name), file.name))
    done = 0
    for file in files:
        if file.parent.name != "train_data":
            data = _load(file)
            name = file.stem
            for number, sample in enumerate(data["samples"], start=1):
                yield Line(number, "", False, done, file), {"step": data.get("rollout_id"), "evaluation": name.startswith("eval_"), "sample": sample}  # fmt: skip
        done += file.stat().st_size
        if on_progress:
            on_progress(done)


def _load(file: Path) -> Row:
    try:
        import torch
    except ImportError as error:
        raise ConfigError("The package torch is not installed.", "Install it with `pip install 'rollhouse[train]'`.") from error  # fmt: skip
    try:
        data: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise FormatError(f"{file} is refused: it holds more than tensors and plain values ({reason}).", "Save the samples as plain dicts.") from error  # fmt: skip
    if not isinstance(data, dict) or not isinstance(data.get("samples"), list):
        raise FormatError(f"{file} holds no list of samples.", "Name a file that --save-debug-rollout-data wrote.")
    return data


def read(record: Row, source: Source) -> list[FileRollout]:
    """One sample."""
    sample: Row = record["sample"]
    gaps = {f"not_kept:{name}" for name in _ARRAYS if sample.get(name) is not None}
    metadata = sample.get("metadata") or {}
    tools = read_tools(metadata.get("tools"))
    reader = MessageReader(gaps, tools)
    prompt = reader.read(sample.get("prompt") or "", "user", "prompt")
    messages = _messages(reader, metadata, prompt, sample, gaps)
    rollout = FileRollout(prompt, tools, messages)
    rollout.gaps = reader.all_gaps()
    reward = sample.get("reward")
    parts = {name: float(value) for name, value in reward.items() if isinstance(value, bool | int | float)} if isinstance(reward, dict) else {}  # fmt: skip
    step, group = record.get("step"), sample.get("group_index")
    versions = [int(version) for version in sample.get("weight_versions") or () if str(version).isdigit()]
    status = _STATUS.get(str(getattr(sample.get("status"), "value", sample.get("status"))), "completed")
    rollout.columns = {
        "step": None if record["evaluation"] else step, "status": status, "error_type": "environment" if status == "error" else None,
        "reward": _reward(reward, parts), "reward_components": [{"name": name, "value": value, "weight": None} for name, value in parts.items()],
        "policy_version": min(versions, default=None), "policy_version_last": max(versions, default=None),
        **_tokens(rollout, sample),
    }  # fmt: skip
    rollout.group_key = [step, group]
    if sample.get("rollout_id") is not None:
        # One execution may be split into several samples.
        rollout.columns["episode_id"] = hash_id(_FORMAT, source.source_run, step, "episode", sample["rollout_id"])
    label = sample.get("label")
    split = "validation" if record["evaluation"] else "train"
    rollout.task = {"ground_truth": _truth(label), "split": split}
    rest = {name: _plain(value) for name, value in sample.items() if name not in {*_PLACED, *_ARRAYS} and value not in (None, {}, [], False)}  # fmt: skip
    told = {name: sample.get(name) for name in ("group_index", "index", "rollout_id") if sample.get(name) is not None}
    rest |= {"metadata": _plain({name: value for name, value in metadata.items() if name not in ("messages", "tools")})} if metadata else {}  # fmt: skip
    rollout.extra = {_FORMAT: {**told, **rest, **({"step": step} if step is not None else {})}}
    return [rollout]


def _messages(
    reader: MessageReader, metadata: Row, prompt: list[Message], sample: Row, gaps: set[str]
) -> list[Message]:
    """The messages that the generation kept, those of the prompt left out; else the response as one message."""
    if metadata.get("messages"):
        found = reader.read(metadata["messages"], "user", "metadata.messages")
        roles = [message.role for message in found]
        return found[roles.index("assistant") :] if "assistant" in roles else found
    gaps |= {"text_only", "template_lost"}
    return reader.read([{"role": "assistant", "content": sample.get("response") or ""}], "assistant", "response")


def _tokens(rollout: FileRollout, sample: Row) -> Row:
    """The token columns: the prompt's tokens come before the last `response_length`."""
    tokens = _ints(sample.get("tokens"))
    length = int(sample.get("response_length") or 0)
    if not tokens or length > len(tokens):
        return {}
    start = len(tokens) - length
    mask = _ints(sample.get("loss_mask")) or [1] * length
    logprobs = sample.get("rollout_log_probs")
    logprobs = None if logprobs is None else [float(value) for value in logprobs]
    if len(mask) != length or (logprobs is not None and len(logprobs) != length):
        raise ValueError(f"{length} response tokens have {len(mask)} in loss_mask and {len(logprobs or ())} logprobs")
    rollout.prompt_ids = tokens[:start]
    kept = None if logprobs is None else [value for value, sampled in zip(logprobs, mask, strict=True) if sampled]
    if kept is None:
        rollout.gaps.add("no_logprobs")
    return {"token_ids": tokens[start:], "loss_mask": mask, "logprobs": kept}


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values] if values is not None else []


def _reward(reward: Any, parts: dict[str, float]) -> float | None:
    if isinstance(reward, bool | int | float):
        return float(reward)
    return next((parts[name] for name in ("reward", "score", "acc") if name in parts), None)


def _truth(label: Any) -> Any:
    read = read_json(label) if isinstance(label, str) and label[:1] in "{[" else None
    return label if read is None else read


def _plain(value: Any) -> Any:
    """A value without tensors."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
