"""Rollouts for benchmarks/store.py: nobody's, but shaped like real ones.

An assistant with a dozen tools answers requests about orders, mails and meetings: three to seven turns, tool calls with JSON arguments,
tool results of a few records, groups of eight over one prompt, about 1,500 tokens after the prompt. Token ids stand for pieces of that very
text, common pieces with small ids, so that text and tokens repeat themselves as those of a real tokenizer do. Logprobs are mostly near
zero with a long tail, as sampled tokens have them.
"""

import json
import random
import re
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from rollhouse.store import ids
from rollhouse.store.messages import Message, ToolCall

GROUP = 8
VOCABULARY = 150_000
_PIECES = re.compile(r" ?[a-zA-Z]{1,6}|[0-9]{1,3}|[^a-zA-Z0-9]")
_STARTED = datetime(2026, 1, 2, tzinfo=UTC)
_SYLLABLES = [
    "ba",
    "be",
    "bi",
    "bo",
    "da",
    "de",
    "di",
    "do",
    "ka",
    "ke",
    "ki",
    "ko",
    "la",
    "le",
    "li",
    "lo",
    "ma",
    "me",
    "mi",
    "mo",
    "na",
    "ne",
    "ni",
    "no",
    "ra",
    "re",
    "ri",
    "ro",
    "sa",
    "se",
    "si",
    "so",
    "ta",
    "te",
    "ti",
    "to",
]
_VERBS = [
    "find",
    "list",
    "update",
    "cancel",
    "move",
    "send",
    "forward",
    "archive",
    "count",
    "compare",
    "assign",
    "close",
    "reopen",
    "merge",
    "check",
]
_NOUNS = ["order", "invoice", "mail", "meeting", "ticket", "customer", "shipment", "refund", "task", "note"]


def words(chance: random.Random, n: int = 4000) -> list[str]:
    """Invented words, the common ones first."""
    return ["".join(chance.choice(_SYLLABLES) for _ in range(chance.randint(1, 4))) for _ in range(n)]


def token_ids(text: str) -> list[int]:
    """A piece of text's ids: short pieces are common and have small ids."""
    return [_token_id(piece) for piece in _PIECES.findall(text)]


def _token_id(piece: str) -> int:
    room = (256, 256, 4_000, 20_000, 60_000)[min(len(piece), 4)]
    return zlib.crc32(piece.encode()) % min(room if len(piece) < 6 else VOCABULARY, VOCABULARY)


def tools(chance: random.Random) -> list[dict[str, Any]]:
    """A dozen tool schemas, about 8 kB."""
    vocabulary = words(chance, 400)
    made = []
    for verb, noun in zip(_VERBS[:12], _NOUNS + _NOUNS, strict=False):
        properties = {
            name: {"type": "string", "description": _sentence(chance, vocabulary, 14)}
            for name in chance.sample(vocabulary, 4)
        }
        function = {
            "name": f"{verb}_{noun}",
            "description": _sentence(chance, vocabulary, 25),
            "parameters": {"type": "object", "properties": properties, "required": list(properties)[:2]},
        }
        made.append({"type": "function", "function": function})
    return made


def groups(n: int, run_id: str = "bench", seed: int = 0) -> Iterator[list[dict[str, dict[str, Any]]]]:
    """`n` groups of eight. Each rollout comes as RolloutWriter.add takes it: rollout, prompt, task, prompt_tokens."""
    chance = random.Random(seed)
    numbers = np.random.default_rng(seed)
    vocabulary, schemas = words(chance), tools(chance)
    for number in range(n):
        question = Message("user", _sentence(chance, vocabulary, chance.randint(20, 80)))
        system = Message("system", _sentence(random.Random(1), vocabulary, 120))
        key = ids.prompt_id([system.to_openai(), question.to_openai()], schemas)
        prompt = {
            "prompt_id": key,
            "messages": [system.to_row(), question.to_row()],
            "tools": ids.canonical_json(schemas),
        }
        task = {
            "task_id": ids.task_id("desk", key, {"n": number}, None),
            "environment": "desk",
            "prompt_id": key,
            "ground_truth": ids.canonical_json({"n": number}),
            "split": "train",
            "created_at": _STARTED,
        }
        asked = {
            "prompt_id": key,
            "row_id": ids.hash_id(key, "tok", "tpl"),
            "tokenizer_hash": "tok",
            "template_hash": "tpl",
            "token_ids": token_ids(f"{system.text}{prompt['tools']}{question.text}"),
        }
        step = number // 16
        yield [
            {
                "rollout": _rollout(chance, numbers, vocabulary, run_id, step, task, asked, sample),
                "prompt": prompt,
                "task": task,
                "prompt_tokens": asked,
            }
            for sample in range(GROUP)
        ]


