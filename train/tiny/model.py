"""The model of the tiny policy: the Qwen3 architecture, small enough to learn on one core."""

from typing import Any

# Head size 64, because vLLM's CPU attention has no kernel for 48.
SHAPE = {
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
EMBEDDING_STD = 0.06
RESIDUAL_SCALE = 0.4


def build_config(vocab_size: int) -> Any:
    """The model's configuration. Ids 0 and 2 of the tokenizer are <|endoftext|> (padding) and <|im_end|> (end of a turn)."""
    from transformers import Qwen3Config

    return Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        dtype="float32",
        vocab_size=vocab_size,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
        **SHAPE,
    )


def build_model(vocab_size: int, seed: int) -> Any:
    """A float32 Qwen3ForCausalLM with fresh weights.

    Embeddings start at a standard deviation of 0.06 and the projections into the residual stream at 0.4 of their usual size."""
    import torch
    from transformers import Qwen3ForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = Qwen3ForCausalLM(build_config(vocab_size))
        model.float()
        with torch.no_grad():
            model.model.embed_tokens.weight.normal_(0.0, EMBEDDING_STD)
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.mul_(RESIDUAL_SCALE)
                layer.mlp.down_proj.weight.mul_(RESIDUAL_SCALE)
    return model


def weights_of(model: Any) -> dict[str, Any]:
    """The weights by name. The output layer is the embedding itself (tied), so it is left out."""
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
