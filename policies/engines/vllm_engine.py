"""vLLM inside this process: one thread steps the engine, requests join and leave between steps, and so do new weights.

The in-process engine is used (not AsyncLLM and its extra processes): it generates whole batches of rollouts about twice as fast
on a small machine, and a weight update that happens between two steps is exact about which token came from which weights.
"""

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ...base.errors import ConfigError, EngineError, RollhouseError, one_line
from ...base.packages import require
from ..models import weight_files
from ..types import Sampling
from .base import EngineGone, EngineRefused, OnTokens, SampledTokens, version_spans
from .environment import prepare_environment
from .vllm_adapter import EngineAdapter, NamedAdapters, is_adapter
from .vllm_differences import config_overrides
from .vllm_structured import StructuredOutputs, structured_params
from .vllm_transfer import STEPS
from .weight_file import read_weights

EXTENSION = "rollhouse.policies.engines.plain_linear.WorkerExtension"
_STEP_TOKENS = 4096
_WHAT_FITS = -1  # vLLM's name for the model's own context, or as much of it as its cache holds
_Command = tuple[Callable[[], None], Future]


@dataclass
class _Request:
    """One request in flight.

    Attributes:
        name: vLLM's own name for it.
        marks: (tokens sampled so far, version) at the start and at each weight update.
        given_up: Set when the caller no longer wants it.
        on_tokens: Takes the tokens of each step, on the stepping thread; None collects none.
        token_ids, logprobs, top: What was sampled, for a request with `on_tokens`; `top` as in SampledTokens.
    """

    name: str
    future: Future
    scoring: bool
    marks: list[tuple[int, int]]
    given_up: threading.Event
    on_tokens: OnTokens | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[list[tuple[int, float]]] = field(default_factory=list)


def make_llm_engine(model: str, max_model_len: int | None, seed: int, options: dict[str, Any]) -> Any:
    """vLLM's LLMEngine over token ids; `options` are further EngineArgs. None is the model's own context, or as much of it as its cache holds."""
    prepare_environment()
    require("vllm")
    from vllm.engine.arg_utils import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    on_cpu = current_platform.is_cpu()
    length = _WHAT_FITS if max_model_len is None else max_model_len
    settings: dict[str, Any] = {
        "dtype": "float32" if on_cpu else "auto",
        "enforce_eager": on_cpu,
        "skip_tokenizer_init": True,
        "generation_config": "vllm",  # otherwise the folder's sampling defaults apply silently
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "async_scheduling": False,  # a step must end with its tokens known, or version marks would be one token off
        "worker_extension_cls": EXTENSION,
        "disable_log_stats": True,
    }
    if on_cpu:
        # A prompt cut over two steps makes vLLM rewind its request's generator, which no CPU generator can: a seeded request would end
        # the engine. So no prompt is cut.
        settings["enable_chunked_prefill"] = False
    if options.get("tensor_parallel_size", 1) > 1:
        settings["distributed_executor_backend"] = "mp"  # processes of this machine, whatever Ray would place elsewhere
    settings.update(options)
    settings["hf_overrides"] = config_overrides(model) | (options.get("hf_overrides") or {})
    if on_cpu:
        config = EngineArgs(model=model, max_model_len=length, seed=seed, **settings).create_model_config()
        settings.setdefault("max_num_batched_tokens", max(config.max_model_len, _STEP_TOKENS))
        # Mamba layers cache a prefix only where prompts may be cut.
        if "enable_prefix_caching" not in options and "enable_chunked_prefill" not in options:
            settings["enable_prefix_caching"] = not config.is_hybrid
    return LLMEngine.from_engine_args(EngineArgs(model=model, max_model_len=length, seed=seed, **settings))