def _rollout(
    chance: random.Random,
    numbers: np.random.Generator,
    vocabulary: list[str],
    run_id: str,
    step: int,
    task: dict[str, Any],
    asked: dict[str, Any],
    sample: int,
) -> dict[str, Any]:
    messages, tokens, mask = [], [], []
    n_turns = chance.randint(3, 7)
    for turn in range(n_turns):
        last = turn == n_turns - 1
        text = _sentence(chance, vocabulary, chance.randint(15, 70))
        calls = [] if last else [_call(chance, vocabulary, turn)]
        said = text + "".join(f"<tool_call>{call.name}{call.arguments}</tool_call>" for call in calls)
        messages.append(Message("assistant", text, tuple(calls)))
        tokens += (sampled := token_ids(said))
        mask += [1] * len(sampled)
        for call in calls:
            answer = _records(chance, vocabulary)
            messages.append(Message("tool", answer, tool_call_id=call.id))
            tokens += (given := token_ids(f"<tool_response>{answer}</tool_response>"))
            mask += [0] * len(given)
    n_sampled = sum(mask)
    surprise = np.where(
        numbers.random(n_sampled) < 0.7, numbers.exponential(0.01, n_sampled), numbers.exponential(1, n_sampled)
    )
    passed = chance.random() < 0.4
    place = (run_id, step, task["task_id"])
    return {
        "rollout_id": ids.rollout_id(*place, sample),
        "slot_id": ids.slot_id(*place, sample),
        "run_id": run_id,
        "step": step,
        "task_id": task["task_id"],
        "prompt_id": task["prompt_id"],
        "group_id": ids.group_id(*place),
        "sample_index": sample,
        "attempt": 0,
        "branch": 0,
        "trainable": True,
        "environment": "desk",
        "policy_id": run_id,
        "policy_version": step,
        "policy_version_last": step,
        "version_spans": [{"start": 0, "version": step}],
        "tokenizer_hash": "tok",
        "template_hash": "tpl",
        "engine": "vllm",
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "max_tokens": 512,
        "sampling_seed": chance.randrange(2**31),
        "logprobs_mode": "processed",
        "messages": [message.to_row() for message in messages],
        "token_ids": tokens,
        "loss_mask": mask,
        "logprobs": (-surprise).astype(np.float32).tolist(),
        "n_prompt_tokens": len(asked["token_ids"]),
        "n_tokens": len(tokens),
        "n_sampled_tokens": n_sampled,
        "n_turns": n_turns,
        "n_tool_calls": n_turns - 1,
        "n_tool_errors": 0,
        "reward": float(passed),
        "passed": passed,
        "scorer": "desk",
        "scorer_version": "1",
        "status": "completed",
        "stop_reason": "stop",
        "prefix_ok": True,
        "started_at": _STARTED + timedelta(seconds=step),
        "duration_s": chance.random() * 30,
        "generate_s": chance.random() * 25,
        "tool_s": chance.random(),
        "verify_s": chance.random() / 100,
    }


def dump_row(
    rollout: dict[str, Any], prompt: dict[str, Any], task: dict[str, Any], prompt_tokens: dict[str, Any]
) -> dict[str, Any]:
    """The same rollout as dumps hold it: everything in one row, prompt and tools with it."""
    row = {name: value for name, value in rollout.items() if name not in ("messages", "started_at")}
    return {
        **row,
        "started_at": rollout["started_at"].isoformat(),
        "tools": json.loads(prompt["tools"]),
        "messages": [Message.from_row(message).to_openai() for message in prompt["messages"] + rollout["messages"]],
        "prompt_token_ids": prompt_tokens["token_ids"],
        "ground_truth": task["ground_truth"],
    }


def _call(chance: random.Random, vocabulary: list[str], turn: int) -> ToolCall:
    arguments = {vocabulary[chance.randrange(40)]: _sentence(chance, vocabulary, 3) for _ in range(3)}
    name = f"{chance.choice(_VERBS[:12])}_{chance.choice(_NOUNS)}"
    return ToolCall(f"call_{turn}", name, json.dumps(arguments))


def _records(chance: random.Random, vocabulary: list[str]) -> str:
    rows = [
        {
            "id": f"{chance.randrange(10**8):08d}",
            "name": _sentence(chance, vocabulary, 2),
            "mail": f"{chance.choice(vocabulary)}.{chance.choice(vocabulary)}@example.com",
            "date": f"2026-{chance.randint(1, 12):02d}-{chance.randint(1, 28):02d}",
            "amount": chance.randrange(10_000) / 100,
        }
        for _ in range(chance.randint(1, 5))
    ]
    return json.dumps(rows)


def _sentence(chance: random.Random, vocabulary: list[str], n: int) -> str:
    # Zipf-like: the product of two uniform numbers is small most of the time.
    return " ".join(vocabulary[int(chance.random() * chance.random() ** 2 * len(vocabulary))] for _ in range(n)) + "."
