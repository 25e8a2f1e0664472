"""A run is resumed by the settings that differ from the defaults, whatever settings a later version adds."""

from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field
from rollhouse.base.config import FREE, Content, Section
from rollhouse.base.errors import ConfigError
from rollhouse.base.recipes import resolve
from rollhouse.collect.config import CollectConfig
from rollhouse.collect.job import run_job
from rollhouse.eval.config import BfclConfig, EvaluationConfig
from rollhouse.serve.config import ServeConfig
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.run_settings import refuse_other_config, run_payload, stored_settings
from rollhouse.store.runs import get_run, start_run


class Loss(Section):
    entropy_bonus: float = 0.0
    threads: Annotated[int, FREE] = 1


class Config(Section):
    loss_fn: Loss = Field(default_factory=Loss)
    rows: Annotated[str | None, Content()] = None
    parts: list[Loss] = Field(default_factory=list)
    adapters: Loss | None = None


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    return LanceStore.create(tmp_path / "store")


def started(store: LanceStore, config: Section | dict[str, Any], name: str = "g") -> None:
    payload = config if isinstance(config, dict) else run_payload(config)
    with start_run(store, "collect", name, payload):
        pass


def refused(store: LanceStore, config: Section, name: str = "g") -> str:
    """What a command with this configuration is refused with; empty when it resumes the run."""
    try:
        refuse_other_config(store, name, type(config), run_payload(config))
    except ConfigError as error:
        return str(error)
    return ""


def test_a_difference_is_named_with_both_values(store: LanceStore) -> None:
    config = resolve(Config, None, ["loss_fn.entropy_bonus=0.1"])
    assert not refused(store, config), "there is no run yet"
    started(store, config)
    assert get_run(store, "g")["config"] == {"loss_fn": {"entropy_bonus": 0.1}}
    assert not refused(store, config)
    output = "Run 'g' exists with a different configuration: loss_fn.entropy_bonus is 0.1 in the run and 0.0 now."
    assert refused(store, Config()).startswith(output)
    assert not refused(store, resolve(Config, None, ["loss_fn.entropy_bonus=0.1", "loss_fn.threads=8"])), "it is free"
    assert "adapters is not set in the run and {} now" in refused(store, resolve(Config, None, ["loss_fn.entropy_bonus=0.1", "adapters={}"]))  # fmt: skip


def test_the_content_of_a_file_decides(store: LanceStore, tmp_path: Path) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("a")
    started(store, config := Config(rows=str(rows)))
    assert not refused(store, config)
    rows.write_text("b")
    assert "files.rows is '" in refused(store, config)
    rows.unlink()
    with pytest.raises(ConfigError, match=r"rows .* cannot be read"):
        run_payload(config)


def test_a_setting_added_later_resumes_the_runs_of_before(store: LanceStore) -> None:
    started(store, resolve(Config, None, ["loss_fn.entropy_bonus=0.1", "parts=[{entropy_bonus: 0.5}]"]))

    class LaterLoss(Loss):
        label_smoothing: float = 0.0

    class LaterConfig(Config):
        loss_fn: LaterLoss = Field(default_factory=LaterLoss)
        parts: list[LaterLoss] = Field(default_factory=list)  # type: ignore[assignment]
        schedule: LaterLoss = Field(default_factory=LaterLoss)

    same = ["loss_fn.entropy_bonus=0.1", "parts=[{entropy_bonus: 0.5}]"]
    assert not refused(store, resolve(LaterConfig, None, same))
    output = refused(store, resolve(LaterConfig, None, [*same, "loss_fn.label_smoothing=0.2", "parts.0.label_smoothing=1"]))  # fmt: skip
    assert "loss_fn.label_smoothing is 0.0 in the run and 0.2 now" in output
    assert "parts.0.label_smoothing is 0.0 in the run and 1.0 now" in output


def test_a_collection_goes_on_when_the_command_has_a_new_setting(store: LanceStore) -> None:
    options = {"env": "workplace-mini", "limit": 3, "run": "r"}
    assert run_job(store, resolve(CollectConfig, options=options)).collected == 3

    class Later(CollectConfig):
        order: str = "as listed"

    assert run_job(store, resolve(Later, options=options)).skipped == 3


