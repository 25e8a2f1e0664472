"""Rollout dumps of slime and miles (`--save-debug-rollout-data`, `--dump-details`): `.pt` files of samples with tokens and logprobs.

A file is loaded with `weights_only`, which builds tensors, NumPy arrays and plain values only; one that would run code is refused. miles writes the
conversations into `trajectory/STEP.jsonl` instead, which is read with the samples. The trainer's shards (`train_data`, `policy_loss_debug`) hold
slices of samples for one rank and no conversation; they are not read.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError, FormatError
from ..base.packages import install_command
from ..store.content import is_empty
from ..store.ids import hash_id
from ..store.messages import Message
from ..store.reading import MessageReader, split_prompt
from ..store.tool_schemas import read_tools
from .lines import Line, Quarantine, read_objects
from .rewards import verdict
from .rollout import FileRollout, Row, unread_fields
from .sample import FileSample
from .storing import Source
from .values import read_json

_FORMAT = "slime"
# Folders of `--dump-details` with what a trainer made of samples.
_TRAINERS = {"train_data", "policy_loss_debug"}
_STATUS = {"completed": "completed", "truncated": "truncated", "aborted": "aborted", "failed": "error", "pending": "aborted"}  # fmt: skip
_PLACED = {
    "group_index", "index", "rollout_id", "prompt", "tokens", "response", "response_length", "label", "reward", "loss_mask", "rollout_log_probs",
    "status", "metadata", "weight_versions", "spec_info", "prefix_cache_info",
}  # fmt: skip
# Too large, and of use to one trainer only.
_ARRAYS = (
    "rollout_top_p_token_ids", "rollout_top_p_token_offsets", "rollout_routed_experts", "rollout_indexer_topk", "multimodal_inputs",
    "multimodal_train_inputs", "teacher_log_probs", "opd_reverse_kl",
)  # fmt: skip


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
    done = 0
    for file in [path] if path.is_file() else _dumps(path):
        data = _load(file)
        conversations = _conversations(file, quarantine)
        for number, sample in enumerate(data["samples"], start=1):
            told = conversations.get(sample.get("index"))
            beside = {} if told is None else {"conversation": told}
            yield Line(number, "", False, done, file), {"step": data.get("rollout_id"), "evaluation": file.stem.startswith("eval_"), "sample": sample, **beside}  # fmt: skip
        done += file.stat().st_size
        if on_progress:
            on_progress(done)


def _dumps(folder: Path) -> list[Path]:
    """The dumps of a folder: those of `rollout_data` where it has such a folder."""
    places = [place for place in (folder, *folder.rglob("rollout_data")) if place.is_dir() and place.name == "rollout_data"] or [folder]  # fmt: skip
    files = [file for place in places for file in place.rglob("*.pt") if file.parent.name not in _TRAINERS]
    return sorted(files, key=lambda file: (len(file.name), file.name))


def _conversations(file: Path, quarantine: Quarantine) -> dict[Any, list[Row]]:
    """The messages that miles wrote beside a dump, by the sample's index."""
    beside = file.parent.parent / "trajectory" / f"{file.stem}.jsonl"
    if file.parent.name != "rollout_data" or not beside.is_file():
        return {}
    rows = [row for _, row in read_objects(beside, quarantine)]
    return {row["sample_index"]: row["messages"] for row in rows if row.get("sample_index") is not None and row.get("messages")}  # fmt: skip


def _load(file: Path) -> Row:
    try:
        import torch
    except ImportError as error:
        raise ConfigError("The package torch is not installed.", f"Install it with `{install_command('train')}`.") from error  # fmt: skip
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            data: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise FormatError(f"{file} is refused: it holds more than tensors and plain values ({reason}).", "Save the samples as plain dicts.") from error  # fmt: skip
    samples = data.get("samples") if isinstance(data, dict) else None
    if not isinstance(samples, list) or not all(isinstance(one, dict) and {"prompt", "response"} <= one.keys() for one in samples):  # fmt: skip
        raise FormatError(f"{file} holds no samples of rollouts.", "Name a file that --save-debug-rollout-data wrote.")
    return data


