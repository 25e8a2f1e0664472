"""A handle on the process that checks answers: time limits, restarts, and never more than one case lost."""

import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import EvaluationError, MissingExtra

INSTALL = (
    "pip install --no-deps bfcl-eval==2026.3.23 tree_sitter==0.21.3 tree-sitter-java==0.21.0 "
    "tree-sitter-javascript==0.21.4 tenacity rank_bm25"
)
ANSWER_BYTES = 1 << 20  # the longest gold answer has 2 KB
START_S = 60.0

Answer = Sequence[tuple[str, str]] | str
"""What one model call said: in mode `fc` its calls as (function name, JSON text of the arguments), else its text."""
Memory = dict[str, Any] | None
"""What a policy wrote down in sessions, as bfcl-eval keeps it; None before the first."""


@dataclass(frozen=True)
class Verdict:
    """What the benchmark says of one answer.

    Attributes:
        error_type: The benchmark's own name for the failure, or `checker_timeout`, `checker_died`, `checker_error:…`,
            `answer_too_long`; None when the answer is right.
        error: A sentence or list about it, at most 500 characters; "" when the answer is right.
    """

    passed: bool
    error_type: str | None = None
    error: str = ""


class CheckerFailed(Exception):
    """The process gave no answer; the message is the error type of the case."""


class Checker:
    """Serves cases and verdicts from a guarded process: `with Checker() as checker: checker.check(category, id, calls)`.

    The process is isolated (no environment, own folder, bounded memory and CPU time), gets JSON and evaluates none of it.
    One that hangs or dies is replaced and the case it was given fails. Not safe to use from two threads at once.

    Args:
        case_s: Seconds one request may take.
        total_s: Seconds all requests together may take; then EvaluationError, and what was judged before stays valid.

    Raises MissingExtra when bfcl-eval or a package it needs is not installed.
    """

    def __init__(self, case_s: float = 10.0, total_s: float = 3600.0) -> None:
        require_bfcl()
        self.case_s = case_s
        self.total_s = total_s
        self.spent_s = 0.0
        self.restarts = -1
        self._folder = tempfile.TemporaryDirectory(prefix="rollhouse-bfcl-")
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def __enter__(self) -> "Checker":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._folder.cleanup()

    def cases(self, category: str, limit: int | None = None, mode: str = "fc") -> list[dict[str, Any]]:
        """The cases of a category, all or a fixed slice.

        Each has `id`, `turns` (a list of messages for each user turn), `functions`, `later` (turn number as text → functions that come
        with it) and `scenario` (in the memory categories, whose cases are to be asked as `shown` gives them; else None). In mode `prompt` the
        functions stand in the system message and none are listed.
        """
        return self._told({"op": "cases", "category": category, "mode": mode, "limit": limit})["cases"]

    def sessions(self, category: str) -> dict[str, list[str]]:
        """Scenario of a memory category → ids of the sessions that fill its memory, in their order."""
        return self._told({"op": "sessions", "category": category})["sessions"]

    def shown(self, category: str, case_id: str, memory: Memory, mode: str = "fc") -> dict[str, Any]:
        """A session or question of a memory category as a policy with this memory is shown it.

        As in `cases`, with `memory` (the one given) and `fills_memory` (whether it is a session).
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
        """What the simulated backends say to the last of an episode's answers, or None when it calls nothing.

        Args:
            episode: `r` and 32 hex digits, of this episode alone.
            steps: The answer of every model call so far, over all turns: a process that was replaced plays them again.
            memory: What the episode of a memory category begins with.

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
        """Frees what `execute` keeps of an episode."""
        self._ask({"op": "forget", "episode": episode}, self.case_s)

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
        reply = self._ask(request, START_S)
        if isinstance(reply, str):
            asked = f"{request['op']} of {request['category']}"
            raise EvaluationError(f"The BFCL process gave no {asked} ({reply}).", "Run it again.")
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
        return self._ask(request, self.case_s)

    def _ask(self, request: dict[str, Any], seconds: float) -> Any:
        """The reply, or `checker_timeout` / `checker_died` after replacing the process."""
        started = time.monotonic()
        try:
            process = self._process or self._start()
            assert process.stdin is not None
            # JSON text escapes every line break, so a request is one line whatever a policy wrote.
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            return self._read(process, seconds)
        except TimeoutError:
            self._stop()
            return "checker_timeout"
        except (EOFError, BrokenPipeError):
            self._stop()
            return "checker_died"
        finally:
            self.spent_s += time.monotonic() - started

    def _start(self) -> subprocess.Popen[bytes]:
        folder = self._folder.name
        # -I: neither PYTHON* variables nor the working directory decide what is imported.
        command = [sys.executable, "-I", str(Path(__file__).with_name("guarded")), str(self.case_s)]
        environment = {"BFCL_PROJECT_ROOT": folder, "HOME": folder, "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us, and we stop it
        )
        self._unread = b""
        self.restarts += 1
        try:
            greeting = self._read(self._process, START_S)
        except (TimeoutError, EOFError) as error:
            self._stop()
            raise EvaluationError("The process that checks BFCL answers did not start.", "Run it again.") from error
        if "import_error" in greeting:
            self._stop()
            raise missing(f"bfcl-eval does not import: {greeting['import_error']}.")
        return self._process

    def _read(self, process: subprocess.Popen[bytes], seconds: float) -> Any:
        """One line of JSON. Raises TimeoutError or EOFError."""
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        poller = select.poll()  # select.select fails on descriptors past 1023
        poller.register(process.stdout, select.POLLIN)
        while b"\n" not in self._unread:
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            chunk = os.read(process.stdout.fileno(), 1 << 20)
            if not chunk:
                raise EOFError
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # It holds nothing worth a goodbye. The group is its own (start_new_session) and it is not reaped yet.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _length(answer: Answer) -> int:
    return len(answer) if isinstance(answer, str) else sum(len(name) + len(arguments) for name, arguments in answer)


def require_bfcl(categories: Iterable[str] = ()) -> None:
    """Raises MissingExtra when bfcl-eval, or what these categories need besides, is not installed."""
    if importlib.util.find_spec("bfcl_eval") is None:
        raise missing("bfcl-eval is not installed, so there is nothing to judge BFCL answers with.")
    if "memory_kv" in categories and importlib.util.find_spec("rank_bm25") is None:
        raise missing("BFCL's memory_kv searches its memory with rank_bm25, which is not installed.")


def missing(message: str) -> MissingExtra:
    """What to install."""
    return MissingExtra(message, f"Install it without its vendor packages: {INSTALL}")
