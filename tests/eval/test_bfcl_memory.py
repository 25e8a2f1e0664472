"""The memory categories: the sessions fill a memory, the questions find it, and bfcl-eval's own generation comes to the same."""

import hashlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import EngineError, EvaluationError
from rollhouse.eval.bfcl import Checker, evaluate_bfcl
from rollhouse.eval.bfcl.categories import MEMORY
from rollhouse.eval.compare import compare_runs
from rollhouse.eval.rows import rows_of_run
from rollhouse.policies.engines.base import PromptTooLong
from rollhouse.policies.types import Conversation, Sampling, Turn
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.runs import start_run
from rollhouse.tests.eval.conftest import as_text

Calls = list[tuple[str, str]]
EPISODE = "r" + "a" * 32


def acts(messages: list[tuple[str, str]], rec_sum: bool) -> Calls | str:
    """A policy whose memory and answers depend on every message: two that do the same got the same messages."""
    seen = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
    role, last = messages[-1]
    if role == "tool" or last.startswith("[{'role': 'tool'"):
        return f"{last[:200]} {seen}"
    key = "k" + seen[:3].translate(str.maketrans("0123456789", "ghijklmnop"))
    if rec_sum:
        return [("memory_append", json.dumps({"text": seen + last[:60]})), ("memory_retrieve", "{}")]
    return [
        ("core_memory_add", json.dumps({"key": key, "value": last[:90]})),
        ("archival_memory_add", json.dumps({"key": key, "value": seen})),
        ("archival_memory_key_search", json.dumps({"query": key, "k": 2})),
    ]


class Actor:
    """Answers with `act(messages)`: calls, words, or an exception to raise."""

    engine = "actor"
    policy_id = "actor"
    version = 0
    token_identity = None

    def __init__(self, act: Callable[[list[tuple[str, str]]], Calls | str], mode: str = "fc") -> None:
        self.act, self.mode = act, mode
        self.shown: list[list[tuple[str, str]]] = []

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        history = [*conversation.task.messages, *conversation.messages]
        self.shown.append([(message.role, message.text or "") for message in history])
        reported = self.act(self.shown[-1])
        if isinstance(reported, str):
            return Turn(Message("assistant", reported))
        if self.mode == "prompt":
            return Turn(Message("assistant", as_text(reported)))
        return Turn(Message("assistant", None, tuple(ToolCall(f"c{i}", *call) for i, call in enumerate(reported))))


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore.create(tmp_path / "store")


def _sessions(store: LanceStore) -> list[dict[str, Any]]:
    return store.read("evaluations", filter="passed IS NULL").to_pylist()


# The package's own loop over all sessions and questions, with the same actor in place of a server.
GENERATE = """
import json, os, sys, types, hashlib
from pathlib import Path
from types import SimpleNamespace
root, category, mode, ids = sys.argv[1:]
(Path(root) / "test_case_ids_to_generate.json").write_text(json.dumps({category: json.loads(ids)}))
os.environ["BFCL_PROJECT_ROOT"] = root
os.environ["OPENAI_API_KEY"] = "unused"
stub = types.ModuleType("bfcl_eval.constants.model_config")
stub.MODEL_CONFIG_MAPPING = {}
stub.ModelConfig = SimpleNamespace
sys.modules[stub.__name__] = stub
from bfcl_eval.model_handler.api_inference.openai_completion import OpenAICompletionsHandler

ACTS

class Handler(OpenAICompletionsHandler):
    def _query_FC(self, inference_data):
        messages = [(m["role"], m["content"] or "") if isinstance(m, dict) else (m.role, m.content or "") for m in inference_data["message"]]
        said = acts(messages, "rec_sum" in category)
        calls = None
        if not isinstance(said, str):
            if mode == "prompt":
                said = "[" + ", ".join(f"{name}({', '.join(f'{k}={v!r}' for k, v in json.loads(text).items())})" for name, text in said) + "]"
            else:
                calls = [SimpleNamespace(id=f"c{i}", function=SimpleNamespace(name=name, arguments=text)) for i, (name, text) in enumerate(said)]
                said = None
        message = SimpleNamespace(role="assistant", content=said, tool_calls=calls)
        return SimpleNamespace(choices=[SimpleNamespace(message=message)], usage=SimpleNamespace(prompt_tokens=1, completion_tokens=1)), 0.0

    _query_prompting = _query_FC

name = "actor-" + ("FC" if mode == "fc" else "prompt")
stub.MODEL_CONFIG_MAPPING[name] = SimpleNamespace(
    model_name=name, display_name=name, model_handler=Handler, is_fc_model=mode == "fc", underscore_to_dot=mode == "fc",
    url="", org="", license="", input_price=None, output_price=None,
)
from bfcl_eval._llm_response_generation import main as generate
generate(SimpleNamespace(
    model=[name], test_category=[category], temperature=0.0, num_threads=4, run_ids=True, allow_overwrite=True,
    include_input_log=False, exclude_state_log=True, skip_server_setup=True, result_dir=None, local_model_path=None,
    backend="vllm", num_gpus=1, gpu_memory_utilization=0.9, enable_lora=False, max_lora_rank=None, lora_modules=None,
))
from bfcl_eval.eval_checker.eval_runner import main as evaluate
evaluate([name], [category], None, None, partial_eval=True)
"""