class VllmEngine:
    """A TokenEngine over vLLM in this process.

    Everything that touches vLLM runs on one thread, which takes commands from a queue between steps. The public methods are async
    and may be called from any event loop.
    """

    kind = "vllm"
    streams = True

    def __init__(
        self,
        model: str,
        stop_token_ids: tuple[int, ...] = (),
        max_model_len: int | None = 1024,
        seed: int = 0,
        **options: Any,
    ) -> None:
        """Starts the engine and waits until it is ready. Raises MissingExtra or EngineError.

        `max_model_len` None is the model's own context, or as much of it as the key-value cache holds.
        """
        self.stop_token_ids = stop_token_ids
        self.version = 0
        self._commands: queue.SimpleQueue[_Command | None] = queue.SimpleQueue()
        self._requests: dict[str, _Request] = {}
        self._count = 0
        self.held = False  # no step is taken while it is set
        self._structured = StructuredOutputs(model)
        self._mixture: str | None = None  # why the weights are of no single model
        self._adapter: EngineAdapter | None = None  # of the weights loaded last
        self._adapters = NamedAdapters()
        self._lock = threading.Lock()  # guards _ended, so that no command is queued after the thread has ended
        self._ended = False
        self._failure: BaseException | None = None
        ready: Future = Future()
        self._thread = threading.Thread(
            target=self._run, args=(ready, model, max_model_len, seed, options), name="vllm-step", daemon=True
        )
        self._thread.start()
        ready.result()
        self.max_model_len: int = self._engine.model_config.max_model_len

    @property
    def dtype(self) -> str:
        """What it computes in, where that was left to vLLM too: `bfloat16`, …"""
        return str(self._engine.model_config.dtype).removeprefix("torch.")

    # -- the async side ------------------------------------------------------------------------------------------------

    async def generate(
        self, prompt_ids: list[int], sampling: Sampling, on_tokens: OnTokens | None = None, adapter: int = 0
    ) -> SampledTokens:
        """See TokenEngine. `adapter` is a number of add_adapter; 0 is the engine's own weights."""
        return await self._request(prompt_ids, sampling, on_tokens, adapter)

    async def score(self, token_ids: list[int], adapter: int = 0) -> list[float]:
        """See TokenEngine; `adapter` as for `generate`."""
        return await self._request(token_ids, None, None, adapter)

    async def add_adapter(self, folder: str) -> int:
        """Loads an adapter in peft's layout beside the weights and returns the number that requests choose it by. Raises EngineError."""
        return await asyncio.wrap_future(self._call(lambda: self._adapters.add(self._engine, folder)))

    async def load_weights(self, path: str, version: int) -> None:
        """See TokenEngine. The key-value cache is rebuilt, for requests in flight too."""
        await asyncio.wrap_future(self._call(lambda: self._load(path, version)))

    async def _request(
        self, token_ids: list[int], sampling: Sampling | None, on_tokens: OnTokens | None, adapter: int
    ) -> Any:
        future, given_up = Future(), threading.Event()
        report = None if on_tokens is None else _in_loop(asyncio.get_running_loop(), on_tokens)
        self._put(lambda: self._add(token_ids, sampling, future, given_up, report, adapter), future)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            given_up.set()
            raise

    def close(self) -> None:
        """Ends the stepping thread; requests in flight fail."""
        self._commands.put(None)
        self._thread.join(timeout=30)

    def _call(self, action: Callable[[], Any]) -> Future:
        future: Future = Future()

        def run() -> None:
            try:
                future.set_result(action())
            except Exception as error:
                future.set_exception(_as_engine_error(error))

        self._put(run, future)
        return future

    def _put(self, command: Callable[[], None], future: Future) -> None:
        with self._lock:
            if not self._ended:
                self._commands.put((command, future))
                return
        future.set_exception(_gone(self._failure))

    async def transfer(self, step: str, *given: Any) -> None:
        """A step of vllm_transfer. One that ends with EngineGone ends the engine."""
        await asyncio.wrap_future(self._call(lambda: self._transfer(step, *given)))

    def _transfer(self, step: str, *given: Any) -> None:
        try:
            STEPS[step](self, *given)
        except EngineGone as error:
            self._failure = error
            self._commands.put(None)
            raise

    # -- what a transfer works with, on the stepping thread ---------------------------------------------------------------

    @property
    def core(self) -> Any:
        """vLLM's engine core."""
        return self._engine.engine_core

    def rpc(self, method: str, **given: Any) -> list[Any]:
        """Calls a method of every worker."""
        return self.core.collective_rpc(method, kwargs=given)

    def in_flight(self) -> int:
        """Requests that have begun."""
        return len(self._requests)

    def take_version(self, version: int) -> None:
        """From here on tokens come from these weights. Requests in flight are preempted and prefilled again: no key or value of the old ones survives."""
        # (The plain reset does nothing while any request is in flight.)
        self.core.reset_prefix_cache(reset_running_requests=True)
        self._mixture = None
        self.version = version
        states = self._engine.output_processor.request_states
        for request in self._requests.values():
            state = states.get(request.name)
            sampled = state.detokenizer.num_output_tokens() if state is not None else 0
            request.marks.append((sampled, version))

    # -- the stepping thread -------------------------------------------------------------------------------------------

    def _run(self, ready: Future, model: str, max_model_len: int | None, seed: int, options: dict[str, Any]) -> None:
        try:
            self._engine = make_llm_engine(model, max_model_len, seed, options)
        except BaseException as error:
            self._ended = True
            ready.set_exception(_not_started(error) if isinstance(error, Exception) else error)
            return
        ready.set_result(None)
        try:
            while self._take_commands():
                if self._requests:
                    self._step()
        except BaseException as error:  # anything that escapes would otherwise hang every caller
            self._failure = error
        finally:
            self._fail_all()
            if self._adapter is not None:
                self._adapter.close()
            self._engine.engine_core.shutdown()

    def _take_commands(self) -> bool:
        """Runs queued commands, and waits for one when nothing is in flight. False for the command to end."""
        while True:
            try:
                command = self._commands.get(block=self.held or not self._requests)
            except queue.Empty:
                return True
            if command is None:
                return False
            if command[1].set_running_or_notify_cancel():
                command[0]()

    def _step(self) -> None:
        given_up = [number for number, request in self._requests.items() if request.given_up.is_set()]
        if given_up:
            self._engine.abort_request([self._requests.pop(number).name for number in given_up], internal=True)
        for output in self._engine.step():
            request = self._requests[output.request_id]
            if request.on_tokens is not None:
                _report(output, request, self.version)
            if output.finished:
                del self._requests[output.request_id]
                if output.outputs and output.outputs[0].finish_reason == "error":
                    request.future.set_exception(EngineRefused("vLLM cannot sample an answer of this form.", "Send a simpler schema or grammar."))  # fmt: skip
                    continue
                request.future.set_result(_prompt_logprobs(output) if request.scoring else _generation(output, request))

    def _add(
        self,
        token_ids: list[int],
        sampling: Sampling | None,
        future: Future,
        given_up: threading.Event,
        on_tokens: OnTokens | None,
        number: int,
    ) -> None:
        if self._mixture is not None:
            future.set_exception(_mixed(self._mixture))
            return
        room = self.max_model_len - len(token_ids)
        if not token_ids or room < 1:
            future.set_exception(
                ConfigError(
                    f"A prompt of {len(token_ids)} tokens does not fit the engine's {self.max_model_len}.",
                    "Raise --max-model-len, or give the episode fewer turns.",
                )
            )
            return
        self._count += 1
        name = str(self._count)
        try:
            params = _sampling_params(sampling, room, self.stop_token_ids, on_tokens is not None)
            pushed = None if self._adapter is None else self._adapter.request
            adapter = self._adapters.request(number) if number else pushed
            if params.structured_outputs is not None:
                self._structured.prepare(self._engine)
            internal = self._engine.add_request(name, {"prompt_token_ids": token_ids}, params, lora_request=adapter)
        except Exception as error:
            future.set_exception(_as_engine_error(error))
            return
        finally:
            self._structured.end(self._engine)
        self._requests[name] = _Request(internal, future, sampling is None, [(0, self.version)], given_up, on_tokens)

    def _load(self, path: str, version: int) -> None:
        files = [str(file) for file in weight_files(path)]
        if not files or not all(map(os.path.exists, files)):
            raise ConfigError(f"There are no weights at {path}.", "Name a safetensors file or a model folder.")
        for file in files:
            read_weights(file)  # what is cut short is refused before anything is touched
        if is_adapter(read_weights(files[0])):
            # An adapter that vLLM refuses leaves the weights as they were.
            adapter = self._adapter or EngineAdapter()
            adapter.load(self._engine, files[0])
            self._adapter = adapter
            self.take_version(version)
            return
        try:
            if self._adapter is not None:
                self._adapter.remove(self._engine)
                self._adapter = None
            missing = sorted({name for part in self.rpc("rollhouse_load", files=files) for name in part})
            if missing:
                raise EngineError(
                    f"The weights at {path} lack {len(missing)} parameters of the engine's model, {missing[0]} among them.",
                    "Write all of the model's tensors; the engine now holds a mixture and must be given whole weights.",
                )
        except Exception as error:
            if not isinstance(error, EngineError):
                error = EngineError(f"The weights at {path} do not fit the engine's model: {one_line(error)}.", "Write the tensors of a model folder of the same architecture.")  # fmt: skip
            self._refuse_mixture(error)
            raise error
        self.take_version(version)

    def _refuse_mixture(self, cause: Exception) -> None:
        """After weights that arrived in part: no token may be sampled from them, of the requests in flight neither."""
        self._mixture = f"its last weights arrived only in part ({str(cause).splitlines()[0].rstrip('.')})"
        in_flight, self._requests = self._requests, {}
        if in_flight:
            self._engine.abort_request([request.name for request in in_flight.values()], internal=True)
        for request in in_flight.values():
            request.future.set_exception(_mixed(self._mixture))
        self.core.reset_prefix_cache(reset_running_requests=True)

    def _fail_all(self) -> None:
        with self._lock:
            self._ended = True
        waiting = [request.future for request in self._requests.values()]
        while not self._commands.empty():
            command = self._commands.get()
            if command is not None and command[1].set_running_or_notify_cancel():
                waiting.append(command[1])
        for future in waiting:
            future.set_exception(_gone(self._failure))
        self._requests.clear()


