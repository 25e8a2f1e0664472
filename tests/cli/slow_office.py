"""The mini workplace as a user's environment, with configurable delays and failures."""

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Any

from rollhouse.environments.types import Session
from rollhouse.environments.workplace_mini import MiniEnvironment
from rollhouse.policies.types import Turn
from rollhouse.store.task import Score, Task


class SlowOffice(MiniEnvironment):
    """Every turn takes `pause_s` seconds, or $SLOW_OFFICE_S; a session about mail breaks.

    With $BROKEN_OFFICE `verifier` its verdict does; with `dies` its process, once for each line of that file, or every time when there is no such file.
    """

    def __init__(self, seed: int = 0, pause_s: float = 0.0, dies: str | None = None) -> None:
        super().__init__(seed)
        self.pause_s = float(os.environ.get("SLOW_OFFICE_S", pause_s))
        self.dies = None if dies is None else Path(dies)

    def start(self, task: Task) -> Session:
        """A session that takes its time."""
        session = super().start(task)
        step, verify = session.step, session.verify

        async def slowly(turn: Turn) -> Any:
            await asyncio.sleep(self.pause_s)
            if task.category == "send_email":
                self._die()
            return await step(turn)

        def judged() -> Score:
            if os.environ.get("BROKEN_OFFICE") == "verifier" and task.category == "send_email":
                raise RuntimeError("no verdict on mails")
            return verify()  # type: ignore[return-value]

        session.step, session.verify = slowly, judged  # type: ignore[method-assign]
        return session

    def _die(self) -> None:
        if self.dies is None:
            return
        if self.dies.exists():
            with self.dies.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # two workers that take the same line would both die
                lives = file.readlines()
                if not lives:
                    return
                file.seek(0)
                file.truncate()
                file.writelines(lives[1:])
        os._exit(3)