def _agrees(tmp_path: Path, store: LanceStore, category: str, mode: str, limit: int | None) -> None:
    with Checker() as checker:
        cases = checker.cases(category, limit, mode)
        sessions = checker.sessions(category)
    requested = [session for scenario in {case["scenario"] for case in cases} for session in sessions[scenario]]
    script = GENERATE.replace("ACTS", inspect.getsource(acts).replace(" -> Calls | str", ""))
    ids = json.dumps(requested + [case["id"] for case in cases])
    command = [sys.executable, "-c", script, str(tmp_path), category, mode, ids]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    with start_run(store, "eval", "ours") as run:
        actor = Actor(lambda messages: acts(messages, "rec_sum" in category), mode)
        summary = evaluate_bfcl(store, run, actor, [category], mode=mode, limit=limit)
    theirs = {path.stem: json.loads(path.read_text()) for path in tmp_path.rglob("prereq_checkpoints/*.json")}
    ours = {row["case_id"]: json.loads(row["output"])["memory"] for row in _sessions(store)}
    assert len(ours) == len(requested) and ours == theirs
    (results,) = tmp_path.rglob(f"BFCL_v4_{category}_result.json")
    last = {line["id"]: line["result"][0][-1] for line in map(json.loads, results.read_text().splitlines())}
    assert {row["case_id"]: json.loads(row["output"])[-1]["content"] for row in rows_of_run(store, "ours")} == last
    (score,) = tmp_path.rglob(f"BFCL_v4_{category}_score.json")
    first = json.loads(score.read_text().splitlines()[0])
    counted = summary.categories[category]
    assert (counted.correct, counted.total) == (first["correct_count"], first["total_count"])
    assert summary.sessions == {"completed": len(requested)}


@pytest.mark.parametrize(("category", "mode"), [("memory_kv", "fc"), ("memory_rec_sum", "prompt")])
def test_the_package_shows_remembers_and_scores_the_same(
    tmp_path: Path, store: LanceStore, category: str, mode: str
) -> None:
    _agrees(tmp_path, store, category, mode, limit=1)


@pytest.mark.system
@pytest.mark.parametrize("mode", ["fc", "prompt"])
@pytest.mark.parametrize("category", MEMORY)
def test_so_it_does_over_all_sessions_and_questions(
    tmp_path: Path, store: LanceStore, category: str, mode: str
) -> None:
    _agrees(tmp_path, store, category, mode, limit=None)


def _scholar(gold: Mapping[str, str]) -> Callable[[list[tuple[str, str]]], Calls | str]:
    """Writes down what it hears first in each session, and answers questions rightly when their text is known."""

    def act(messages: list[tuple[str, str]]) -> Calls | str:
        role, last = messages[-1]
        if "For your final answer" in messages[0][1]:
            return gold.get(last, "I do not know.")
        if role == "tool" or len(messages) > 2:
            return "Noted."
        return [("archival_memory_add", json.dumps({"key": "k" + "a" * len(last), "value": last[:50]}))]

    return act


