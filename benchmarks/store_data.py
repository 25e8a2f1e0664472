"""Synthetic rollouts for benchmarks/store.py, shaped like real ones.

An assistant with a dozen tools answers requests about orders, mails and meetings: three to seven turns, tool calls with JSON arguments,
tool results of a few records, groups of eight over one prompt, about 1,500 tokens after the prompt. Token ids stand for pieces of that
text, common pieces with small ids, so that text and tokens repeat themselves as those of a real tokenizer do. Logprobs are mostly near
zero with a long tail, as sampled tokens have them.
"""

import json
import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from rollhouse.store import ids
from rollhouse.store.messages import Message, ToolCall, VersionSpan
from rollhouse.store.rollout import Rollout
from rollhouse.store.rows import rollout_rows
from rollhouse.store.task import PROMPT_TOKENS, PROMPTS, TASKS, Task

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


@dataclass(frozen=True)
class Sample:
    """A rollout, and the same as rows of the tables, for writers that take rows."""

    rollout: Rollout
    row: dict[str, Any]
    prompt: dict[str, Any]
    task: dict[str, Any]
    prompt_tokens: dict[str, Any]

    @classmethod
    def of(cls, rollout: Rollout) -> "Sample":
        """With its rows."""
        rows = rollout_rows([rollout], rollout.run_id)
        referred = PROMPTS.row(rows.prompts[0]), TASKS.row(rows.tasks[0]), PROMPT_TOKENS.row(rows.prompt_tokens[0])
        return cls(rows.rollouts[0], rows.rollouts[0].to_row(), *referred)


def groups(n: int, run_id: str = "bench", seed: int = 0) -> Iterator[list[Sample]]:
    """`n` groups of eight."""
    chance = random.Random(seed)
    numbers = np.random.default_rng(seed)
    vocabulary, schemas = words(chance), tuple(tools(chance))
    schema_text = ids.canonical_json(list(schemas))
    for number in range(n):
        question = Message("user", _sentence(chance, vocabulary, chance.randint(20, 80)))
        system = Message("system", _sentence(random.Random(1), vocabulary, 120))
        task = Task("desk", (system, question), schemas, {"n": number}, created_at=_STARTED)
        prompt = token_ids(f"{system.text}{schema_text}{question.text}")
        rollouts = [_rollout(chance, numbers, vocabulary, run_id, number // 16, task, prompt, i) for i in range(GROUP)]
        yield [Sample.of(rollout) for rollout in rollouts]


def _rollout(
    chance: random.Random,
    numbers: np.random.Generator,
    vocabulary: list[str],
    run_id: str,
    step: int,
    task: Task,
    prompt: list[int],
    sample: int,
) -> Rollout:
    messages, tokens, mask = [], [], []
    n_turns = chance.randint(3, 7)
    for turn in range(n_turns):
        last = turn == n_turns - 1
        text = _sentence(chance, vocabulary, chance.randint(15, 70))
        calls = [] if last else [_call(chance, vocabulary, turn)]
        output = text + "".join(f"<tool_call>{call.name}{call.arguments}</tool_call>" for call in calls)
        messages.append(Message("assistant", text, tuple(calls)))
        tokens += (sampled := token_ids(output))
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
    return Rollout(
        run_id=run_id,
        step=step,
        task=task,
        sample_index=sample,
        policy_id=run_id,
        policy_version=step,
        policy_version_last=step,
        version_spans=[VersionSpan(0, step)],
        tokenizer_hash="tok",
        template_hash="tpl",
        engine="vllm",
        temperature=1.0,
        top_p=1.0,
        top_k=-1,
        max_tokens=512,
        sampling_seed=chance.randrange(2**31),
        logprobs_mode="processed",
        messages=messages,
        prompt_token_ids=prompt,
        token_ids=tokens,
        loss_mask=mask,
        logprobs=(-surprise).astype(np.float32).tolist(),
        n_turns=n_turns,
        n_tool_errors=0,
        reward=float(passed),
        passed=passed,
        scorer="desk",
        scorer_version="1",
        stop_reason="stop",
        gaps=[],
        started_at=_STARTED + timedelta(seconds=step),
        duration_s=chance.random() * 30,
        generate_s=chance.random() * 25,
        tool_s=chance.random(),
        verify_s=chance.random() / 100,
    )


def dump_row(sample: Sample) -> dict[str, Any]:
    """The same rollout as dumps hold it: everything in one row, prompt and tools with it."""
    row = {
        name: value
        for name, value in sample.row.items()
        if name not in ("messages", "started_at") and value is not None
    }
    return {
        **row,
        "started_at": sample.row["started_at"].isoformat(),
        "tools": json.loads(sample.prompt["tools"]),
        "messages": sample.rollout.to_openai(),
        "prompt_token_ids": sample.prompt_tokens["token_ids"],
        "ground_truth": sample.task["ground_truth"],
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
