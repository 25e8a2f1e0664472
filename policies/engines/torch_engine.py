"""Plain transformers as a token engine, for machines without vLLM: requests wait in a queue and are generated in batches."""

import asyncio
import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import ConfigError, EngineError, RollhouseError
from ...base.packages import need
from ...store.messages import VersionSpan
from ..chat import ChatFormat
from ..models import check_model_folder, check_text_model, context_length, weight_files
from ..types import Sampling
from .base import EngineGone, OnTokens, SampledTokens
from .weight_file import read_weights

if TYPE_CHECKING:
    import torch

_DEFAULT_MODEL_LEN = 4096  # of a model that states none


@dataclass
class _Request:
    prompt_ids: list[int]
    sampling: Sampling | None  # None scores the prompt
    future: asyncio.Future
    on_tokens: OnTokens | None = None

    def report(self, token: int, logprob: float, version: int) -> None:
        """Reports a token, from the thread that samples."""
        if self.on_tokens is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self.future.get_loop().call_soon_threadsafe(self._report, token, logprob, version)

    def _report(self, token: int, logprob: float, version: int) -> None:
        if self.on_tokens is not None and not self.future.done():
            self.on_tokens([token], [logprob], version)


@dataclass
class _Line:
    """The requests of one event loop, and the task of that loop that answers them."""

    waiting: list[_Request] = field(default_factory=list)
    drainer: asyncio.Task | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)