def test_answers_are_scored_and_sessions_are_not(store: LanceStore, memory_gold: dict[str, str]) -> None:
    with start_run(store, "eval", "gold") as run:
        summary = evaluate_bfcl(store, run, Actor(_scholar(memory_gold)), ["memory_kv"], limit=2)
    assert summary.accuracy == {"memory_kv": 1.0} and summary.categories["memory_kv"].total == 2
    assert summary.sessions == {"completed": len(_sessions(store))} and "memory_kv" not in summary.not_run
    assert {row["category"] for row in _sessions(store)} == {"memory_kv_prereq"}
    assert all(row["score"] is None and row["error_type"] is None for row in _sessions(store))
    with start_run(store, "eval", "junk") as run:
        summary = evaluate_bfcl(store, run, Actor(_scholar({})), ["memory_kv"], limit=2)
    assert summary.categories["memory_kv"].errors == {"agentic:answer_not_found": 2}
    (compared,) = compare_runs(store, "gold", "junk").overall
    assert compared.n == 2 and compared.only_a == 2


def test_a_run_goes_on_after_its_last_session(store: LanceStore) -> None:
    heard = 0

    def act(messages: list[tuple[str, str]]) -> Calls | str:
        nonlocal heard
        if len(messages) == 2 and "For your final answer" not in messages[0][1]:
            heard += 1
            if heard == 3:
                raise EngineError("The endpoint is down.")
        return _scholar({})(messages)

    with pytest.raises(EvaluationError, match="1 of 1 BFCL cases got no answer"), start_run(store, "eval", "r") as run:
        evaluate_bfcl(store, run, Actor(act), ["memory_kv"], limit=1)
    first = {row["case_id"]: row["output"] for row in _sessions(store)}
    assert len(first) == 2
    with start_run(store, "eval", "r") as run:
        summary = evaluate_bfcl(store, run, Actor(act), ["memory_kv"], limit=1)
    whole = {row["case_id"]: row["output"] for row in _sessions(store)}
    assert heard == len(whole) + 1 and whole.items() >= first.items() and summary.categories["memory_kv"].total == 1
    sizes = [len(json.loads(output)["memory"]["archival_memory"]) for output in whole.values()]
    assert sizes == list(range(1, len(whole) + 1))


def test_a_session_that_breaks_off_leaves_the_memory_as_it_was(store: LanceStore) -> None:
    heard = 0

    def act(messages: list[tuple[str, str]]) -> Calls | str:
        nonlocal heard
        heard += len(messages) == 2
        if heard == 2 and messages[-1][0] == "tool":
            raise PromptTooLong("The context is 512 tokens.")
        return _scholar({})(messages)

    with start_run(store, "eval", "r") as run:
        summary = evaluate_bfcl(store, run, Actor(act), ["memory_kv"], limit=1)
    first, second, *_ = _sessions(store)
    assert second["error_type"] == "prompt_too_long"
    assert json.loads(second["output"])["memory"] == json.loads(first["output"])["memory"]
    assert summary.sessions["prompt_too_long"] == 1 and summary.prompt_too_long == 0


def test_a_replaced_process_remembers_and_hostile_calls_are_not_run() -> None:
    with Checker(case_s=60) as checker:
        session = checker.sessions("memory_kv")["notetaker"][1]
        before = {"core_memory": {"name": "Ada"}, "archival_memory": {}}
        call = [("core_memory_add", '{"key": "a", "value": "b"}')]
        hostile = [("__import__", '{"name": "os"}'), ("core_memory_clear", "{}"), ("_flush_memory_to_local_file", "{}")]
        assert checker.execute("memory_kv", session, EPISODE, [call], memory=before) == ['{"status": "Key-value pair added."}']  # fmt: skip
        checker._stop()
        after = checker.remember("memory_kv", session, EPISODE, [call], memory=before)
        assert after == {"core_memory": {"name": "Ada", "a": "b"}, "archival_memory": {}}
        refused, cleared, private = checker.execute("memory_kv", session, EPISODE, [call, hostile], memory=before) or []
        assert "not defined" in refused and "cleared" in cleared and "not defined" in private
        again = checker.execute(
            "memory_kv", session, "r" + "b" * 32, [[("core_memory_list_keys", "{}")]], memory=before
        )
        assert again == ['{"keys": ["name"]}']
