"""A handle on the process that checks answers, with time limits and restarts. A crash costs one case."""

import importlib.util
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import EvaluationError, MissingExtra
from ...base.worker_process import (
    WorkerError,
    WorkerProcess,
    WorkerSetup,
    WorkerUnavailable,
    isolated_environment,
)

INSTALL = (
    "pip install --no-deps bfcl-eval==2026.3.23 tree_sitter==0.21.3 tree-sitter-java==0.21.0 "
    "tree-sitter-javascript==0.21.4 tenacity rank_bm25"
)
ANSWER_BYTES = 1 << 20  # the longest gold answer has 2 KB
START_S = 60.0
MEMORY_BYTES = 2 << 30
FILE_BYTES = 4 << 20  # a full memory, every character of it escaped, is under two

Answer = Sequence[tuple[str, str]] | str
"""The output of one model call: in mode `fc` its calls as (function name, JSON text of the arguments), else its text."""
Memory = dict[str, Any] | None
"""What a policy wrote down in sessions, as bfcl-eval keeps it; None before the first."""


@dataclass(frozen=True)
class Verdict:
    """The benchmark's verdict on one answer.

    Attributes:
        error_type: The benchmark's own name for the failure, or `checker_timeout`, `checker_died`, `checker_error:…`,
            `answer_too_long`; None when the answer is right, except `broken_call`: right for calling nothing, with a call that could not be read.
        error: The benchmark's message, at most 500 characters; "" when the answer is right.
    """

    passed: bool
    error_type: str | None = None
    error: str = ""


class CheckerFailed(Exception):
    """The process did not answer; the message is the error type of the case."""


