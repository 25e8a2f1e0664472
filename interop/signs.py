"""The signs of formats that have no module of their own for them: each function returns the reason, or None."""

from collections.abc import Callable

from .sample import FileSample
from .values import present

Signs = Callable[[FileSample], str | None]


def keys(first: str, *others: str) -> Signs:
    """Every record has these keys."""
    names = (first, *others)
    listed = ", ".join(names)

    def signs(sample: FileSample) -> str | None:
        return f"its records have {listed}" if sample.have(*names) else None

    return signs


def verifiers(sample: FileSample) -> str | None:
    """Episodes of verifiers."""
    return "its records are episodes with traces" if sample.have("traces", "id") else None


def atif(sample: FileSample) -> str | None:
    """A trajectory of Harbor, or a folder of them."""
    versions = [str(present(row, "schema_version")) for row in sample.rows]
    if versions and all(version.startswith("ATIF-") for version in versions):
        return f"its schema_version is {versions[0]}"
    return None


def openai_chat(sample: FileSample) -> str | None:
    """Lines with messages."""
    return "its records have messages" if sample.have("messages") else None


def parquet(sample: FileSample) -> str | None:
    """Our own Parquet."""
    return "its columns are those of rollouts" if sample.have("rollout_id", "messages", "prompt", "gaps") else None