class TorchEngine:
    """A TokenEngine over a transformers model in float32 (bfloat16 on a GPU).

    A batch runs to its end before the next begins, so new weights wait for the batch that is running. Slower than vLLM by the tokens that
    finished rows of a batch wait for its longest.
    """

    kind = "torch"
    streams = True
    shapes = frozenset({"top_logprobs"})

    def __init__(
        self, model: str | Path, max_model_len: int | None = None, max_batch: int = 64, stop_ids: Sequence[int] = ()
    ) -> None:
        """Loads the model; `stop_ids` end a turn, none are those of the model's own chat format. Raises ConfigError for a folder it cannot be loaded from, MissingExtra without torch or transformers."""
        folder = check_model_folder(model)
        torch, transformers = need("torch"), need("transformers")
        check_text_model(folder)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        self._model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype)
        self._model.to(self._device).eval()
        self._stop = frozenset(stop_ids or ChatFormat.of(folder).stop_token_ids)
        limits = [length for length in (max_model_len, context_length(folder)) if length is not None]
        self.max_model_len = min(limits, default=_DEFAULT_MODEL_LEN)
        self.version = 0
        self._max_batch = max_batch
        self._lines: dict[asyncio.AbstractEventLoop, _Line] = {}
        self._lines_lock = threading.Lock()
        self._model_lock = threading.Lock()
        self._closed = threading.Event()

    async def generate(
        self, prompt_ids: list[int], sampling: Sampling, on_tokens: OnTokens | None = None
    ) -> SampledTokens:
        """See TokenEngine."""
        return await self._ask(prompt_ids, sampling, on_tokens)

    async def score(self, token_ids: list[int]) -> list[float]:
        """See TokenEngine."""
        return await self._ask(token_ids, None)

    async def load_weights(self, path: str, version: int) -> None:
        """See TokenEngine; waits for the batch that is running."""
        await asyncio.to_thread(self._load, path, version)

    def close(self) -> None:
        """Ends a running batch at its next token; its requests and all later ones raise EngineGone."""
        self._closed.set()

    async def _ask(self, token_ids: list[int], sampling: Sampling | None, on_tokens: OnTokens | None = None) -> Any:
        if not token_ids or len(token_ids) >= self.max_model_len + (sampling is None):
            raise ConfigError(
                f"A prompt of {len(token_ids)} tokens does not fit the engine's {self.max_model_len}.",
                "Raise --max-model-len, or give the episode fewer turns.",
            )
        loop = asyncio.get_running_loop()
        line = self._line(loop)
        request = _Request(token_ids, sampling, loop.create_future(), on_tokens)
        line.waiting.append(request)
        if line.drainer is None or line.drainer.done():
            line.drainer = loop.create_task(self._drain(line))
        return await request.future

    def _line(self, loop: asyncio.AbstractEventLoop) -> _Line:
        with self._lines_lock:
            if loop not in self._lines:
                self._lines = {other: line for other, line in self._lines.items() if not other.is_closed()}
                self._lines[loop] = _Line()
            return self._lines[loop]

    async def _drain(self, line: _Line) -> None:
        line.cancelled.clear()
        try:
            await asyncio.sleep(0)  # requests of the same turn of the loop join the first batch
            while line.waiting:
                live = [request for request in line.waiting if not request.future.done()]
                batch = [request for request in live if (request.sampling is None) == (live[0].sampling is None)]
                batch = batch[: self._max_batch]
                line.waiting = [request for request in live if request not in batch]
                if batch:
                    await self._answer(batch, line.cancelled)
        except asyncio.CancelledError:
            line.cancelled.set()  # or the thread would generate to the batch's end
            raise

    async def _answer(self, batch: list[_Request], cancelled: threading.Event) -> None:
        try:
            if batch[0].sampling is None:
                answers = await asyncio.to_thread(self._score_batch, batch)
            else:
                answers = await asyncio.to_thread(self._generate_batch, batch, cancelled)
        except Exception as error:
            if not isinstance(error, RollhouseError):
                error = EngineError(f"Generation failed: {type(error).__name__}: {error}.", "Try a smaller batch.")
            answers = [error] * len(batch)
        for request, answer in zip(batch, answers, strict=True):
            if request.future.done():
                continue
            if isinstance(answer, Exception):
                request.future.set_exception(answer)
            else:
                request.future.set_result(answer)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise EngineGone("The torch engine was closed.", "Open another one.")

    def _load(self, path: str, version: int) -> None:
        files = weight_files(path)
        if not files or not all(file.exists() for file in files):
            raise ConfigError(f"There are no weights at {path}.", "Name a safetensors file or a model folder.")
        state: dict[str, Any] = {}
        for file in files:
            state |= read_weights(file)
        with self._model_lock:
            self._check_open()
            self._model = loaded(self._model, state, path)
            self.version = version

    def _score_batch(self, batch: list[_Request]) -> list[list[float]]:
        import torch

        scores = []
        with self._model_lock, torch.inference_mode():
            self._check_open()
            for request in batch:
                ids = torch.tensor([request.prompt_ids], device=self._device)
                logps = self._model(ids).logits[0, :-1].float().log_softmax(-1)
                scores.append([0.0, *logps.gather(1, ids[0, 1:, None])[:, 0].tolist()])
        return scores

    def _generate_batch(self, batch: list[_Request], cancelled: threading.Event) -> list[SampledTokens]:
        import torch

        settings = [request.sampling or Sampling() for request in batch]
        rooms = [self.max_model_len - len(request.prompt_ids) for request in batch]
        limits = [min(sampling.max_tokens, room) for sampling, room in zip(settings, rooms, strict=True)]
        generators = [_generator(sampling.seed, self._device) for sampling in settings]
        tokens: list[list[int]] = [[] for _ in batch]
        logprobs: list[list[float]] = [[] for _ in batch]
        tops: list[list[list[tuple[int, float]]]] = [[] for _ in batch]
        live = set(range(len(batch)))
        with self._model_lock, torch.inference_mode():
            self._check_open()
            version = self.version
            ids, mask = _left_padded([request.prompt_ids for request in batch], self._device)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            cache = None
            while live and not cancelled.is_set():
                self._check_open()
                out = self._model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)  # fmt: skip
                cache = out.past_key_values
                picked, logps, likeliest = sample(out.logits[:, -1].float(), settings, generators)
                for row in list(live):
                    if batch[row].future.done():  # cancelled
                        live.discard(row)
                        continue
                    batch[row].report(picked[row], logps[row], version)
                    tops[row].append(likeliest[row])
                    tokens[row].append(picked[row])
                    logprobs[row].append(logps[row])
                    if picked[row] in self._stop or len(tokens[row]) >= limits[row]:
                        live.discard(row)
                ids = torch.tensor(picked, device=self._device)[:, None]
                mask = torch.cat([mask, mask.new_ones(len(batch), 1)], dim=1)
                positions = positions[:, -1:] + 1
        return [
            SampledTokens(
                ids,
                logps,
                (VersionSpan(0, version),),
                "stop" if ids and ids[-1] in self._stop else "length",
                top if sampling.top_logprobs else None,
            )
            for ids, logps, top, sampling in zip(tokens, logprobs, tops, settings, strict=True)
        ]


