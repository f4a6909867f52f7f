"""A model that is really sharded, as the callback declares it, and rows that are really cut, as it counts them: FSDP2, tensor and context parallelism, two processes on the CPU.

    python3 -m torch.distributed.run --standalone --nproc-per-node 2 python/tests/sharded.py

Seen 2026-11-25 with torch 2.11, transformers 5.17, on both ranks: of 139584 parameters, 102720 of them trained, FSDP2 holds 69792 and tensor parallelism 131392, and both are
declared whole. Context parallelism cuts two rows of 16 tokens before the model is called: each rank is given 16 of the 32 and tells them (2026-11-26). FSDP1 and ZeRO-3: tests/gpu/sharded.py.
"""

import os
import sys
import tempfile
import types

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor.experimental import context_parallel  # noqa: E402
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from flopsprof import FlopsProfCallback, _model  # noqa: E402
from flopsprof._state import State  # noqa: E402


def model():
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2))
    for parameter in list(made.parameters())[:2]:
        parameter.requires_grad = False
    return made


def held(sharded):
    return sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in sharded.parameters())


dist.init_process_group("gloo")
whole, mesh = model(), init_device_mesh("cpu", (2,))
true = {"total": sum(p.numel() for p in whole.parameters()), "trainable": sum(p.numel() for p in whole.parameters() if p.requires_grad)}
fsdp, tensor = model(), model()
for layer in fsdp.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(fsdp, mesh=mesh)
parallelize_module(tensor, mesh, {"model.layers.*.mlp.up_proj": ColwiseParallel()})
for name, sharded in (("fsdp2", fsdp), ("tensor parallelism", tensor)):
    said = _model.read(sharded, None)["parameters"]
    print(f"rank {dist.get_rank()}, {name}: holds {held(sharded)} parameters, declares {said}", flush=True)
    assert held(sharded) < true["total"] and said == true, (name, said, true)

# torch has no such attention for the CPU, so the model has none.
embedding, cut = torch.nn.Embedding(64, 8), init_device_mesh("cpu", (2,), mesh_dim_names=("cp",))
embedding._device_mesh, rows = cut, torch.arange(32).view(2, 16)
callback, state = FlopsProfCallback(State()), types.SimpleNamespace(global_step=0, stateful_callbacks={})
callback.on_train_begin(types.SimpleNamespace(output_dir=tempfile.mkdtemp(), parallelism_config=types.SimpleNamespace(cp_size=2, sp_size=1)), state, None, model=embedding)
with context_parallel(cut, buffers=[rows], buffer_seq_dims=[1], no_restore_buffers={rows}):
    embedding(rows)
print(f"rank {dist.get_rank()}, context parallelism: the model is given {tuple(rows.shape)}, told {callback.tokens()}", flush=True)
assert callback.tokens() == (16, 16), callback.tokens()
dist.destroy_process_group()