def _in_loop(loop: asyncio.AbstractEventLoop, on_tokens: OnTokens) -> OnTokens:
    """The callback, called in the event loop from another thread."""

    def report(token_ids: list[int], logprobs: list[float], version: int) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(on_tokens, token_ids, logprobs, version)

    return report


def _sampling_params(sampling: Sampling | None, room: int, stop_token_ids: tuple[int, ...], streams: bool) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    shared: dict[str, Any] = {
        "detokenize": False,
        "flat_logprobs": True,
        "output_kind": RequestOutputKind.DELTA if streams else RequestOutputKind.FINAL_ONLY,
    }
    if sampling is None:
        return SamplingParams(max_tokens=1, prompt_logprobs=0, **shared)
    shaping = sampling.shaping
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=sampling.seed,
        max_tokens=min(sampling.max_tokens, room),
        stop_token_ids=list(stop_token_ids),
        logprobs=sampling.top_logprobs,  # beside the sampled token's
        frequency_penalty=shaping.frequency_penalty,
        presence_penalty=shaping.presence_penalty,
        repetition_penalty=shaping.repetition_penalty,
        logit_bias=dict(shaping.logit_bias) or None,
        min_tokens=min(shaping.min_tokens, room),
        structured_outputs=structured_params(shaping.constraint),
        **shared,
    )


