"""The mini workplace as somebody's own environment, whose every turn takes $SLOW_OFFICE_S seconds, and which breaks where $BROKEN_OFFICE says."""

import asyncio
import os
from typing import Any

from rollhouse.collect.environments.workplace_mini import MiniEnvironment
from rollhouse.collect.types import Score, Session, Task, Turn


class SlowOffice(MiniEnvironment):
    """Found by the name of this file."""

    def start(self, task: Task) -> Session:
        """A session that takes its time."""
        session = super().start(task)
        step, verify = session.step, session.verify

        async def slowly(turn: Turn) -> Any:
            await asyncio.sleep(float(os.environ.get("SLOW_OFFICE_S", "0")))
            if os.environ.get("BROKEN_OFFICE") == "dies" and task.category == "send_email":
                os._exit(3)
            return await step(turn)

        def judged() -> Score:
            if os.environ.get("BROKEN_OFFICE") == "verifier" and task.category == "send_email":
                raise RuntimeError("no verdict on mails")
            return verify()  # type: ignore[return-value]

        session.step, session.verify = slowly, judged  # type: ignore[method-assign]
        return session
