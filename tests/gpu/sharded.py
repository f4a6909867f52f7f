"""A sharded training whose parameters and tokens are known, for `run.py`.

    python3 -m torch.distributed.run --standalone --nproc-per-node 2 sharded.py MODE TRUTH_FILE [--tiny]

Modes are fsdp1 (original parameters, each a view of its shard: what the Trainer does by default), fsdp1_flat (one flat parameter to a layer), fsdp2 and zero3 (by DeepSpeed).
Each rank writes a file of its own, TRUTH_FILE.RANK: parameters of the model before it was sharded, and tokens that it was given. Weights and tokens are made up.
`--tiny` tries the script on CPUs over gloo, and fails where what the callback says is not that.
"""

import argparse
import json
import os
import random
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "python"))

MODES = ["fsdp1", "fsdp1_flat", "fsdp2", "zero3"]
WRAPPERS = {"fsdp1": "FullyShardedDataParallel", "fsdp1_flat": "FullyShardedDataParallel", "fsdp2": "FSDPLlamaForCausalLM", "zero3": "DeepSpeedEngine"}
#: Llama of 194 M. Its norms are of a size that FSDP pads to align what follows them: pads are not parameters.
LLAMA = {"hidden_size": 1020, "head_dim": 64, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4, "vocab_size": 32000}
TINY = {"hidden_size": 66, "head_dim": 16, "intermediate_size": 131, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 512}
STEPS, BATCH = 8, 4


def rows(length, count, vocabulary):
    """Rows of all lengths, padded to one."""
    import torch

    made_up = random.Random(7)
    for _ in range(count):
        real = made_up.randrange(length // 8, length)
        ids = [made_up.randrange(3, vocabulary) for _ in range(length)]
        row = {"input_ids": ids, "attention_mask": [1] * real + [0] * (length - real), "labels": ids[:real] + [-100] * (length - real)}
        yield {k: torch.tensor(v) for k, v in row.items()}


def sharding(mode, tiny):
    """How the Trainer is told to shard."""
    if mode == "zero3":
        # Elements below which a parameter is kept whole: none, so that all are partitioned.
        zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
        return {"deepspeed": {"zero_optimization": zero, "bf16": {"enabled": "auto"}, "train_micro_batch_size_per_gpu": "auto", "zero_allow_untested_optimizer": True}}
    config = {"version": 2 if mode == "fsdp2" else 1, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}
    if mode != "fsdp2":
        config["use_orig_params"] = mode == "fsdp1"
        if tiny:
            # For this accelerate asks for a GPU; all ranks make up the same weights anyway.
            config["sync_module_states"] = False
    return {"fsdp": "full_shard auto_wrap", "fsdp_config": config}


def train(mode, truth, tiny, folder):
    import torch
    import torch.distributed as dist
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    from flopsprof import FlopsProfCallback

    transformers.logging.set_verbosity_error()
    shape, length = (TINY, 32) if tiny else (LLAMA, 512)
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=length, bos_token_id=1, eos_token_id=2))
    # Whole layers, since a flat parameter is trained or is not.
    for layer in model.model.layers[: shape["num_hidden_layers"] // 3]:
        layer.requires_grad_(False)
    if mode != "fsdp1_flat":
        model.model.embed_tokens.requires_grad_(False)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    true = [sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)]

    class Counted(Trainer):
        """Counts what this rank is given, by the masks and not by the callback, and what it holds of the model."""

        tokens, held = 0, 0

        def training_step(self, model, inputs, *args, **kwargs):
            self.tokens += int(inputs["attention_mask"].sum())
            self.held = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in model.parameters())
            return super().training_step(model, inputs, *args, **kwargs)

    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        bf16=not tiny,
        # accelerate has no DeepSpeed on the CPU that it knows of; so it takes each rank for the only one, and gives both the same rows.
        use_cpu=tiny and mode != "zero3",
        optim="adamw_torch",
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        **sharding(mode, tiny),
    )
    data = list(rows(length, STEPS * BATCH * dist.get_world_size(), shape["vocab_size"]))
    callback = FlopsProfCallback()
    trainer = Counted(model, arguments, train_dataset=data, callbacks=[callback])
    if tiny and mode != "zero3":
        # accelerate shards on GPUs alone, though FSDP would on CPUs as well.
        from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

        state = trainer.accelerator.state
        state.device = torch.device("cpu")
        state.fsdp_plugin, state.distributed_type = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args), DistributedType.FSDP
        trainer.is_fsdp_enabled = True
    trainer.train()
    rank, wrapper = dist.get_rank(), type(trainer.model_wrapped).__name__
    said = {"parameters": list(callback.account.model["parameters"].values()), "tokens": callback.tokens()[0]}
    with open(f"{truth}.{rank}", "w") as f:
        json.dump({"parameters": true, "tokens": trainer.tokens, "held": trainer.held, "wrapper": wrapper}, f)
    print(f"{mode}, rank {rank}: {wrapper} holds {trainer.held} of {true} parameters and was given {trainer.tokens} tokens; the callback says {said}", flush=True)
    # A training that was not sharded would show nothing.
    assert wrapper == WRAPPERS[mode] and trainer.held < true[0], (wrapper, trainer.held)
    assert not tiny or said == {"parameters": true, "tokens": trainer.tokens}, said
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("truth")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        train(args.mode, args.truth, args.tiny, folder)


if __name__ == "__main__":
    main()
