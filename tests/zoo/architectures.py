"""Tiny random models, one for each architecture of the table in docs/models.md. Weights are spread widely, so that every part of a model matters."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rollhouse.tests.random_model import byte_tokenizer

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "bos_token_id": None,
}
HALF: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True, "mlp_only_layers": [], "decoder_sparse_step": 1}  # fmt: skip
ROUTED: dict[str, Any] = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}  # fmt: skip
LOCAL: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
DELTA: dict[str, Any] = {"num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32}  # fmt: skip
MAMBA: dict[str, Any] = {"mamba_num_heads": 4, "mamba_head_dim": 32, "n_groups": 2, "ssm_state_size": 16, "conv_kernel": 4, "chunk_size": 16, "expand": 2}  # fmt: skip


@dataclass(frozen=True)
class Architecture:
    """A row of the table.

    Attributes:
        kind: transformers' model type.
        options: Of its configuration, besides SHAPE.
        limits: By the name of a check: why it cannot pass, and what the error says then.
        dtype: What vLLM computes in, where it has no float32 kernel on a CPU.
        apart: vLLM runs transformers' own class, which it changes: a process that has the engine cannot open the model as well.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    dtype: str = "float32"
    apart: bool = False

    def build(self, folder: Path, vocabulary: int | None = None) -> Path:
        """The model's folder with the byte tokenizer, written when it is not there; `vocabulary` is for another tokenizer's size."""
        if (folder / "config.json").exists():
            return folder
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        tokenizer = byte_tokenizer()
        torch.manual_seed(1)
        config = AutoConfig.for_model(
            self.kind, **{"vocab_size": vocabulary or len(tokenizer), **SHAPE, **self.options}
        )
        config.dtype = "float32"
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                spread(name, parameter)
            for name, buffer in model.named_buffers():
                if "e_score_correction" in name:
                    buffer.normal_(0, 0.5)
                elif "layer_scalar" in name:
                    buffer.uniform_(0.5, 1.5)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0]}))
        return folder


def spread(name: str, parameter: Any) -> None:
    """Random values of a parameter, in the size that it has in a trained model or larger."""
    import torch

    if parameter.ndim >= 2 and "conv" not in name:
        parameter.normal_(0, (3 if "embed" in name else 1.2) / parameter.shape[-1] ** 0.5)
    elif name.endswith(("A_log", "dt_bias", ".D")):
        parameter.add_(torch.randn_like(parameter) * 0.1)
    elif name.endswith("bias") or "sinks" in name:
        parameter.normal_(0, 0.3)
    elif "norm" in name:
        parameter.add_(torch.randn_like(parameter) * 0.2)


LLAMA3_ROPE = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
DEEPSEEK = {**ROUTED, "num_key_value_heads": 4, "head_dim": 64, "q_lora_rank": 32, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "topk_method": "noaux_tc", "scoring_func": "sigmoid"}  # fmt: skip

DELTA_ON_CPU = "CPU GDN attention requires BF16"
"""vLLM's reason for ending: its gated delta rule has no float32 kernel on a CPU."""
MLA_ON_CPU = "expect weight to be bfloat16"
"""vLLM's reason for not starting: compressed attention in float32 has no kernel on a CPU with AMX."""
UNGATED_ON_CPU = "is_act_and_mul=False is supported only for CUDA, XPU and ROCm"
"""vLLM's reason for not starting: experts without a gate have no kernel on a CPU."""
WITHOUT_VISION = "No module named 'torchvision'"
"""vLLM's module of Qwen 3.5 imports it; the pinned packages leave it out, because its build does not fit a CPU's torch."""

