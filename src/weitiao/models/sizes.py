"""Models from scratch by name: ``tiny``, ``small`` and ``base``, as an encoder or as a decoder."""

from typing import Any

import torch
from torch import nn

from weitiao.models.encoder import Encoder, Shape

# layers, hidden, heads, feed-forward of an encoder, feed-forward of a decoder (about 8/3 of hidden, as Llama has it)
DIMENSIONS = {
    "tiny": (2, 128, 2, 512, 352),
    "small": (4, 256, 4, 1024, 704),
    "base": (12, 768, 12, 3072, 2048),
}


def encoder_config(size: str, vocabulary: int, length: int, dropout: float) -> dict[str, Any]:
    """``config.json`` of a BERT (Devlin et al. 2019)."""
    layers, hidden, heads, inner, _ = DIMENSIONS[size]
    return {
        "architectures": ["BertModel"], "model_type": "bert", "vocab_size": vocabulary, "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": inner,
        "max_position_embeddings": max(length, 512), "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "initializer_range": 0.02,
        "pad_token_id": 0,
    }  # fmt: skip


def decoder_config(size: str, vocabulary: int, length: int, special: dict[str, int]) -> dict[str, Any]:
    """``config.json`` of a Llama with tied embeddings; ``special`` are its bos, eos and pad ids."""
    layers, hidden, heads, _, inner = DIMENSIONS[size]
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads,
        "head_dim": hidden // heads, "intermediate_size": inner, "max_position_embeddings": max(length, 1024),
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
        "initializer_range": 0.02, "tie_word_embeddings": True, **special,
    }  # fmt: skip


def new_encoder(config: dict[str, Any]) -> Encoder:
    """An encoder with random weights: normal with BERT's standard deviation, biases 0."""
    encoder = Encoder(Shape.from_config(config))
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=config["initializer_range"])
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight[config["pad_token_id"]].zero_()
    return encoder