def _numpy_globals() -> list[Any]:
    """What a pickle of a NumPy array or number refers to: constructors of plain data."""
    import numpy as np

    types = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    # What makes an array and a number, wherever this version of NumPy has it.
    makers: Any = (np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0])
    return [*makers, np.ndarray, np.dtype, *types]


def read(record: Row, source: Source) -> list[FileRollout]:
    """One sample."""
    sample: Row = record["sample"]
    gaps = {f"not_kept:{name}" for name in _ARRAYS if sample.get(name) is not None}
    metadata = sample.get("metadata") or {}
    tools = read_tools(metadata.get("tools"))
    reader = MessageReader(gaps, tools)
    prompt, messages = _messages(reader, record.get("conversation") or metadata.get("messages"), sample)
    rollout = FileRollout(prompt, tools, messages, gaps=reader.gaps, unread=reader.unread, untrained=reader.untrained)
    if any(message.role == "assistant" and "<tool_call>" in (message.text or "") for message in messages):
        rollout.gaps.add("calls_in_text")
    step, group = record.get("step"), sample.get("group_index")
    versions = [int(version) for version in sample.get("weight_versions") or () if str(version).isdigit()]
    status = _STATUS.get(str(getattr(sample.get("status"), "value", sample.get("status"))), "completed")
    rollout.columns = {
        "step": None if record["evaluation"] else step, "status": status, "error_type": "environment" if status == "error" else None,
        "policy_version": min(versions, default=None), "policy_version_last": max(versions, default=None),
        **_verdict(_plain(sample.get("reward")), source.reward_columns), **_tokens(rollout, sample),
    }  # fmt: skip
    rollout.group_key = [step, group]
    if sample.get("rollout_id") is not None:
        # One execution may be split into several samples.
        rollout.columns["episode_id"] = hash_id(_FORMAT, source.source_run, step, "episode", sample["rollout_id"])
    label = sample.get("label")
    split = "validation" if record["evaluation"] else "train"
    rollout.task = {"ground_truth": _truth(label), "split": split}
    rest = {name: _plain(value) for name, value in sample.items() if name not in {*_PLACED, *_ARRAYS}}
    rest = {name: value for name, value in rest.items() if not is_empty(value)}
    rollout.gaps |= unread_fields(rest, ())
    told = {name: sample.get(name) for name in ("group_index", "index", "rollout_id") if sample.get(name) is not None}
    rest |= {"metadata": _plain({name: value for name, value in metadata.items() if name not in ("messages", "tools")})} if metadata else {}  # fmt: skip
    rollout.extra = {_FORMAT: {**told, **rest, **({"step": step} if step is not None else {})}}
    return [rollout]


def _messages(reader: MessageReader, talk: Any, sample: Row) -> tuple[list[Message], list[Message]]:
    """Prompt and messages of the conversation that the generation kept, else of the sample's two texts."""
    prompt = sample.get("prompt") or ""
    if not talk:
        reader.gaps |= {"text_only", "template_lost"}
        asked = reader.read(prompt, "user", "prompt")
        return asked, reader.read([{"role": "assistant", "content": sample.get("response") or ""}], "assistant", "response")  # fmt: skip
    found = reader.read(talk, "user", "messages")
    # A prompt that is a list may hold examples of replies; of one that is a text, the template was applied already.
    begins = isinstance(prompt, list) and isinstance(talk, list) and talk[: len(prompt)] == prompt
    if begins and len(found) == len(talk):
        return found[: len(prompt)], found[len(prompt) :]
    return split_prompt(found)


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


def _verdict(reward: Any, named: Sequence[str]) -> Row:
    """The reward: a number, or of several the one whose name says so or those that the user names."""
    if not isinstance(reward, dict):
        return {"reward": float(reward) if isinstance(reward, bool | int | float) else None}
    parts = {name: float(value) for name, value in reward.items() if isinstance(value, bool | int | float)}
    value = verdict(reward, named)["reward"] if named else next((parts[name] for name in ("reward", "score", "acc") if name in parts), None)  # fmt: skip
    return {"reward": value, "reward_components": [{"name": name, "value": part, "weight": None} for name, part in parts.items()]}  # fmt: skip


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
