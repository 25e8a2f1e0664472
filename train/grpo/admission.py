"""Which steps' rollouts may begin: a pure rule, so that nothing is sampled that would be too old to train on.

Weights of version v are those after optimizer step v, so step k changes weights of version k - 1, and a rollout sampled by version v is
k - 1 - v steps old when it is trained on. A rollout begins with weights no older than those it was admitted by.
"""


def age(step: int, version: int) -> int:
    """Optimizer steps between the weights that sampled a token and those that step `step` changes."""
    return step - 1 - version


def admitted(version: int, max_age: int, begun: int, last: int) -> range:
    """The steps to begin now: those after `begun`, the newest begun so far, that `version` admits, up to `last`."""
    return range(begun + 1, min(version + 1 + max_age, last) + 1)