def loaded(model: Any, state: Mapping[str, "torch.Tensor"], path: str) -> Any:
    """The model with the weights of a model folder, or another one with them where transformers keeps them in another form than the folder does.

    Raises EngineError, with the model as it was, where tensors are missing or of another shape.
    """
    own = model.state_dict()
    tied = set(own) - {name for name, _ in model.named_parameters()} - {name for name, _ in model.named_buffers()}
    wanted = {name: tensor.shape for name, tensor in own.items() if name not in tied}
    missing = sorted(name for name in wanted if name not in state)
    if missing and set(state) <= set(own):
        raise _lacking(path, missing)
    if not missing:
        other = sorted(name for name, shape in wanted.items() if state[name].shape != shape)
        if other:
            raise EngineError(f"The weights at {path} do not fit: {other[0]} has another shape.", "Use a model of the same shape.")  # fmt: skip
        model.load_state_dict(state, strict=False)
        return model
    # The tensors are views of a file that changes with the next push, so the model gets its own.
    copies = {name: tensor.clone() for name, tensor in state.items()}
    made, found = type(model).from_pretrained(
        None, config=model.config, state_dict=copies, dtype=model.dtype, output_loading_info=True
    )
    if found["missing_keys"]:
        raise _lacking(path, sorted(found["missing_keys"]))
    return made.to(model.device).eval()


def _lacking(path: str, missing: list[str]) -> EngineError:
    return EngineError(
        f"The weights at {path} lack {len(missing)} parameters, {missing[0]} among them.",
        "Write all of the model's tensors.",
    )


def _generator(seed: int | None, device: str) -> "torch.Generator":
    import torch

    generator = torch.Generator(device=device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def _left_padded(prompts: list[list[int]], device: str) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Ids [B, T] and mask [B, T], prompts at the right, so that all rows sample at the same column."""
    import torch

    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def sample(
    logits: "torch.Tensor", settings: list[Sampling], generators: list["torch.Generator"]
) -> tuple[list[int], list[float], list[list[tuple[int, float]]]]:
    """One token a row of logits [B, V], its logprob under the distribution sampled from, and the `top_logprobs` likeliest tokens with theirs.

    Temperature first, then top-k, top-p and min-p. At temperature 0 the likeliest token is taken and its logprob is that of temperature 1.
    """
    import torch

    tokens, logprobs, tops = [], [], []
    for row, sampling, generator in zip(logits, settings, generators, strict=True):
        if sampling.temperature == 0:
            token = int(row.argmax())
            logps = row.log_softmax(-1)
        else:
            logps = _filtered(row / sampling.temperature, sampling).log_softmax(-1)
            token = int(torch.multinomial(logps.exp(), 1, generator=generator))
        tokens.append(token)
        logprobs.append(float(logps[token]))
        best = logps.topk(min(sampling.top_logprobs, len(logps)))
        tops.append(list(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
    return tokens, logprobs, tops


def _filtered(row: "torch.Tensor", sampling: Sampling) -> "torch.Tensor":
    """The logits [V] with what top-k, top-p and min-p leave out at minus infinity."""
    if 0 < sampling.top_k < len(row):
        row = row.masked_fill(row < row.topk(sampling.top_k).values[-1], float("-inf"))
    if sampling.top_p < 1:
        ordered, order = row.softmax(-1).sort(descending=True)
        left_out = ordered.cumsum(0) - ordered >= sampling.top_p  # the token that crosses the bound stays
        row = row.masked_fill(left_out.scatter(0, order, left_out), float("-inf"))
    if sampling.min_p > 0:
        probabilities = row.softmax(-1)
        row = row.masked_fill(probabilities < sampling.min_p * probabilities.max(), float("-inf"))
    return row
