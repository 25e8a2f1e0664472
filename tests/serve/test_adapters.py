"""Adapters beside merged checkpoints, as peft reads them, and served beside their base model."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import rollhouse as rh
import torch
from rollhouse.base.errors import ConfigError
from rollhouse.policies.adapter_folder import NamedAdapter, refuse_other_base
from rollhouse.policies.models import weights_hash
from rollhouse.train.checkpoints import find_checkpoint, named_adapters

QUESTION: list[Any] = [{"role": "user", "content": "Move the event 17 to Monday."}]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Any:
    """A store with a run `tuned` of two steps of adapters, each saved, and a run `trls` of one step with TRL."""
    store = rh.open(tmp_path_factory.mktemp("adapters") / "store")
    store.collect(env="workplace-mini", engine="scripted", limit=4, run="script")
    store.snapshot("s1")
    demonstrations = store.build_sft("demos", at="s1")
    settings = ["trainer=learner", "policy.lora.rank=4", "policy.optimizer.lr=0.02", "policy.train_global_batch_size=4"]
    settings += ["sft.max_num_steps=2", "checkpointing.save_period=1", "policy.device=cpu"]
    store.train_sft(dataset=demonstrations, model=str(tiny_base), run="tuned", overrides=settings)
    settings = ["policy.lora.rank=4", "policy.optimizer.lr=0.02", "sft.max_num_steps=1", "policy.device=cpu"]
    store.train_sft(dataset=demonstrations, model=str(tiny_base), run="trls", overrides=settings)
    return store


def folder_of(store: Any, name: str) -> Path:
    """Of a checkpoint."""
    row = find_checkpoint(store, name)
    assert row is not None
    return Path(row["path"])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(5, 25)[None]).logits


def test_peft_opens_a_checkpoints_adapter_as_its_merged_model(trained: Any, tiny_base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    found = []
    for name in ("tuned/step_1", "tuned/step_2", "trls/step_1"):
        folder = folder_of(trained, name)
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), folder / "adapter")
        found.append(logits(adapted))
        torch.testing.assert_close(found[-1], logits(AutoModelForCausalLM.from_pretrained(folder)), rtol=1e-4, atol=1e-4)  # fmt: skip
    base = logits(AutoModelForCausalLM.from_pretrained(tiny_base))
    assert min(float((one - base).abs().max()) for one in found) > 1e-2
    assert float((found[0] - found[1]).abs().max()) > 1e-2


def test_adapters_are_left_out_by_a_setting(trained: Any, tiny_base: Path) -> None:
    settings = ["trainer=learner", "policy.lora.rank=4", "policy.lora.save_adapter=false", "sft.max_num_steps=1"]
    trained.train_sft(dataset="demos", model=str(tiny_base), run="merged-alone", overrides=[*settings, "policy.device=cpu"])  # fmt: skip
    assert not (folder_of(trained, "merged-alone") / "adapter").exists()
    with pytest.raises(ConfigError, match="has no adapter"):
        named_adapters(trained, ["merged-alone"])


def test_an_adapter_of_another_base_is_refused(trained: Any, tiny_base: Path, random_models: tuple[Path, Path], tmp_path: Path) -> None:  # fmt: skip
    (adapter,) = named_adapters(trained, ["tuned/step_1"])
    assert adapter.policy_id == weights_hash(folder_of(trained, "tuned/step_1"))
    refuse_other_base(adapter, tiny_base)
    with pytest.raises(ConfigError, match="was trained on"):
        refuse_other_base(adapter, folder_of(trained, "tuned/step_2"))
    # A folder of another program names no base: its layers must fit.
    foreign = NamedAdapter("foreign", Path(shutil.copytree(adapter.folder, tmp_path / "foreign")), "x")
    (foreign.folder / "base.json").unlink()
    refuse_other_base(foreign, folder_of(trained, "tuned/step_2"))
    with pytest.raises(ConfigError, match="does not fit"):
        refuse_other_base(foreign, random_models[0])
    with pytest.raises(ConfigError, match="cannot serve adapters"):
        trained.serve(engine="torch", model=str(tiny_base), adapter=["tuned/step_1"], port=0)
    with pytest.raises(ConfigError, match="no adapter"):
        trained.serve(engine="vllm", model=str(tiny_base), adapter=["nowhere"], port=0)


@pytest.mark.system
def test_base_and_checkpoints_are_served_side_by_side(trained: Any, tiny_base: Path, ray_session: None) -> None:
    from openai import DefaultHttpxClient, NotFoundError, OpenAI

    names = ["base", "tuned/step_1", "tuned/step_2"]
    begun, ready, ended = threading.Event(), [], []

    def on_ready(listening: Any) -> None:
        ready.append(listening)
        begun.set()

    def serve() -> None:
        try:
            ended.append(trained.serve(engine="vllm", model=str(tiny_base), adapter=names[1:], served_name="base", port=0, run="served", on_ready=on_ready))  # fmt: skip
        except BaseException as error:
            ended.append(error)
        finally:
            begun.set()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    begun.wait()
    assert ready, ended
    try:
        http = DefaultHttpxClient(verify=False)
        client = OpenAI(base_url=f"{ready[0].url}/v1", api_key="none", max_retries=0, http_client=http)
        assert [card.id for card in client.models.list()] == names
        with pytest.raises(NotFoundError, match=r"base, tuned/step_1, tuned/step_2"):
            client.chat.completions.create(model="another", messages=QUESTION)
        talks: dict[str, list[Any]] = {name: list(QUESTION) for name in names}
        for _ in range(2):
            for name, talk in talks.items():  # a second turn goes on with its own model's first
                answer = client.chat.completions.create(model=name, messages=talk, seed=3, max_tokens=16, extra_headers={"X-Rollout-Id": "all"})  # fmt: skip
                assert answer.model == name
                talk += [answer.choices[0].message.model_dump(exclude_none=True), {"role": "user", "content": "And now?"}]  # fmt: skip
        assert http.post(f"{ready[0].url}/rollouts/all/finish", json={}).status_code == 200
        http.close()
    finally:
        ready[0].stop()
        thread.join()
    assert isinstance(ended[0], dict), ended
    rows = [row for row in trained.read("rollouts").to_pylist() if row["run_id"] == "served"]
    assert sorted(row["n_turns"] for row in rows) == [2, 2, 2] and len({row["episode_id"] for row in rows}) == 1
    folders = [tiny_base, *(folder_of(trained, name) for name in names[1:])]
    by_policy = {row["policy_id"]: row for row in rows}
    assert set(by_policy) == {weights_hash(folder) for folder in folders}
    prompts = {row["prompt_id"]: row["token_ids"] for row in trained.read("prompt_tokens").to_pylist()}
    for folder in folders:
        row = by_policy[weights_hash(folder)]
        assert row["logprobs"] == pytest.approx(scored(folder, prompts[row["prompt_id"]], row), abs=2e-3)


def scored(folder: Path, prompt: list[int], row: dict[str, Any]) -> list[float]:
    """The logprobs of a row's sampled tokens under the model of a folder."""
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([prompt + row["token_ids"]])
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids).logits.float().log_softmax(-1)
    chosen = found[0, :-1].gather(-1, ids[0, 1:, None])[:, 0].tolist()[len(prompt) - 1 :]
    return [value for value, sampled in zip(chosen, row["loss_mask"], strict=True) if sampled]