OLD_COLLECT = {
    "environment": "workplace-mini", "engine": "scripted", "tables": None, "tasks": None, "split": "train", "model": None,
    "num_repeats": 2, "limit": 20, "seed": 3, "temperature": 1.0, "top_p": 1.0, "max_tokens": 256, "max_turns": 6, "mistake_rate": 0.3,
    "max_model_len": None, "tasks_split": None, "model_hash": None, "tasks_sha256": None,
}  # fmt: skip
OLD_EVALUATION = {
    "engine": "scripted", "model": None, "max_model_len": None, "mistake_rate": 0.0, "seed": 0, "chat": {}, "model_hash": None,
    "environment": "workplace-mini", "tables": None, "tasks": None, "split": "validation", "limit": 5, "mode": "greedy", "samples": 1,
    "temperature": 1.0, "max_tokens": 256, "max_turns": 6, "tasks_split": None,
}  # fmt: skip
OLD_BENCHMARK = {
    "engine": "torch", "model": "m", "max_model_len": 80, "mistake_rate": 0.0, "seed": 0, "chat": {}, "model_hash": "h",
    "categories": ["simple_python"], "limit": 4, "max_tokens": 4, "mode": "fc",
}  # fmt: skip
OLD_SERVER = {"serve": True, "environment": "served", "engine": "torch", "model": "m", "model_hash": "h", "max_model_len": None, "chat": {"tool_parser": "x"}}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "old", "options", "beside", "other"),
    [
        (CollectConfig, OLD_COLLECT, {"env": "workplace-mini", "num_repeats": 2, "limit": 20, "seed": 3, "mistake_rate": 0.3, "concurrency": 7}, {}, {"seed": 4}),
        (EvaluationConfig, OLD_EVALUATION, {"env": "workplace-mini", "limit": 5}, {}, {"limit": 6}),
        (EvaluationConfig, {**OLD_EVALUATION, "mode": "sampled", "samples": 4}, {"env": "workplace-mini", "limit": 5, "mode": "sampled", "num_repeats": 4}, {}, {"temperature": 0.5}),
        (BfclConfig, OLD_BENCHMARK, {"engine": "torch", "model": "m", "max_model_len": 80, "category": ["simple_python"], "limit": 4, "max_new_tokens": 4}, {"model_hash": "h"}, {"limit": 5}),
        (ServeConfig, OLD_SERVER, {"engine": "torch", "model": "m", "tool_parser": "x", "port": 1}, {"serve": True, "model_hash": "h"}, {"env": "mine"}),
    ],
)  # fmt: skip
def test_a_run_of_the_version_before_is_resumed_by_the_same_command(
    store: LanceStore, model: type[Section], old: dict[str, Any], options: Any, beside: Any, other: dict[str, Any]
) -> None:
    started(store, old)
    refuse_other_config(store, "g", model, run_payload(resolve(model, options=options), **beside))
    decisive = {name: value for name, value in options.items() if name not in ("concurrency", "port")}
    assert stored_settings(model, old) == run_payload(resolve(model, options=decisive), **beside)
    with pytest.raises(ConfigError, match=f"exists with a different configuration: [a-z_.]*{next(iter(other))[:3]}"):
        refuse_other_config(store, "g", model, run_payload(resolve(model, options={**options, **other}), **beside))


def test_a_mixture_and_files_of_the_version_before(store: LanceStore, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")
    now = resolve(CollectConfig, None, ["environment.mixture=[{name: workplace-mini, weight: 2}, {name: math}]", f"policy.chat.template={template}", "policy.chat.enable_thinking=false"])  # fmt: skip
    hashed = run_payload(now)["files"]["policy.chat.template"]
    entry = {"weight": 1.0, "tables": None, "tasks": None, "tasks_split": None, "options": {}, "reward": {"scale": 1.0, "clip": None, "components": {}, "penalties": {"turn": 0.0}}}  # fmt: skip
    old = {**OLD_COLLECT, "environment": None, "limit": None, "num_repeats": 1, "seed": None, "mistake_rate": 0.0}
    old |= {"environments": {"0": {**entry, "name": "workplace-mini", "weight": 2.0}, "1": {**entry, "name": "math"}}}
    old |= {"chat": {"chat_template_sha256": hashed, "template_kwargs": {"enable_thinking": False}}}
    started(store, old)
    assert not refused(store, now)
    template.write_text("{{ messages[0] }}")
    assert "files.policy.chat.template is" in refused(store, now)
