"""What is exported for TRL, as SFTTrainer itself renders it: with every template that TRL ships, it is the stored messages' text."""

import json
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import ConfigError
from rollhouse.interop.exporting import export_file
from rollhouse.interop.importing import import_file
from rollhouse.policies.template import Template
from rollhouse.queries.rollouts import load_rollout
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message
from rollhouse.transform.build import build_sft
from rollhouse.transform.dataset import load_dataset_version
from rollhouse.transform.export import export_dataset
from rollhouse.transform.options import SftOptions


def call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name: str, *names: str) -> dict[str, Any]:
    properties = {one: {"type": "string", "description": one} for one in names}
    schema = {"type": "object", "properties": properties, "required": list(names)}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": schema}}


TOOLS = [tool("get_weather", "town"), tool("add", "a", "b"), tool("now")]
CHATS = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
    {
        "messages": [
            {"role": "user", "content": "Weather in Ghent, and 2 + 3?"},
            {"role": "assistant", "content": "", "tool_calls": [call("callid001", "get_weather", '{"town": "Ghent"}')]},
            {"role": "tool", "tool_call_id": "callid001", "content": "rain"},
            {"role": "assistant", "content": "", "reasoning_content": "Add them.", "tool_calls": [call("callid002", "add", '{"a": 2, "b": [3, {"c": null}]}')]},
            {"role": "tool", "tool_call_id": "callid002", "content": "5"},
            {"role": "assistant", "content": "", "tool_calls": [call("callid003", "now", "")]},
            {"role": "tool", "tool_call_id": "callid003", "content": "10:42"},
            {"role": "assistant", "content": "Rain, and 5."},
        ],
        "tools": TOOLS,
    },
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": [call("callid001", "add", '{"a": 2')]}], "tools": TOOLS},
]  # fmt: skip


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    folder = tmp_path_factory.mktemp("templates")
    (folder / "in.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
    store = LanceStore.create(folder / "store")
    import_file(store, "openai-chat", folder / "in.jsonl")
    return store


def mapped(message: Message) -> dict[str, Any]:
    """What a template is to be given: only the keys that say something, and arguments as objects."""
    chat = message.to_openai()
    for one in chat.get("tool_calls", ()):
        one["function"]["arguments"] = json.loads(one["function"]["arguments"])
    return chat


def stored_texts(store: LanceStore, tokenizer: Any, template: str) -> list[str]:
    """The stored conversations in a template's words; empty when it renders none or not their calls."""
    ids = store.read("rollouts", ["rollout_id"], "n_parse_failures = 0")["rollout_id"].to_pylist()
    texts = []
    for rollout in (load_rollout(store, id) for id in ids):
        assert rollout.prompt is not None
        talk = [mapped(message) for message in (*rollout.prompt.messages, *rollout.messages)]
        tools = [dict(tool) for tool in rollout.prompt.tools] or None
        try:
            texts.append(tokenizer.apply_chat_template(talk, tools=tools, chat_template=template, tokenize=False))
        except Exception:  # the template refuses tools, or needs what the model's own tokenizer has
            return []
    return texts if any('"Ghent"' in text or "Ghent<" in text or "Ghent\n" in text for text in texts) else []


FEW = {"qwen3.jinja", "llama3_1.jinja", "gptoss.jinja"}


def templates(names: set[str] | None) -> list[Path]:
    from trl import __file__ as trl_file

    found = sorted((Path(trl_file).parent / "chat_templates").glob("*.jinja"))
    return [file for file in found if names is None or file.name in names]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_trainer_renders_the_stored_calls(chats: LanceStore, tmp_path: Path, suffix: str) -> None:
    assert rendered_by_sft(chats, tmp_path, suffix, {"qwen3.jinja"} if suffix == "parquet" else FEW) >= 1


@pytest.mark.system
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_every_template_of_trl_renders_the_stored_calls(chats: LanceStore, tmp_path: Path, suffix: str) -> None:
    assert rendered_by_sft(chats, tmp_path, suffix, None) >= 40


def rendered_by_sft(chats: LanceStore, tmp_path: Path, suffix: str, names: set[str] | None) -> int:
    """The number of templates that render the calls; each as SFTTrainer renders the export."""
    from datasets import load_dataset
    from rollhouse.train.tiny.model import build_model
    from rollhouse.train.tiny.tokenizer import build_tokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    summary = export_file(chats, "trl-messages", tmp_path / f"out.{suffix}")
    assert summary.rollouts == 2 and summary.left_out == {"arguments of a call are not a JSON object": 1}
    reader = {"jsonl": "json", "parquet": "parquet"}[suffix]
    rows = load_dataset(reader, data_files=summary.file, cache_dir=str(tmp_path / "cache"), split="train")
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), seed=1)
    arguments = SFTConfig(str(tmp_path / "run"), max_steps=1, use_cpu=True, bf16=False, report_to="none", save_strategy="no", max_length=None)  # fmt: skip
    rendered = []
    for file in templates(names):
        tokenizer.chat_template = template = file.read_text()
        wanted = stored_texts(chats, tokenizer, template)
        if wanted:
            trainer = SFTTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
            prepared: Any = trainer.train_dataset
            ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in wanted]
            assert sorted(prepared["input_ids"]) == sorted(ids), file.name
            rendered.append(file.name)
    assert (names or FEW) <= set(rendered)
    return len(rendered)


@pytest.mark.system
def test_our_own_rendering_gives_the_same(chats: LanceStore) -> None:
    """The way of `rollhouse train`: what it renders is what TRL's trainer renders."""
    from rollhouse.train.tiny.tokenizer import build_tokenizer

    tokenizer, same = build_tokenizer(), 0
    ids = chats.read("rollouts", ["rollout_id"], "n_parse_failures = 0")["rollout_id"].to_pylist()
    for file in templates(None):
        tokenizer.chat_template = template = file.read_text()
        wanted = stored_texts(chats, tokenizer, template)
        try:
            ours = Template(tokenizer, {}, []) if wanted else None
        except ConfigError:  # it cannot play on after a tool call with this tokenizer
            continue
        for id, text in zip(ids, wanted, strict=False):
            rollout = load_rollout(chats, id)
            assert rollout.prompt is not None and ours is not None
            if ours.habits.takes_reasoning:
                talk = [*rollout.prompt.messages, *rollout.messages]
                assert ours.text(talk, rollout.prompt.tools, generation_prompt=False) == text, file.name
                same += 1
    assert same > 20


def test_datasets_give_what_files_give(chats: LanceStore, tmp_path: Path) -> None:
    from rollhouse.store.snapshots import create_snapshot

    create_snapshot(chats, "s")
    version = build_sft(chats, "d", "s", SftOptions(require_reward=False))
    done = export_dataset(chats, version, "trl", tmp_path / "d.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert len({tuple(row) for row in rows}) == 1, "every row has the same keys"
    assert {key for row in rows for message in row["completion"] for key in message} == set(rows[0]["completion"][0])
    loaded: Any = load_dataset_version(chats, "d").to_hf()
    assert [row["completion"] for row in loaded] == [row["completion"] for row in rows]
    calls = [one["function"]["arguments"] for row in rows for message in row["completion"] for one in message["tool_calls"] or ()]  # fmt: skip
    assert calls == [{"town": "Ghent"}, {"a": 2, "b": [3, {"c": None}]}, {}] and done.rows == len(rows)
