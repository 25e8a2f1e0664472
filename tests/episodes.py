"""Playing one rollout in a test."""

from typing import Any

from rollhouse.collect.episode import play_episode


async def run_episode(*arguments: Any, **options: Any) -> dict[str, Any]:
    """Plays one rollout as `play_episode` does and returns its row of `rollouts`."""
    return (await play_episode(*arguments, **options)).rollout.to_row()
