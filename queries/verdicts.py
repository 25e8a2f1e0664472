"""Selects verdicts: those of collection time, or of a scorer."""

from collections.abc import Collection

from ..base.errors import ConfigError
from ..store.lance_store import quote

COLLECTED = "collected"


def parse_scorer(text: str) -> tuple[str, str | None]:
    """`NAME@VERSION` or `NAME` as (name, version); version None is the newest verdict.

    Raises ConfigError when either part is empty.
    """
    name, at, version = text.rpartition("@") if "@" in text else (text, "", "")
    if not name or (at and not version):
        raise ConfigError(f"{text!r} is not a scorer.", "Write NAME, or NAME@VERSION.")
    return name, version or None


def is_chosen(scorer: str | None) -> bool:
    """Whether verdicts other than those of collection time are selected."""
    return scorer is not None and scorer != COLLECTED


def refuse_unknown_scorer(scorer: str, known: Collection[tuple[str, str | None]], at: str | None = None) -> None:
    """Raises ConfigError, which lists the scorers, when the scorer has no verdict.

    Args:
        known: Name and version of all scorers with verdicts.
        at: The snapshot or time.
    """
    name, version = parse_scorer(scorer)
    if not any(name == has and version in (None, has_version) for has, has_version in known):
        names = ", ".join([COLLECTED, *(f"{has}@{has_version}" for has, has_version in known)])
        then = f" at {at}" if at else ""
        raise ConfigError(f"The store{then} has no verdict of scorer {scorer!r}.", f"It has those of: {names}.")


def verdicts_sql(scorer: str) -> str:
    """A SELECT of one row a rollout: the newest verdict of that scorer (and version), in the columns of `scores`."""
    name, version = parse_scorer(scorer)
    where = f"scorer = {quote(name)}" + (f" AND scorer_version = {quote(version)}" if version else "")
    return f"""
        SELECT rollout_id, scorer, scorer_version, reward, passed, components, rationale
        FROM scores
        WHERE {where}
        QUALIFY row_number() OVER (PARTITION BY rollout_id ORDER BY created_at DESC, row_id DESC) = 1"""


def rollouts_sql(table: str, scorer: str) -> str:
    """A SELECT of all columns of the rollouts in `table`, their verdicts replaced by the scorer's; null where it has none."""
    return f"""
        SELECT kept.* REPLACE (
          verdict.reward AS reward,
          verdict.passed AS passed,
          verdict.components AS reward_components,
          verdict.scorer AS scorer,
          verdict.scorer_version AS scorer_version,
          verdict.rationale AS rationale
        )
        FROM {table} AS kept
        LEFT JOIN ({verdicts_sql(scorer)}) AS verdict ON verdict.rollout_id = kept.rollout_id"""
