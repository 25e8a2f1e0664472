"""The store keeps the tokenizers of its tokens, and reads their text back."""

import os
from pathlib import Path
from typing import Any

import pytest
from rollhouse.queries.rollouts import load_rollout
from rollhouse.queries.session import sql
from rollhouse.store.adding import add_rollouts
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.packing import pack
from rollhouse.store.rollout import Rollout
from rollhouse.store.tokenizer_states import hash_of, offer, state_of
from rollhouse.store.tokenizers import TokenTexts
from rollhouse.store.unpacking import unpack

TEXT = "naïve 🙂 – {\n} 漢字"


def byte_level() -> Any:
    """A tokenizer of single bytes, with two merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate([*letters, "ve", "na"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("v", "e"), ("n", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


def metaspace() -> Any:
    """A tokenizer of words whose decoder drops the first space, with bytes for the rest."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    names = ["▁to", "▁be", "e", *(f"<0x{number:02X}>" for number in range(256))]
    tokenizer = Tokenizer(
        models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[], byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])  # type: ignore[assignment]
    return tokenizer


def stored(folder: Path, ids: list[int], name: str, run: str = "r") -> LanceStore:
    store = LanceStore.create(folder)
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    tokens = {"token_ids": ids, "loss_mask": [1] * len(ids), "logprobs": [-0.5] * len(ids), "tokenizer_hash": name}
    add_rollouts(store, [Rollout(messages=talk, **tokens)], run)
    return store


def offered(tokenizer: Any) -> str:
    state = state_of(tokenizer)
    offer(hash_of(state), lambda: state)
    return hash_of(state)


def rows(store: LanceStore) -> list[dict[str, Any]]:
    return sql(store, "SELECT text, text_gap FROM tokens ORDER BY position").to_pylist()


@pytest.mark.parametrize(
    ("make", "ids"),
    [
        (byte_level, [*byte_level().encode(TEXT).ids, 258]),
        (byte_level, [*byte_level().encode("a🙂").ids[:-1], 258, 66, 200, 201, 66]),  # cut inside a character
        (byte_level, [99_999, 66, 99_999]),  # no tokens of it
        (metaspace, [0, 1, 3 + 0xC3, 3 + 0xA9, 1, 0]),
        (metaspace, [3 + 0xF0] * 300),
    ],
)
def test_the_text_of_tokens_comes_from_the_store_alone(tmp_path: Path, make: Any, ids: list[int]) -> None:
    tokenizer = make()
    stored(tmp_path / "made", ids, offered(tokenizer))
    os.rename(tmp_path / "made", tmp_path / "moved")
    store = LanceStore.open(tmp_path / "moved")
    wanted = tokenizer.decode(ids, skip_special_tokens=False)
    assert "".join(row["text"] for row in rows(store)) == wanted
    (rollout,) = store.read("rollouts", ["rollout_id"])["rollout_id"].to_pylist()
    tokens = load_rollout(store, rollout).tokens()
    assert [token.text for token in tokens] == [row["text"] for row in rows(store)]
    assert len(tokens) == len(ids)


def test_a_tokenizer_is_kept_once_and_not_for_those_that_are_there(tmp_path: Path) -> None:
    name = offered(byte_level())
    for run in ("a", "b"):
        store = stored(tmp_path / "store", [66, 67], name, run)
    kept = store.read("tokenizers").to_pylist()
    assert [row["tokenizer_hash"] for row in kept] == [name] and hash_of(kept[0]["state"]) == name


def test_without_the_tokenizer_the_text_is_null_and_says_why(tmp_path: Path) -> None:
    store = stored(tmp_path / "store", [66, 67], "0123456789abcdef")
    for row in rows(store):
        assert row["text"] is None and "0123456789abcdef" in row["text_gap"]
    rollout = load_rollout(store, store.read("rollouts", ["rollout_id"])["rollout_id"][0].as_py())
    assert [token.text for token in rollout.tokens()] == [None, None]
    assert "0123456789abcdef" in (rollout.text_gap() or "")


def test_a_state_under_another_hash_is_not_used(tmp_path: Path) -> None:
    from rollhouse.store.appending import insert_if_absent

    store = stored(tmp_path / "store", [66, 67], "fedcba9876543210")
    insert_if_absent(store, "tokenizers", [{"tokenizer_hash": "fedcba9876543210", "state": state_of(byte_level())}])
    assert rows(store)[0]["text"] is None


def test_an_older_store_finds_the_tokenizer_in_the_model_folder_of_its_run(tmp_path: Path) -> None:
    tokenizer = byte_level()
    (tmp_path / "model").mkdir()
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    name = hash_of(state_of(tokenizer))
    store = stored(tmp_path / "store", tokenizer.encode("vena").ids, name)
    from rollhouse.store.runs import start_run

    with start_run(store, "collect", "played", {"policy": {"model_name": str(tmp_path / "model")}}) as run:
        run.finish({})
    LanceStore(store.uri).lance_dataset("tokenizers").delete("true")
    assert TokenTexts(store).pieces(name, tokenizer.encode("vena").ids) == ["ve", "na"]


def test_a_pack_takes_the_tokenizers_of_its_rollouts_along(tmp_path: Path) -> None:
    name = offered(byte_level())
    pack(stored(tmp_path / "store", [66, 67], name), tmp_path / "r.pack", runs=["r"])
    other = LanceStore.create(tmp_path / "other")
    unpack(other, tmp_path / "r.pack")
    assert "".join(row["text"] for row in rows(other)) == byte_level().decode([66, 67])
