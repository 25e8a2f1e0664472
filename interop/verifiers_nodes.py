"""Tokens of a verifiers trace: each node holds the tokens it adds, a mask over them, and a logprob for each sampled one."""

from itertools import groupby

import numpy as np

from ..store.messages import Message
from .rollout import FileRollout, Row

# In `extra`: how many tokens each node has, and to how many decimals logprobs were rounded.
NODES = "verifiers.nodes"
_DECIMALS = (4, 6)


def place_tokens(rollout: FileRollout, path: list[Row], start: int) -> Row:
    """Fills in the token columns from the nodes of a path; what comes before the first sampled token is the prompt's.

    Args:
        start: Index of the first node that is not the prompt's.

    Returns what `nodes_of` needs to split the tokens again. Raises ValueError when a mask is not parallel to its tokens.
    """
    token_ids = [token for node in path for token in node.get("token_ids") or ()]
    mask = [int(value) for node in path for value in node.get("mask") or ()]
    logprobs = [value for node in path for value in node.get("logprobs") or ()]
    if not any(mask):
        return {}
    if any(len(node.get("token_ids") or ()) != len(node.get("mask") or ()) for node in path):
        raise ValueError("a node's mask is not parallel to its token_ids")
    first = mask.index(1)
    rollout.prompt_ids = token_ids[:first]
    rollout.columns |= {"token_ids": token_ids[first:], "loss_mask": mask[first:], "prefix_ok": True}
    if len(logprobs) == sum(mask):
        rollout.columns["logprobs"] = logprobs
    else:
        rollout.gaps.add("no_logprobs")
    split: Row = {"tokens": [len(node.get("token_ids") or ()) for node in path]}
    with np.errstate(over="ignore"):  # such a record is set aside when it is stored
        narrow = np.asarray(logprobs, dtype=np.float32).astype(float).tolist()
    if narrow != logprobs:
        # Records are rounded: to four decimals by verifiers 0.4, to six before it.
        split |= next(({"decimals": n} for n in _DECIMALS if [round(value, n) for value in narrow] == logprobs), {})
    return split


def nodes_of(rollout: FileRollout) -> list[Row]:
    """The nodes of one path, prompt first. Without a split of its own, what lies between two calls goes on the message before the second."""
    messages = [*rollout.prompt, *rollout.messages]
    start = len(rollout.prompt)
    nodes = [
        {**({"parent": index - 1} if index else {}), "message": _message(message),
         "sampled": index >= start and message.role == "assistant", "token_ids": [], "mask": [], "logprobs": []}
        for index, message in enumerate(messages)
    ]  # fmt: skip
    if rollout.get("token_ids") is None or rollout.prompt_ids is None:
        return nodes
    tokens = rollout.prompt_ids + rollout.columns["token_ids"]
    mask = [False] * len(rollout.prompt_ids) + [bool(value) for value in rollout.columns["loss_mask"]]
    told = rollout.extra.get(NODES, {})
    lengths = told.get("tokens") or _lengths(nodes, mask)
    if lengths is None or len(lengths) != len(nodes):
        return nodes
    logprobs = [
        value if "decimals" not in told else round(value, told["decimals"]) for value in rollout.get("logprobs") or ()
    ]
    at = sampled = 0
    for node, length in zip(nodes, lengths, strict=True):
        node["token_ids"], node["mask"] = tokens[at : at + length], mask[at : at + length]
        count = sum(node["mask"])
        node["logprobs"] = logprobs[sampled : sampled + count]
        at, sampled = at + length, sampled + count
    return nodes


def nodes_hold(rollout: FileRollout) -> bool:
    """Whether the nodes have a place for all of a rollout's tokens."""
    tokens = rollout.columns["token_ids"]
    return sum(len(node["token_ids"]) for node in nodes_of(rollout)) == len(rollout.prompt_ids or ()) + len(tokens) > 0


def _lengths(nodes: list[Row], mask: list[bool]) -> list[int] | None:
    """Tokens of each node: sampled stretches on the sampled nodes, each other stretch on the node before the next of those."""
    lengths = [0] * len(nodes)
    places = [index for index, node in enumerate(nodes) if node["sampled"]]
    stretches = [(value, len(list(group))) for value, group in groupby(mask)]
    if len(places) != sum(value for value, _ in stretches) or (stretches and not stretches[-1][0]):
        return None
    for value, length in stretches:
        if value:
            lengths[places.pop(0)] += length
        elif places:
            lengths[max(places[0] - 1, 0)] += length
    return lengths


def _message(message: Message) -> Row:
    """A message with flat tool calls; an assistant's content may be missing, another's is text."""
    chat = message.to_openai()
    if message.tool_calls:
        chat["tool_calls"] = [
            {"id": call.id, "name": call.name, "arguments": call.arguments} for call in message.tool_calls
        ]
    return {name: value for name, value in chat.items() if value is not None}
