"""Programs whose floating-point operations are known, for `run.py`.

    python3 workload.py MODE TRUTH_FILE [SECONDS]

Each writes {"flop": N, ...} to TRUTH_FILE. Shapes are multiples of every library's tiles, so that what is executed is 2*M*N*K to the unit.
"""

import json
import os
import sys
import time

M, N, K = 4096, 2048, 1024
FLOP = 2 * M * N * K


def write(path, flop, **more):
    with open(path, "w") as f:
        json.dump({"flop": flop, **more}, f)


def operands():
    import torch

    torch.manual_seed(1)
    return tuple(torch.randn(s, device="cuda", dtype=torch.bfloat16) for s in ((M, K), (K, N)))


def loop(seconds, step, per_step):
    """Calls `step` for so long, 100 at a time; returns FLOP."""
    import torch

    calls, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        for _ in range(100):
            step()
        calls += 100
        torch.cuda.synchronize()
    return calls * per_step


def eager(path, seconds):
    a, b = operands()
    write(path, loop(seconds, lambda: a @ b, FLOP))


def compiled(path, seconds):
    import torch

    a, b = operands()
    f = torch.compile(lambda a, b: torch.relu(a @ b))
    f(a, b)
    write(path, FLOP + loop(seconds, lambda: f(a, b), FLOP))


def cuda_graph(path, seconds):
    import torch

    a, b = operands()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        a @ b
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            a @ b
    write(path, FLOP + loop(seconds, graph.replay, 10 * FLOP))


def streams(path, seconds):
    import torch

    a, b = operands()
    torch.cuda.synchronize()
    two = [torch.cuda.Stream(), torch.cuda.Stream()]

    def step():
        for s in two:
            with torch.cuda.stream(s):
                a @ b

    write(path, loop(seconds, step, 2 * FLOP))


def jax(path, seconds):
    # XLA's autotuning executes products of its own, which are real and would not be in the truth. Without it, its Triton products use mma.sync, which
    # takes turns: this check is of the framework, so cuBLAS's wgmma it is.
    os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    import jax
    import jax.numpy as jnp

    a = jnp.ones((M, K), jnp.bfloat16)
    b = jnp.ones((K, N), jnp.bfloat16)
    f = jax.jit(lambda a, b: a @ b)
    calls, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        for _ in range(100):
            c = f(a, b)
        calls += 100
        c.block_until_ready()
    write(path, calls * FLOP)


def fork(path, seconds):
    import torch  # noqa: F401  imported, not started: CUDA begins in the child

    child = os.fork()
    if child == 0:
        eager(path, seconds)
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def spawn(path, seconds):
    import torch.multiprocessing as mp

    process = mp.get_context("spawn").Process(target=eager, args=(path, seconds))
    process.start()
    process.join()
    sys.exit(process.exitcode)


def ranks(path, seconds):
    """A rank of a job on several GPUs, as torchrun starts it: products, and sums over all ranks by NCCL. Each writes a file of its own, PATH.RANK."""
    import torch
    import torch.distributed as dist

    rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl")
    a, b = operands()
    calls, start = 0, time.monotonic()
    going = torch.ones(1, device="cuda")
    while going.item():
        for _ in range(100 + 100 * rank):
            c = a @ b
        dist.all_reduce(c)
        calls += 100 + 100 * rank
        # All go on for as long as the first.
        going.fill_(float(time.monotonic() - start < seconds))
        dist.broadcast(going, 0)
    torch.cuda.synchronize()
    write(f"{path}.{rank}", calls * FLOP)
    dist.destroy_process_group()


def two_gpus(path, seconds):
    """One process that uses two GPUs, the second twice as much."""
    import torch

    pairs = [(a.to(f"cuda:{i}"), b.to(f"cuda:{i}")) for a, b in [operands()] for i in range(2)]
    calls, start = [0, 0], time.monotonic()
    while time.monotonic() - start < seconds:
        for device, (a, b) in enumerate(pairs):
            for _ in range(50 + 50 * device):
                a @ b
            calls[device] += 50 + 50 * device
        for device in range(2):
            torch.cuda.synchronize(device)
    write(path, sum(calls) * FLOP, each=[n * FLOP for n in calls])


def kineto(path, seconds):
    """Three profiles of 500 products inside the run."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    a, b = operands()
    calls, events, start = 0, [], time.monotonic()
    while time.monotonic() - start < seconds or len(events) < 3:
        for _ in range(100):
            a @ b
        calls += 100
        torch.cuda.synchronize()
        if len(events) < 3 and time.monotonic() - start > 2 * (len(events) + 1):
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as p:
                for _ in range(500):
                    a @ b
                torch.cuda.synchronize()
            calls += 500
            events.append(sum(1 for e in p.events() if str(e.device_type).endswith("CUDA")))
    write(path, calls * FLOP, events=events, expected=500)


if __name__ == "__main__":
    mode, path = sys.argv[1], sys.argv[2]
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 5.0
    {f.__name__: f for f in (eager, compiled, cuda_graph, streams, jax, fork, spawn, ranks, two_gpus, kineto)}[mode](path, seconds)
