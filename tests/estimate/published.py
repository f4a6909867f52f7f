"""Counts published shapes with transformers on the meta device, for tests/estimate: that the estimate reads configurations as people publish them.

    python3 tests/estimate/published.py > tests/estimate/published.json

The shapes are those that the models are published with, less what says nothing of products. Parameters are transformers' own count; operations are FlopCounterMode's, of two rows of 64
tokens (32 for a decoder beside an encoder) with eager attention. Of mixtures of experts there is no count of operations: which expert meets a token needs real numbers.
"""

import json
import sys

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

ROWS, LENGTH, DECODER_LENGTH = 2, 64, 32

CONFIGS = {
    "Llama-3.1-8B": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings":
        131072, "mlp_bias": False, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "tie_word_embeddings": False, "vocab_size": 128256,
    },
    "Llama-3.2-1B": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "head_dim": 64, "hidden_size": 2048, "intermediate_size": 8192,
        "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "tie_word_embeddings": True, "vocab_size": 128256,
    },
    "Llama-2-7b": {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type":
        "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "tie_word_embeddings": False, "vocab_size": 32000,
    },
    "Qwen2.5-0.5B": {
        "architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers":
        24, "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "sliding_window": 32768,
        "tie_word_embeddings": True, "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
    },
    "Qwen2.5-7B": {
        "architectures": ["Qwen2ForCausalLM"], "hidden_size": 3584, "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers":
        28, "model_type": "qwen2", "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "sliding_window": 32768,
        "tie_word_embeddings": False, "use_mrope": False, "use_sliding_window": False, "vocab_size": 152064,
    },
    "Qwen3-8B": {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128, "hidden_size": 4096, "intermediate_size": 12288,
        "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3", "num_attention_heads": 32, "num_hidden_layers": 36,
        "num_key_value_heads": 8, "sliding_window": None, "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 151936,
    },
    "Mistral-7B-v0.1": {
        "architectures": ["MistralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type":
        "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "sliding_window": 4096, "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "Mistral-Nemo": {
        "architectures": ["MistralForCausalLM"], "head_dim": 128, "hidden_size": 5120, "intermediate_size": 14336, "max_position_embeddings": 131072,
        "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8, "sliding_window": None,
        "tie_word_embeddings": False, "vocab_size": 131072,
    },
    "Mistral-Small-3.1": {
        "architectures": ["Mistral3ForConditionalGeneration"], "image_token_index": 10, "model_type": "mistral3", "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu", "spatial_merge_size": 2, "text_config": {"head_dim": 128, "hidden_size": 5120, "intermediate_size": 32768,
        "max_position_embeddings": 131072, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 8,
        "sliding_window": None, "vocab_size": 131072}, "vision_config": {"model_type": "pixtral", "hidden_size": 1024}, "vision_feature_layer": -1,
    },
    "gemma-2b": {
        "architectures": ["GemmaForCausalLM"], "attention_bias": False, "head_dim": 256, "hidden_size": 2048, "intermediate_size": 16384,
        "max_position_embeddings": 8192, "model_type": "gemma", "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1,
        "vocab_size": 256000,
    },
    "gemma-2-9b": {
        "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "head_dim": 256, "hidden_size": 3584, "intermediate_size": 14336,
        "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 16, "num_hidden_layers": 42, "num_key_value_heads": 8,
        "sliding_window": 4096, "sliding_window_size": 4096, "vocab_size": 256000,
    },
    "gemma-3-1b": {
        "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "head_dim": 256, "hidden_size": 1152, "intermediate_size": 6912,
        "max_position_embeddings": 32768, "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
        "sliding_window": 512, "sliding_window_pattern": 6, "vocab_size": 262144,
    },
    "phi-2": {
        "architectures": ["PhiForCausalLM"], "embd_pdrop": 0.0, "hidden_size": 2560, "intermediate_size": 10240, "max_position_embeddings": 2048,
        "model_type": "phi", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "partial_rotary_factor": 0.4,
        "qk_layernorm": False, "resid_pdrop": 0.1, "tie_word_embeddings": False, "vocab_size": 51200,
    },
    "Phi-3-mini": {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings":
        4096, "model_type": "phi3", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "pad_token_id": 32000,
        "sliding_window": 2047, "tie_word_embeddings": False, "vocab_size": 32064,
    },
    "phi-4": {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "hidden_size": 5120, "intermediate_size": 17920, "max_position_embeddings":
        16384, "model_type": "phi3", "num_attention_heads": 40, "num_hidden_layers": 40, "num_key_value_heads": 10, "sliding_window": None,
        "tie_word_embeddings": False, "vocab_size": 100352, "pad_token_id": 100349,
    },
    "Phi-4-mini": {
        "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings":
        131072, "model_type": "phi3", "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8, "partial_rotary_factor": 0.75,
        "sliding_window": 262144, "tie_word_embeddings": True, "vocab_size": 200064, "pad_token_id": 199999,
    },
    "Mixtral-8x7B": {
        "architectures": ["MixtralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768, "model_type":
        "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8,
        "sliding_window": None, "tie_word_embeddings": False, "vocab_size": 32000,
    },
    "Qwen1.5-MoE-A2.7B": {
        "architectures": ["Qwen2MoeForCausalLM"], "decoder_sparse_step": 1, "hidden_size": 2048, "intermediate_size": 5632, "max_position_embeddings":
        8192, "max_window_layers": 21, "model_type": "qwen2_moe", "moe_intermediate_size": 1408, "norm_topk_prob": False, "num_attention_heads": 16,
        "num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16, "shared_expert_intermediate_size": 5632,
        "sliding_window": 32768, "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 151936,
    },
    "Qwen3-30B-A3B": {
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "decoder_sparse_step": 1, "head_dim": 128, "hidden_size": 2048,
        "intermediate_size": 6144, "max_position_embeddings": 40960, "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe",
        "moe_intermediate_size": 768, "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
        "num_hidden_layers": 48, "num_key_value_heads": 4, "sliding_window": None, "tie_word_embeddings": False, "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "DeepSeek-V2-Lite": {
        "architectures": ["DeepseekV2ForCausalLM"], "attention_bias": False, "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size":
        10944, "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v2", "moe_intermediate_size": 1408, "moe_layer_freq":
        1, "n_group": 1, "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": False, "num_attention_heads": 16, "num_experts_per_tok": 6,
        "num_hidden_layers": 27, "num_key_value_heads": 16, "q_lora_rank": None, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
        "routed_scaling_factor": 1.0, "scoring_func": "softmax", "tie_word_embeddings": False, "topk_group": 1, "topk_method": "greedy", "v_head_dim":
        128, "vocab_size": 102400,
    },
    "DeepSeek-V3": {
        "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": False, "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
        "first_k_dense_replace": 3, "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840,
        "model_type": "deepseek_v3", "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
        "norm_topk_prob": True, "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "quantization_config":
        {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}, "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid", "tie_word_embeddings": False, "topk_group": 4, "topk_method": "noaux_tc", "v_head_dim": 128, "vocab_size": 129280,
    },
    "gpt-oss-20b": {
        "architectures": ["GptOssForCausalLM"], "attention_bias": True, "experts_per_token": 4, "head_dim": 64, "hidden_size": 2880,
        "intermediate_size": 2880, "layer_types": ["sliding_attention", "full_attention"] * 12, "max_position_embeddings": 131072, "model_type":
        "gpt_oss", "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32,
        "quantization_config": {"modules_to_not_convert": ["model.layers.*.self_attn"], "quant_method": "mxfp4"}, "sliding_window": 128,
        "tie_word_embeddings": False, "vocab_size": 201088,
    },
    "t5-base": {
        "architectures": ["T5WithLMHeadModel"], "d_ff": 3072, "d_kv": 64, "d_model": 768, "decoder_start_token_id": 0, "dropout_rate": 0.1,
        "is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512, "num_heads": 12, "num_layers": 12,
        "pad_token_id": 0, "relative_attention_num_buckets": 32, "vocab_size": 32128,
    },
    "flan-t5-xl": {
        "architectures": ["T5ForConditionalGeneration"], "d_ff": 5120, "d_kv": 64, "d_model": 2048, "decoder_start_token_id": 0, "dropout_rate": 0.1,
        "feed_forward_proj": "gated-gelu", "is_encoder_decoder": True, "model_type": "t5", "num_decoder_layers": 24, "num_heads": 32, "num_layers":
        24, "pad_token_id": 0, "relative_attention_num_buckets": 32, "tie_word_embeddings": False, "vocab_size": 32128,
    },
    "bert-base-uncased": {
        "architectures": ["BertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False, "hidden_dropout_prob": 0.1,
        "hidden_size": 768, "intermediate_size": 3072, "max_position_embeddings": 512, "model_type": "bert", "num_attention_heads": 12,
        "num_hidden_layers": 12, "pad_token_id": 0, "position_embedding_type": "absolute", "type_vocab_size": 2, "vocab_size": 30522,
    },
    "vit-base-patch16-224": {
        "architectures": ["ViTForImageClassification"], "attention_probs_dropout_prob": 0.0, "encoder_stride": 16, "hidden_dropout_prob": 0.0,
        "hidden_size": 768, "image_size": 224, "intermediate_size": 3072, "model_type": "vit", "num_attention_heads": 12, "num_channels": 3,
        "num_hidden_layers": 12, "patch_size": 16, "qkv_bias": True, "num_labels": 1000,
    },
    "vit-base-patch16-224-in21k": {
        "architectures": ["ViTModel"], "attention_probs_dropout_prob": 0.0, "encoder_stride": 16, "hidden_dropout_prob": 0.0, "hidden_size": 768,
        "image_size": 224, "intermediate_size": 3072, "model_type": "vit", "num_attention_heads": 12, "num_channels": 3, "num_hidden_layers": 12,
        "patch_size": 16, "qkv_bias": True,
    },
}


#: Names of classes that were called something else, or of the language model in one that sees.
CLASSES = {"T5WithLMHeadModel": "T5ForConditionalGeneration", "Mistral3ForConditionalGeneration": "MistralForCausalLM"}


def count(config):
    given = transformers.AutoConfig.for_model(**{k: v for k, v in config.items() if k != "quantization_config"})
    given = getattr(given, "text_config", None) or given
    given._attn_implementation = "eager"
    name = config["architectures"][0]
    with torch.device("meta"):
        model = getattr(transformers, CLASSES.get(name, name))(given)
        parameters = sum(p.numel() for p in model.parameters())
        if config["model_type"] == "t5" and config.get("tie_word_embeddings") is False:
            # Loaded weights have a head of their own; transformers 5 ties those that it makes up.
            parameters += config["vocab_size"] * config["d_model"]
        said = {"parameters": parameters}
        if any(field in config for field in ("num_local_experts", "num_experts", "n_routed_experts")):
            return said
        inputs = {"input_ids": torch.zeros(ROWS, LENGTH, dtype=torch.long)}
        if config["model_type"] == "vit":
            inputs = {"pixel_values": torch.zeros(ROWS, 3, config["image_size"], config["image_size"])}
        if config["model_type"] == "t5":
            inputs["decoder_input_ids"] = torch.zeros(ROWS, DECODER_LENGTH, dtype=torch.long)
        model.train()
        with FlopCounterMode(display=False) as counter:
            out = model(**inputs)
            said["forward"] = counter.get_total_flops()
            (out.logits if "logits" in out else out.pooler_output).sum().backward()
            said["backward"] = counter.get_total_flops() - said["forward"]
    return said


def main():
    transformers.logging.set_verbosity_error()
    models = [{"name": name, "config": config} | count(config) for name, config in CONFIGS.items()]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    json.dump({"made_by": "tests/estimate/published.py", "versions": versions, "rows": ROWS, "length": LENGTH, "decoder_length": DECODER_LENGTH, "models": models}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