ARCHITECTURES = (
    Architecture("Llama 3", "llama", {"rope_parameters": LLAMA3_ROPE}),
    Architecture("Llama 3, tied", "llama", {"tie_word_embeddings": True}),
    Architecture("Mistral", "mistral", {"sliding_window": None}),
    Architecture("Mistral, window", "mistral", {"sliding_window": 16}),
    Architecture("Mixtral", "mixtral", {**LOCAL, "sliding_window": None}),
    Architecture("Qwen 2", "qwen2", {**HALF, "tie_word_embeddings": True}),
    Architecture("Qwen 3", "qwen3", {"tie_word_embeddings": True}),
    Architecture("Qwen 3 MoE", "qwen3_moe", EXPERTS),
    Architecture(
        "Qwen 3 Next",
        "qwen3_next",
        {**EXPERTS, **DELTA, "shared_expert_intermediate_size": 32, "partial_rotary_factor": 0.5},
        {"vLLM and push": DELTA_ON_CPU, "GRPO": DELTA_ON_CPU},
    ),
    Architecture("Qwen 3.5", "qwen3_5_text", DELTA, {"vLLM and push": WITHOUT_VISION, "GRPO": WITHOUT_VISION}),
    Architecture(
        "Gemma 2",
        "gemma2",
        {
            "sliding_window": 16,
            "query_pre_attn_scalar": 32,
            "final_logit_softcapping": 5.0,
            "attn_logit_softcapping": 5.0,
        },
    ),
    Architecture(
        "Gemma 3",
        "gemma3_text",
        {
            "final_logit_softcapping": 5.0,
            "num_hidden_layers": 4,
            "sliding_window": 16,
            "query_pre_attn_scalar": 32,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    Architecture(
        "Gemma 4",
        "gemma4_text",
        {
            "final_logit_softcapping": 5.0,
            "num_hidden_layers": 4,
            "sliding_window": 16,
            "vocab_size_per_layer_input": 263,
            "hidden_size_per_layer_input": 16,
            "global_head_dim": 32,
        },
    ),
    Architecture(
        "gpt-oss",
        "gpt_oss",
        {
            **LOCAL,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "intermediate_size": 64,
        },
        dtype="bfloat16",
    ),
    Architecture("GLM 4", "glm4", {"partial_rotary_factor": 0.5}),
    Architecture("GLM 4 MoE", "glm4_moe", {**ROUTED, "partial_rotary_factor": 0.5, "use_qk_norm": True}),
    Architecture(
        "Phi 3",
        "phi3",
        {
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "sliding_window": None,
            "original_max_position_embeddings": 2048,
        },
    ),
    Architecture("OLMo 2", "olmo2", HALF, apart=True),
    Architecture("OLMo 3", "olmo3", {**HALF, "sliding_window": 16}, apart=True),
    Architecture(
        "Granite",
        "granite",
        {
            **HALF,
            "logits_scaling": 8.0,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.0156,
        },
    ),
    Architecture(
        "Granite 4 hybrid",
        "granitemoehybrid",
        {
            **HALF,
            **LOCAL,
            "shared_intermediate_size": 64,
            "layer_types": ["mamba", "attention"],
            "mamba_n_heads": 4,
            "mamba_d_head": 32,
            "mamba_d_state": 16,
            "mamba_n_groups": 1,
            "logits_scaling": 6.0,
            "position_embedding_type": "rope",
        },
    ),
    Architecture(
        "Falcon H1",
        "falcon_h1",
        {
            "mamba_d_ssm": 64,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_n_groups": 1,
            "mamba_d_state": 16,
            "mamba_chunk_size": 16,
            "lm_head_multiplier": 0.5,
            "embedding_multiplier": 2.0,
        },
    ),
    Architecture(
        "Nemotron-H (Nano 9B v2)",
        "nemotron_h",
        {**MAMBA, "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"]},
    ),
    Architecture(
        "Nemotron-H MoE (3 Nano)",
        "nemotron_h",
        {
            **MAMBA,
            **ROUTED,
            "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"],
            "moe_shared_expert_intermediate_size": 32,
        },
        {"vLLM and push": UNGATED_ON_CPU, "GRPO": UNGATED_ON_CPU},
    ),
    Architecture("DeepSeek V3", "deepseek_v3", DEEPSEEK, {"vLLM and push": MLA_ON_CPU, "GRPO": MLA_ON_CPU}),
    Architecture(
        "MiniMax M2",
        "minimax_m2",
        {
            **LOCAL,
            "intermediate_size": 32,
            "rotary_dim": 16,
            "scoring_func": "sigmoid",
            "use_routing_bias": True,
            "use_qk_norm": True,
            "qk_norm_type": "per_layer",
        },
    ),
    Architecture("SmolLM 3", "smollm3", {**HALF, "num_hidden_layers": 4}, apart=True),
    Architecture(
        "LFM 2",
        "lfm2",
        {**HALF, "conv_dim": 64, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
    Architecture("Command (Cohere 2)", "cohere2", {**HALF, "logit_scale": 0.25, "sliding_window": 16}),
    Architecture("ERNIE 4.5", "ernie4_5"),
    Architecture(
        "EXAONE 4",
        "exaone4",
        {"sliding_window": 16, "sliding_window_pattern": 2, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    Architecture("Hunyuan", "hunyuan_v1_dense", apart=True),
    Architecture("Phi-3.5 MoE", "phimoe", {**HALF, **LOCAL, "sliding_window": None}, apart=True),
    Architecture(
        "OLMoE",
        "olmoe",
        {"num_attention_heads": 2, "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2},
    ),
)
