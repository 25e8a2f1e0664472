"""Invented result rows in NeMo Gym's shapes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from rollhouse.store.lance_store import LanceStore

TOOL = {"type": "function", "name": "add", "description": "Adds.", "parameters": {"type": "object"}, "strict": False}


def params(question: str = "1 + 2?") -> dict[str, Any]:
    """An echoed request: what was not set is null."""
    messages = [
        {"role": "system", "content": "You calculate.", "type": "message"},
        {"role": "user", "content": question, "type": "message"},
    ]
    return {"input": messages, "tools": [TOOL], "temperature": 1.0, "top_p": None, "max_output_tokens": None}


def tokens(prompt: list[int], generation: list[int], logprob: float = -0.5) -> dict[str, Any]:
    return {
        "prompt_token_ids": prompt,
        "generation_token_ids": generation,
        "generation_log_probs": [logprob] * len(generation),
        "routed_experts": None,
    }


def items(first: dict[str, Any] | None = None, last: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """A reasoned call, its answer, and a closing message: two model calls. `first` and `last` are added to their last items."""
    return [
        {"type": "reasoning", "id": "r1", "summary": [{"type": "summary_text", "text": "Easy."}]},
        {"type": "function_call", "id": "f1", "call_id": "c1", "name": "add", "arguments": '{"a": 1,  "b": 2}', "status": "completed", **(first or {})},
        {"type": "function_call_output", "call_id": "c1", "output": '{"output":3}', "id": None},
        {"type": "message", "id": "m1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "It is 3.", "annotations": []}], **(last or {})},
    ]  # fmt: skip


def result(output: list[dict[str, Any]] | None = None, question: str = "1 + 2?", **fields: Any) -> dict[str, Any]:
    """A row of today's shape."""
    request = params(question)
    response = {
        "id": "resp_1", "model": "little", "output": items() if output is None else output, "tools": request["tools"],
        "error": None, "incomplete_details": None, "usage": {"input_tokens": 9}, "top_p": 1.0,
    }  # fmt: skip
    return {
        "responses_create_params": request,
        "response": response,
        "reward": 1.0,
        "_ng_task_index": 0,
        "_ng_rollout_index": 0,
        "agent_ref": {"type": "responses_api_agents", "name": "calculator_agent"},
        **fields,
    }


def write_rows(path: Path, rows: list[Any]) -> Path:
    """A file of rows; text stays as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore.create(tmp_path / "store")


@pytest.fixture(scope="session")
def conformance() -> Path:
    """The folder of NeMo Gym's own files, beside the checkout or where $ROLLHOUSE_CONFORMANCE_DATA says."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("ROLLHOUSE_CONFORMANCE_DATA") or beside) / "nemo_gym"
    if not folder.is_dir():
        pytest.skip(f"no conformance data at {folder}; set ROLLHOUSE_CONFORMANCE_DATA")
    return folder


@pytest.fixture
def rows() -> Any:
    """The builders above, for tests in files of their own."""
    from types import SimpleNamespace

    return SimpleNamespace(params=params, tokens=tokens, items=items, result=result, write=write_rows, tool=TOOL)
