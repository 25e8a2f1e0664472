"""What the measures of gpu.py share: the machine's setting, random models, batches, clocks and memory."""

import gc
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rollhouse.base.errors import TrainingError
from rollhouse.train.grpo.config_policy import PolicyConfig
from rollhouse.train.grpo.learner.batch import TrainSample
from rollhouse.train.grpo.learner.learner import Learner
from rollhouse.train.grpo.learner.settings import LearnerSettings

GIB = 2**30
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"vocab_size": 2048, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32},
    "qwen3-0.6b": {"vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128},
    "qwen3-4b": {"vocab_size": 151_936, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128},
}  # fmt: skip
"""Sizes as the publisher's configurations have them; weights are random."""


@dataclass
class Setting:
    """The machine and the time of a run.

    Attributes:
        scratch: Folder of the run; models are made in it once.
        device: `cuda` or `cpu`.
        deadline: On the monotonic clock; no cell begins after it.
        models: Folders by shape, those that were made.
    """

    scratch: Path
    device: str
    tiny: bool
    deadline: float
    models: dict[str, Path] = field(default_factory=dict)

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def small(self) -> str:
        """The shape that every measure has."""
        return "tiny" if self.tiny else "qwen3-0.6b"

    def model(self, shape: str) -> Path:
        """A folder with a Qwen3 of that shape, in bfloat16 with random weights."""
        if shape not in self.models:
            self.models[shape] = random_model(shape, self.scratch / shape, self.device)
        return self.models[shape]

    def learner(self, shape: str, **policy: Any) -> Learner:
        """A learner of that shape; `policy` are settings of the section policy."""
        # No clipping of the gradient, so that gradients can be compared.
        settings = {"model_name": str(self.model(shape)), "max_grad_norm": 1e9, "threads": 1}
        return Learner(
            str(self.model(shape)), LearnerSettings(PolicyConfig.model_validate(settings | policy), device=self.device)
        )

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def free(self) -> None:
        """Gives back memory that nothing uses any more."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def seconds(self, work: Any, rounds: int = 3) -> float:
        """The median of `rounds` runs of `work`, after one that is not counted."""
        work()
        found = []
        for _ in range(rounds):
            self.wait()
            begin = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - begin)
        return sorted(found)[len(found) // 2]

    def reset_peak(self) -> None:
        """The peak of memory counts from here."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> float:
        """Bytes at the peak since the last reset: of the card, or of this process."""
        if self.device == "cuda":
            return float(torch.cuda.max_memory_allocated())
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return float(int(lines["VmHWM"].split()[0]) * 1024)

    def total(self) -> float:
        """Bytes of memory of the device."""
        if self.device == "cuda":
            return float(torch.cuda.get_device_properties(0).total_memory)
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return float(int(lines["MemAvailable"].split()[0]) * 1024)


@contextmanager
def cell(setting: Setting, rows: list[dict[str, Any]], row: dict[str, Any], seconds: float = 0.0) -> Iterator[bool]:
    """One cell of a table: the block fills `row`, which is appended to rows. The value is False, and the block is to do nothing, when fewer than `seconds` are left.

    What does not fit into the memory is said in the row.
    """
    rows.append(row)
    if setting.left() < seconds:
        row["not run"] = "out of time"
        yield False
        return
    try:
        yield True
    except (torch.OutOfMemoryError, TrainingError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "memory" not in str(error):
            raise
        row["not run"] = "out of memory"
    finally:
        setting.free()


def random_model(shape: str, folder: Path, device: str) -> Path:
    """Made on the device and saved in bfloat16."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = SHAPES[shape]
    with torch.device(device):
        model = Qwen3ForCausalLM(Qwen3Config(**sizes, tie_word_embeddings=True, max_position_embeddings=32_768))
    model.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]
    add_tokenizer(folder)
    return folder


def add_tokenizer(folder: Path) -> None:
    """A tokenizer of one word: an engine opens no folder without one, and no measure reads text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"word": 0}, "word"))).save_pretrained(folder)


def groups(shape: str, prompts: int, answers: int, prompt_tokens: int, answer_tokens: int) -> list[TrainSample]:
    """`prompts` groups of `answers` answers with random tokens; answers have between half and all of `answer_tokens`."""
    rng = random.Random(0)
    vocabulary = SHAPES[shape]["vocab_size"]
    samples = []
    for number in range(prompts):
        prompt = [rng.randrange(vocabulary) for _ in range(prompt_tokens)]
        for index in range(answers):
            n = answer_tokens if index == 0 else rng.randint(answer_tokens // 2, answer_tokens)
            answer = [rng.randrange(vocabulary) for _ in range(n)]
            samples.append(TrainSample(f"{number}-{index}", prompt, answer, [1] * n, [-12.0] * n, rng.gauss(0, 1)))
    return samples
