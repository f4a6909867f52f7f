"""Counts real model classes with PyTorch's FlopCounterMode, for tests/estimate: what the estimate must say.

    python3 tests/estimate/record.py [--device cpu|cuda] [--only llama,...] [--out tests/estimate/golden]

Each case is a small model of random weights with every feature of its architecture. A file a case: its config.json, what was counted, and the versions.
Attention is `eager`: two products forward and four backward, all of them visible to FlopCounterMode and over the whole square of positions, since its
formulas look at shapes and know no mask. What a kernel that skips masked positions executes cannot be counted that way, so the pairs that each
layer's mask allows are counted in the mask itself.

The cases `*-modules` and `t5-untied` are of what transformers 4 makes, and recorded with 4.57 and PEFT 0.17; all others with transformers 5.

Needs torch, transformers, peft. Nothing is downloaded: the weights are random.
"""

import argparse
import copy
import json
import os
import platform
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "python"))

import peft
import torch
import transformers
from flopsprof import _model
from torch.utils.flop_counter import FlopCounterMode

ROWS, LENGTH, DECODER_LENGTH = 2, 96, 40
DENSE = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 3, "num_attention_heads": 8}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
QV, ALL = ["q_proj", "v_proj"], "all-linear"


# Adapters of other kinds, as arguments of LoraConfig.
DORA = {"use_dora": True}
# With dropout the frozen product is computed once more, from what was not dropped.
DROPPED = DORA | {"lora_dropout": 0.1}
STACKED = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
# PEFT turns these into target_parameters where transformers has stacked what were modules.
EVERY = {"target_modules": ALL}


def case(config, model, arguments, targets=QV, trained=r"layers\.2\.", adapters=(), **more):
    return {"config": config, "model": model, "arguments": SPECIAL | arguments, "targets": targets, "trained": trained, "adapters": adapters} | more


# What is trained of a checkpointed model whose embeddings' output needs no gradient, where it matters how far the first layer with gradients is run again.
BELOW = {
    "llama": (r"layers\.1\.mlp\.down_proj", r"layers\.1\.self_attn\.q_proj", r"layers\.1\.mlp\.gate"),
    "phi": (r"layers\.1\.self_attn\.q_proj", r"layers\.1\.mlp\.fc1", r"layers\.1\.mlp\.fc2"),
    "mixtral": (r"layers\.1\.mlp\.experts.down",),
    "qwen2-moe": (r"layers\.1\.self_attn|layers\.2", r"layers\.2\.mlp\.experts", r"layers\.2\.mlp\.shared_expert\.", r"layers\.2\.mlp\.gate"),
    "deepseek-v3": (r"layers\.2\.mlp\.experts", r"layers\.1\.mlp\.shared"),
    "t5-relu-tied": (r"encoder\.block\.1\.", r"decoder\.block\.1\."),
    "t5": (r"decoder\.block\.2\.",),
    "vit": (r"layers?\.1\.attention\.q", r"layers?\.1\.mlp"),
}