def _sampled(output: Any) -> tuple[list[int], list[float], list[list[tuple[int, float]]]]:
    """The tokens of an output, their logprobs, and the likeliest tokens at each position, where they were requested."""
    sampled, flat = output.outputs[0], output.outputs[0].logprobs
    if flat is None:
        return list(sampled.token_ids), [], []
    spans = list(zip(flat.start_indices, flat.end_indices, strict=True))
    # At each position the sampled token comes first, then the likeliest, itself among them.
    top = [list(zip(flat.token_ids[first + 1 : end], flat.logprobs[first + 1 : end], strict=True)) for first, end in spans]  # fmt: skip
    return list(sampled.token_ids), [flat.logprobs[first] for first, _ in spans], top


def _report(output: Any, request: _Request, version: int) -> None:
    tokens, logprobs, top = _sampled(output)
    if tokens and request.on_tokens is not None:
        request.token_ids += tokens
        request.logprobs += logprobs
        request.top += top
        request.on_tokens(tokens, logprobs, version)


def _generation(output: Any, request: _Request) -> SampledTokens:
    sampled = output.outputs[0]
    whole = request.on_tokens is not None
    tokens, logprobs, top = (request.token_ids, request.logprobs, request.top) if whole else _sampled(output)
    if len(logprobs) != len(tokens):
        raise EngineError(f"vLLM returned {len(tokens)} tokens and {len(logprobs)} logprobs.", "Report this as a bug.")
    marks = [(start, version) for start, version in request.marks if start < len(tokens) or start == 0]
    routes = sampled.routed_experts
    if routes is not None and len(routes) != len(output.prompt_token_ids) + len(tokens) - 1:
        routes = None  # of a request that was computed again in parts
    reason = "length" if sampled.finish_reason == "length" else "stop"
    return SampledTokens(tokens, logprobs, version_spans(marks), reason, top=top if any(top) else None, routes=routes)


def _prompt_logprobs(output: Any) -> list[float]:
    scored = output.prompt_logprobs
    return [0.0] + [scored.logprobs[first] for first in scored.start_indices[1:]]


def _as_engine_error(error: Exception) -> Exception:
    if isinstance(error, (EngineError, ConfigError)):
        return error
    if type(error).__name__ == "VLLMValidationError":
        return EngineRefused(f"vLLM refused a request: {one_line(error)}.", "Correct the request.")
    return EngineError(f"vLLM refused a request: {error}.", "Check the model, its weights and the sampling settings.")


def _not_started(error: Exception) -> RollhouseError:
    """In vLLM's own words; a validation error of pydantic's has them between its headline and a link."""
    if isinstance(error, RollhouseError):
        return error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and "validation error" in lines[0]:
        lines = [line.partition(" [type=")[0] for line in lines[1:] if "errors.pydantic.dev" not in line]
    why = one_line(" ".join(lines)).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return EngineError(
        f"vLLM did not start: {why.rstrip('.') or type(error).__name__}.",
        "Change the model or the engine's arguments (policy.generation.vllm.NAME=VALUE); `rollhouse doctor` shows what this machine has.",
    )


def _mixed(why: str) -> EngineError:
    return EngineError(f"The engine does not answer: {why}.", "Push whole weights, or start the run again.")


def _gone(cause: BaseException | None) -> EngineGone:
    why = f": {type(cause).__name__}: {cause}" if cause is not None else ""
    return EngineGone(f"The vLLM engine has ended{why}.", "Run the same command again; it continues where it stopped.")