class Checker:
    """Returns cases and verdicts of a worker process: `with Checker() as checker: checker.check(category, id, calls)`.

    The process is isolated (no environment, own folder, bounded memory and CPU time), gets JSON and evaluates none of it.
    A process that hangs or dies is replaced, and its current case fails. Not thread-safe.

    Args:
        case_s: Seconds one request may take.
        total_s: Seconds all requests together may take; then EvaluationError. Earlier verdicts stay valid.

    Raises MissingExtra when bfcl-eval or a package it needs is not installed.
    """

    def __init__(self, case_s: float = 10.0, total_s: float = 3600.0) -> None:
        require_bfcl()
        self.case_s = case_s
        self.total_s = total_s
        self.spent_s = 0.0
        self.restarts = -1
        self._folder = tempfile.TemporaryDirectory(prefix="rollhouse-bfcl-")
        self._process: WorkerProcess | None = None

    def __enter__(self) -> "Checker":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._folder.cleanup()

    def cases(self, category: str, limit: int | None = None, mode: str = "fc") -> list[dict[str, Any]]:
        """The cases of a category, all or a fixed slice.

        Each has `id`, `turns` (a list of messages for each user turn), `functions`, `later` (turn number as text → functions that come
        with it) and `scenario` (in the memory categories, whose cases are sent as `shown` returns them; else None). In mode `prompt` the
        functions are in the system message and none are listed.
        """
        return self._told({"op": "cases", "category": category, "mode": mode, "limit": limit})["cases"]

    def sessions(self, category: str) -> dict[str, list[str]]:
        """Scenario of a memory category → ids of the sessions that fill its memory, in order."""
        return self._told({"op": "sessions", "category": category})["sessions"]

    def shown(self, category: str, case_id: str, memory: Memory, mode: str = "fc") -> dict[str, Any]:
        """A session or question of a memory category, as a policy with this memory gets it.

        As in `cases`, with `memory` (as passed) and `fills_memory` (whether it is a session).
        """
        return self._told({"op": "shown", "category": category, "mode": mode, "id": case_id, "memory": memory})["case"]

    def check(self, category: str, case_id: str, answer: Answer, mode: str = "fc") -> Verdict:
        """Judges the answer to a case of one turn."""
        if _length(answer) > ANSWER_BYTES:
            return Verdict(False, "answer_too_long", f"more than {ANSWER_BYTES} characters")
        return self._judged({"op": "check", "category": category, "mode": mode, "id": case_id, "answer": answer})

    def check_turns(self, category: str, case_id: str, turns: Sequence[Sequence[Answer]], mode: str = "fc") -> Verdict:
        """Judges an episode; `turns` holds the answers of each turn's model calls, in order."""
        return self._judged({"op": "check_turns", "category": category, "mode": mode, "id": case_id, "turns": turns})

    def execute(
        self,
        category: str,
        case_id: str,
        episode: str,
        steps: Sequence[Answer],
        mode: str = "fc",
        memory: Memory = None,
    ) -> list[str] | None:
        """The results of the simulated backends for an episode's last answer, or None if it has no call.

        Args:
            episode: `r` and 32 hex digits, unique to this episode.
            steps: The answer of every model call so far, over all turns; a new process repeats them.
            memory: The initial memory, in a memory category.

        Raises CheckerFailed when it hangs, dies or the answer is too long.
        """
        return self._of_episode("execute", category, case_id, episode, steps, mode, memory)["results"]

    def remember(
        self,
        category: str,
        case_id: str,
        episode: str,
        steps: Sequence[Answer],
        mode: str = "fc",
        memory: Memory = None,
    ) -> Memory:
        """The memory after a session that began with `memory`; arguments and errors as in `execute`."""
        return self._of_episode("remember", category, case_id, episode, steps, mode, memory)["memory"]

    def forget(self, episode: str) -> None:
        """Frees the state that `execute` keeps of an episode."""
        self._request({"op": "forget", "episode": episode}, self.case_s)

    def _of_episode(
        self,
        op: str,
        category: str,
        case_id: str,
        episode: str,
        steps: Sequence[Answer],
        mode: str,
        memory: Memory,
    ) -> dict[str, Any]:
        if _length(steps[-1]) > ANSWER_BYTES:
            raise CheckerFailed("answer_too_long")
        request = {"op": op, "category": category, "mode": mode, "id": case_id, "episode": episode}
        reply = self._in_time({**request, "steps": steps, "memory": memory})
        if isinstance(reply, str):
            raise CheckerFailed(reply)
        return reply

    def _told(self, request: dict[str, Any]) -> Any:
        reply = self._request(request, START_S)
        if isinstance(reply, str):
            request_name = f"{request['op']} of {request['category']}"
            raise EvaluationError(
                f"The BFCL process did not answer {request_name} ({reply}).", "Run the command again."
            )
        return reply

    def _judged(self, request: dict[str, Any]) -> Verdict:
        reply = self._in_time(request)
        if isinstance(reply, str):
            return Verdict(False, reply, f"the checker gave no verdict within {self.case_s:g} s")
        return Verdict(reply["valid"], reply["error_type"], reply["error"])

    def _in_time(self, request: dict[str, Any]) -> Any:
        if self.spent_s > self.total_s:
            raise EvaluationError(
                f"Checking BFCL answers took more than {self.total_s:.0f} s in all.",
                "Run the same command again: it goes on after the last judged case.",
            )
        return self._request(request, self.case_s)

    def _request(self, request: dict[str, Any], seconds: float) -> Any:
        """The reply, or `checker_timeout` / `checker_died` after replacing the process."""
        started = time.monotonic()
        try:
            worker = self._process or self._start()
            arguments = {name: value for name, value in request.items() if name != "op"}
            return worker.call(f"operations:{request['op']}", arguments, seconds)
        except TimeoutError:
            self._stop()
            return "checker_timeout"
        except (WorkerError, BrokenPipeError):
            self._stop()
            return "checker_died"
        finally:
            self.spent_s += time.monotonic() - started

    def _start(self) -> WorkerProcess:
        folder = self._folder.name
        setup = WorkerSetup(
            modules=["operations"],
            folders=[str(Path(__file__).with_name("guarded"))],
            path=None,
            memory_bytes=MEMORY_BYTES,
            file_bytes=FILE_BYTES,
            reply_bytes=None,
            cpu_s=self.case_s,
            environment={**isolated_environment(), "BFCL_PROJECT_ROOT": folder, "HOME": folder},
            cwd=folder,
            start_s=START_S,
        )
        self.restarts += 1
        try:
            self._process = WorkerProcess(setup)
        except WorkerError as error:
            if isinstance(error, WorkerUnavailable) and error.import_error is not None:
                raise missing(f"bfcl-eval cannot be imported: {error.import_error}.") from error
            raise EvaluationError("The process that checks BFCL answers did not start.", "Run it again.") from error
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()


def _length(answer: Answer) -> int:
    return len(answer) if isinstance(answer, str) else sum(len(name) + len(arguments) for name, arguments in answer)


def require_bfcl(categories: Iterable[str] = ()) -> None:
    """Raises MissingExtra when bfcl-eval or another package of these categories is not installed."""
    if importlib.util.find_spec("bfcl_eval") is None:
        raise missing("bfcl-eval is not installed, so there is nothing to judge BFCL answers with.")
    if "memory_kv" in categories and importlib.util.find_spec("rank_bm25") is None:
        raise missing("BFCL's memory_kv searches its memory with rank_bm25, which is not installed.")


def missing(message: str) -> MissingExtra:
    """The command that installs them."""
    return MissingExtra(message, f"Install it without its vendor packages: {INSTALL}")