CASES = {
    "llama": case(
        "LlamaConfig",
        "LlamaForCausalLM",
        DENSE | {"num_key_value_heads": 2},
        adapters=(DORA, DROPPED, {"target_modules": [], "target_parameters": ["q_proj.weight", "mlp.down_proj.weight"]}),
    ),
    "llama-tied-bias": case(
        "LlamaConfig",
        "LlamaForCausalLM",
        DENSE | {"num_key_value_heads": 4, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 48},
        targets=ALL,
        trained=r"layers\.(0|1)\.mlp|lm_head",
        adapters=(DORA, DROPPED),
    ),
    # A copy of a tied head is no longer tied, adapters of the table are looked up, and biases are trained where they are.
    "llama-copied": case(
        "LlamaConfig",
        "LlamaForCausalLM",
        DENSE | {"num_key_value_heads": 4, "tie_word_embeddings": True, "attention_bias": True},
        adapters=(
            {"modules_to_save": ["lm_head"]},
            {"modules_to_save": ["embed_tokens"]},
            {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
            {"target_modules": ["v_proj", "embed_tokens", "lm_head"]},
            {"bias": "all"},
        ),
    ),
    # The older way to checkpoint, which runs layers again to their end.
    "llama-reentrant": case("LlamaConfig", "LlamaForCausalLM", DENSE | {"num_key_value_heads": 2}, targets=["q_proj", "down_proj"], trained="embed|norm", reentrant=True),
    "llama-classifier": case("LlamaConfig", "LlamaForSequenceClassification", DENSE | {"num_key_value_heads": 8, "num_labels": 5}),
    "mistral": case("MistralConfig", "MistralForCausalLM", DENSE | {"num_key_value_heads": 2, "sliding_window": 32}),
    "qwen2": case(
        "Qwen2Config",
        "Qwen2ForCausalLM",
        DENSE | {"num_key_value_heads": 2, "tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    ),
    "qwen3": case("Qwen3Config", "Qwen3ForCausalLM", DENSE | {"num_key_value_heads": 2, "head_dim": 64}),
    "gemma": case("GemmaConfig", "GemmaForCausalLM", DENSE | {"num_key_value_heads": 1, "head_dim": 64}),
    "gemma2": case("Gemma2Config", "Gemma2ForCausalLM", DENSE | {"num_key_value_heads": 4, "head_dim": 48, "sliding_window": 20}),
    "gemma3": case("Gemma3TextConfig", "Gemma3ForCausalLM", DENSE | {"num_hidden_layers": 7, "num_key_value_heads": 2, "head_dim": 64, "sliding_window": 16}),
    "phi": case("PhiConfig", "PhiForCausalLM", DENSE | {"num_key_value_heads": 8}),
    "phi3": case("Phi3Config", "Phi3ForCausalLM", DENSE | {"num_key_value_heads": 2, "sliding_window": 40}, targets=["qkv_proj", "gate_up_proj"]),
    "mixtral": case(
        "MixtralConfig",
        "MixtralForCausalLM",
        DENSE | {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
        adapters=(STACKED, {"target_modules": ["v_proj", "w1", "w2", "w3"]}, EVERY),
    ),
    "qwen2-moe": case(
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        DENSE
        | {
            "num_key_value_heads": 2,
            "moe_intermediate_size": 160,
            "shared_expert_intermediate_size": 320,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [1],
        },
        adapters=(STACKED, EVERY),
    ),
    "qwen3-moe": case(
        "Qwen3MoeConfig",
        "Qwen3MoeForCausalLM",
        DENSE | {"num_key_value_heads": 2, "head_dim": 64, "moe_intermediate_size": 160, "num_experts": 8, "num_experts_per_tok": 2, "decoder_sparse_step": 1},
        adapters=(EVERY,),
    ),
    "deepseek-v2": case(
        "DeepseekV2Config",
        "DeepseekV2ForCausalLM",
        DENSE
        | {
            "num_key_value_heads": 8,
            "q_lora_rank": None,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
            "moe_intermediate_size": 160,
            "n_routed_experts": 8,
            "n_shared_experts": 2,
            "num_experts_per_tok": 3,
            "first_k_dense_replace": 1,
        },
        targets=["q_proj", "kv_b_proj"],
        adapters=({"target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"]},),
    ),
    "deepseek-v3": case(
        "DeepseekV3Config",
        "DeepseekV3ForCausalLM",
        DENSE
        | {
            "num_key_value_heads": 8,
            "q_lora_rank": 96,
            "kv_lora_rank": 64,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 48,
            "moe_intermediate_size": 160,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
        },
        targets=["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"],
        adapters=(EVERY,),
    ),
    "gpt-oss": case(
        "GptOssConfig",
        "GptOssForCausalLM",
        DENSE | {"num_key_value_heads": 2, "head_dim": 48, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
        adapters=(STACKED, EVERY),
    ),
    "t5": case(
        "T5Config",
        "T5ForConditionalGeneration",
        {"vocab_size": 512, "d_model": 256, "d_kv": 48, "d_ff": 640, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 6, "feed_forward_proj": "gated-gelu"}
        | {"tie_word_embeddings": False, "decoder_start_token_id": 0},
        targets=["q", "v"],
        trained=r"decoder\.block\.2\.",
        adapters=(DROPPED,),
    ),
    # transformers 5 ties a new T5 whatever its configuration says, so this one is recorded with 4.57. It loads those that were published untied as what they are.
    "t5-untied": case(
        "T5Config",
        "T5ForConditionalGeneration",
        {"vocab_size": 512, "d_model": 256, "d_kv": 32, "d_ff": 640, "num_layers": 2, "num_heads": 8, "feed_forward_proj": "gated-gelu"}
        | {"tie_word_embeddings": False, "decoder_start_token_id": 0},
        targets=["q", "v"],
        trained=r"encoder\.block\.1\.|lm_head",
        adapters=({"target_modules": ALL},),
    ),
    "t5-encoder": case(
        "T5Config",
        "T5EncoderModel",
        {"vocab_size": 512, "d_model": 256, "d_kv": 32, "d_ff": 640, "num_layers": 3, "num_heads": 8, "feed_forward_proj": "gated-gelu"},
        targets=["q", "v"],
        trained=r"encoder\.block\.1\.",
    ),
    "t5-relu-tied": case(
        "T5Config",
        "T5ForConditionalGeneration",
        {"vocab_size": 512, "d_model": 256, "d_kv": 32, "d_ff": 640, "num_layers": 2, "num_heads": 8, "feed_forward_proj": "relu", "decoder_start_token_id": 0},
        targets=["q", "v"],
        trained=r"encoder\.block\.1\.",
    ),
    "bert": case("BertConfig", "BertForMaskedLM", DENSE, targets=["query", "value"], trained=r"layer\.2\."),
    "bert-untied": case(
        "BertConfig",
        "BertForMaskedLM",
        DENSE | {"tie_word_embeddings": False},
        targets=["query", "value"],
        trained=r"layer\.2\.|predictions\.",
    ),
    "bert-classifier": case("BertConfig", "BertForSequenceClassification", DENSE | {"num_labels": 3}, targets=["query", "value"], trained=r"layer\.2\.|classifier"),
    "vit": case(
        "ViTConfig",
        "ViTForImageClassification",
        {k: v for k, v in DENSE.items() if k != "vocab_size"} | {"image_size": 64, "patch_size": 8, "num_labels": 10},
        targets=["q_proj", "v_proj"],
        trained=r"layers?\.2\.|classifier",
        adapters=(DORA,),
    ),
}
# Experts that are modules of their own: recorded with transformers 4.57 and PEFT 0.17.
EXPERTS = {"target_modules": ["v_proj", "gate_proj", "up_proj", "down_proj"]}
for name, adapters in {
    "mixtral": ({"target_modules": ["w1", "w3"]}, EVERY, DORA | {"target_modules": ["v_proj", "w2"]}),
    "qwen2-moe": (EXPERTS, EVERY),
    "qwen3-moe": (EXPERTS,),
    "deepseek-v3": (EVERY,),
}.items():
    # Of all layers, so that each expert's share of the tokens does not matter.
    CASES[f"{name}-modules"] = CASES[name] | {"adapters": adapters, "trained": r"layers\.0\.self_attn|experts\.\d+\.(w2|down_proj)"}
for c in CASES.values():
    if c["config"] == "ViTConfig":
        for token in SPECIAL:
            c["arguments"].pop(token)


def build(c):
    torch.manual_seed(1)
    config = getattr(transformers, c["config"])(**c["arguments"])
    config.architectures = [c["model"]]
    config._attn_implementation = "eager"
    if hasattr(config, "_experts_implementation"):
        config._experts_implementation = "eager"
    return getattr(transformers, c["model"])(config)


def inputs(config, device):
    torch.manual_seed(2)
    tokens = lambda n: torch.randint(3, 512, (ROWS, n), device=device)
    kind = config.architectures[0]
    if config.model_type == "vit":
        return {"pixel_values": torch.randn(ROWS, 3, config.image_size, config.image_size, device=device), "labels": torch.zeros(ROWS, dtype=torch.long, device=device)}
    if "Classification" in kind:
        return {"input_ids": tokens(LENGTH), "labels": torch.zeros(ROWS, dtype=torch.long, device=device)}
    if kind == "T5EncoderModel":
        return {"input_ids": tokens(LENGTH)}
    if config.model_type == "t5":
        return {"input_ids": tokens(LENGTH), "labels": tokens(DECODER_LENGTH)}
    given = tokens(LENGTH)
    return {"input_ids": given, "labels": given}


def count(c, method, checkpointing, device, adapters=None, below=None):
    trained = below or c["trained"]
    model = build(c).to(device)
    config = model.config
    if method == "lora":
        # PEFT changes the configuration that it is given.
        adapters = copy.deepcopy({"target_modules": c["targets"]} | (adapters or {}))
        model = peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=16, **copy.deepcopy(adapters)))
    if method == "frozen":
        import re

        for name, parameter in model.named_parameters():
            parameter.requires_grad_(bool(re.search(trained, name)))
    if checkpointing:
        # As Trainer does. For text models transformers makes the embeddings' output need a gradient here.
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": c.get("reentrant", False)})
        if below:
            # As transformers 4 leaves it: layers below the first that is trained have no gradients, and early_stop ends that one's forward where they end.
            model.disable_input_require_grads()
    model.train()
    with FlopCounterMode(display=False) as counter:
        output = model(**inputs(config, device))
        # An encoder by itself has no loss of its own.
        loss = output.last_hidden_state.sum() if config.architectures[0] == "T5EncoderModel" else output.loss
        forward = counter.get_total_flops()
        by_op = {str(k): v for k, v in counter.get_flop_counts()["Global"].items()}
        loss.backward()
        total = counter.get_total_flops()
    parameters = list(model.parameters())
    said = _model.read(model)
    more = {"dora": "use_dora", "dropout": "lora_dropout", "target_parameters": "target_parameters"}
    return {
        "method": method,
        "checkpointing": checkpointing,
        "targets": adapters["target_modules"] if method == "lora" else None,
        "trained": trained if method == "frozen" else None,
    } | {name: adapters[field] for name, field in more.items() if field in (adapters or {})} | {
        # As the callback tells it, for tests/reconcile.rs.
        "declared": said["method"] if adapters else None,
        # What transformers 4 makes of checkpointing depends on who asks for it.
        "input_gradients": said["input_gradients"],
        "reentrant": said.get("reentrant", False),
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "forward": forward,
        "backward": total - forward,
        "forward_by_operator": by_op,
    }


def mask_pairs(c, device):
    """Positions that each layer's mask lets attend to each other, in one row: the sum of the masks transformers makes."""
    model = build(c).to(device).eval()
    pairs = []

    def look(module, args, kwargs):
        mask = kwargs.get("attention_mask")
        if mask is not None and mask.dim() == 4:
            allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
            pairs.append(int(allowed[0, 0].sum()))

    if model.config.model_type in ("vit", "bert", "t5"):
        return None
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(look, with_kwargs=True)
    with torch.no_grad():
        model(**inputs(model.config, device))
    return pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only")
    parser.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden"))
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    transformers.logging.set_verbosity_error()
    # Those of the other release would be something else here.
    here = [name for name in CASES if (name == "t5-untied" or name.endswith("-modules")) == transformers.__version__.startswith("4.")]
    for name in args.only.split(",") if args.only else here:
        c = CASES[name]
        config = build(c).config
        written = config.to_dict()
        written.pop("_name_or_path", None)
        result = {
            "case": name,
            "made_by": "tests/estimate/record.py",
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
            "device": args.device,
            "config": written,
            "rows": ROWS,
            "length": LENGTH if config.model_type != "vit" else (config.image_size // config.patch_size) ** 2 + 1,
            "decoder_length": DECODER_LENGTH if c["model"] == "T5ForConditionalGeneration" else None,
            "rank": 8,
            "mask_pairs": mask_pairs(c, args.device),
            "counted": [count(c, method, checkpointing, args.device) for method in ("full", "lora", "frozen") for checkpointing in (False, True)]
            + [count(c, "lora", checkpointing, args.device, adapters) for adapters in c["adapters"] for checkpointing in (False, True)]
            + [count(c, "frozen", True, args.device, below=trained) for trained in BELOW.get(name, ())],
        }
        with open(os.path.join(args.out, f"{name}.json"), "w") as f:
            json.dump(result, f, indent=1)
            f.write("\n")
        print(name, [(r["method"], r["checkpointing"], r["forward"], r["backward"]) for r in result["counted"]], flush=True)


if __name__ == "__main__":
    main()
