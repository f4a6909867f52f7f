"""What the meter costs: the same work in a metered and in a bare process, both alive, in alternation.

    python3 overhead.py --lib LIBRARY --out DIR [--couples 2] [--pairs 16] [--works gpu_bound,...] [--cupti libcupti.so.13]

A couple is two processes forked from a parent that has imported torch and not started CUDA. One has CUDA_INJECTION64_PATH set, and that is the only difference.
They take turns on the GPU and on the same few processors, a block of a work each, so that temperature, clocks and other tenants of the machine change for both alike (left to
the scheduler, processes of one program on a virtual machine of 16 processors took 22 to 28 ms of CPU for the same step): a pair is a
metered block and the bare block beside it. The works: a training step of a Llama shape of about 1 B parameters in mixed precision, few and wide layers so that the CPU is far
ahead of the GPU, on one row of 1024 tokens, waited for every ten, and on four of 2048 (at the power limit of an H100, where the clock moves and pairs scatter by 1 %); a step of about
220 M in deeper layers (launch-bound: the CPU is hardly faster than the GPU), 2000 tiny kernels, and large matrix products.

What an open counter session does to the whole chip the bare process would feel too. So the bare process also times the GPU-bound step while no
metered process is alive yet: `beside_meter` is its time beside the metered one over its time alone.

Prints one JSON object: per work the ratios metered/bare of the pairs, the bare seconds, and the time of a window boundary.
"""

import argparse
import json
import os
import statistics
import sys
import time
import traceback

# The metered process works until its survey is over and a window of so many seconds has ended: the meter is at its steady work then.
STEADY_S = 2.0
# Repetitions in a block: half a second or so, long against what switching between the processes disturbs.
BLOCK = {"gpu_bound": 2, "gpu_bound_full": 4, "launch_bound": 12, "tiny": 24, "product": 12}
# Steps in a repetition, where it is not one.
EACH = {"gpu_bound": 10}
# The bare process alone.
ALONE = 5
# Processors for both: the launching thread, autograd's and the meter's.
PROCESSORS = 3
# Layers, hidden size, heads and MLP of 1.07 B parameters.
BIG = (4, 4096, 32, 11008)


def llama(layers, hidden, heads, mlp, vocab=32000, device="cuda"):
    """A decoder of Llama's shape: its training step, which carries the model, and its parameters."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.n1, self.n2 = nn.RMSNorm(hidden), nn.RMSNorm(hidden)
            self.qkv, self.o = nn.Linear(hidden, 3 * hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
            self.up, self.gate, self.down = (nn.Linear(*s, bias=False) for s in ((hidden, mlp), (hidden, mlp), (mlp, hidden)))

        def forward(self, x):
            b, s, _ = x.shape
            q, k, v = (t.view(b, s, heads, -1).transpose(1, 2) for t in self.qkv(self.n1(x)).chunk(3, -1))
            x = x + self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, s, hidden))
            h = self.n2(x)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.blocks = nn.Embedding(vocab, hidden), nn.ModuleList(Block() for _ in range(layers))
            self.norm, self.head = nn.RMSNorm(hidden), nn.Linear(hidden, vocab, bias=False)

        def forward(self, ids):
            x = self.embed(ids)
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    torch.manual_seed(0)
    with torch.device(device):
        model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(ids):
        with torch.autocast(device, torch.bfloat16):
            loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step.model = model
    return step, sum(p.numel() for p in model.parameters())


def windows(folder):
    """The windows in the evidence so far, in order."""
    found = []
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        with open(os.path.join(folder, name)) as f:
            for line in f:
                if '"type":"window"' in line and line.endswith("\n"):
                    found.append(json.loads(line))
    return found


def steady(folder):
    """Whether the survey is over and a window that was long enough has ended."""
    seen = windows(folder)
    return len({w.get("group") for w in seen}) > 1 and seen[-1]["end_ns"] - seen[-1]["start_ns"] > STEADY_S * 1e9


def works():
    """The works by name, and the parameters of the two models."""
    import torch

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    big, big_n = llama(*BIG)
    small, small_n = llama(12, 1024, 16, 2816)
    ids_one, ids_four = (torch.randint(0, 32000, shape, device="cuda") for shape in ((1, 1024), (4, 2048)))
    ids_small = torch.randint(0, 32000, (8, 1024), device="cuda")
    x = torch.zeros(1, device="cuda")

    def tiny():
        for _ in range(2000):
            x.add_(1)

    def product():
        for _ in range(20):
            a @ a

    def gpu_bound():
        # Waited for now and then, as trainers do when they log.
        for _ in range(EACH["gpu_bound"]):
            big(ids_one)

    return {"gpu_bound": gpu_bound, "gpu_bound_full": lambda: big(ids_four), "launch_bound": lambda: small(ids_small), "tiny": tiny, "product": product}, [big_n, small_n]


def on_few_processors():
    """Keeps this process to the last few of its processors: the first get more interrupts."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-PROCESSORS:])


#: Power just after each block, by work.
POWER = {}


def power_w():
    """NVML's reading, an average of its own over a second or less; none where it cannot be had."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetPowerUsage(pynvml.nvmlDeviceGetHandleByIndex(0)) / 1000
    except Exception:
        return None


class Child:
    """A process that does a work so many times when it is told to, and says how long each took."""

    def __init__(self, library=None, evidence=None, cupti=None):
        ask, self.ask = os.pipe()
        self.answer, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                if library:
                    os.environ["CUDA_INJECTION64_PATH"] = library
                    os.environ["FLOPSPROF_OUT"] = evidence
                    os.environ.update({"FLOPSPROF_CUPTI": cupti} if cupti else {})
                os.close(self.ask)
                self.serve(os.fdopen(ask), os.fdopen(answer, "w"))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(ask)
        os.close(answer)
        self.ask, self.answer = os.fdopen(self.ask, "w"), os.fdopen(self.answer)
        self.parameters = json.loads(self.answer.readline())

    @staticmethod
    def serve(ask, answer):
        import torch

        todo, parameters = works()
        for work in todo.values():
            work()
        torch.cuda.synchronize()
        print(json.dumps(parameters), file=answer, flush=True)
        for line in ask:
            name, times = line.split()
            work, took = todo[name], []
            work()  # the other process was on the GPU: caches are its
            torch.cuda.synchronize()
            for _ in range(int(times)):
                start = time.perf_counter()
                work()
                torch.cuda.synchronize()
                took.append(time.perf_counter() - start)
            print(json.dumps({"took": took, "power_w": power_w()}), file=answer, flush=True)

    def run(self, name, times):
        """Seconds of each repetition."""
        print(name, times, file=self.ask, flush=True)
        said = json.loads(self.answer.readline())
        POWER.setdefault(name, []).append(said["power_w"])
        return said["took"]

    def end(self):
        self.ask.close()
        os.waitpid(self.pid, 0)


def couple(library, evidence, cupti, pairs, ratios, bare_s):
    """One metered and one bare process; adds the ratios of their pairs. Returns the bare process's step beside the metered one over alone, the metered
    one's boundaries (ms) while it was alone, and parameters."""
    bare = Child()
    alone = statistics.median(bare.run("gpu_bound", ALONE)) / EACH["gpu_bound"]
    metered = Child(library, evidence, cupti)
    began = time.monotonic()
    while not steady(evidence):
        metered.run("gpu_bound", 2)
        if time.monotonic() - began > 30:
            raise RuntimeError(f"no long window after 30 s: {[(w.get('group'), w['start_ns'], w['end_ns']) for w in windows(evidence)]}")
    # From here on the other process is on the GPU too, and a boundary waits for its turn there.
    took = boundaries(evidence)
    beside = []
    for name in ratios:
        times = BLOCK[name]
        for index in range(pairs):
            # Who comes first alternates, so that what the second finds favours neither.
            order = (metered, bare) if index % 2 else (bare, metered)
            block = {child: statistics.median(child.run(name, times)) / EACH.get(name, 1) for child in order}
            ratios[name].append(block[metered] / block[bare])
            bare_s[name].append(block[bare])
            beside += [block[bare]] if name == "gpu_bound" else []
    metered.end()
    bare.end()
    return statistics.median(beside) / alone if beside else None, took, bare.parameters


def boundaries(folder):
    """Milliseconds of the boundaries between windows of one group."""
    took, before = [], None
    for record in windows(folder):
        if before is not None and record.get("group") == before:
            took.append(record["opened"]["took_ns"] / 1e6)
        before = record.get("group")
    return took


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lib", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--couples", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--cupti", help="count by this libcupti")
    parser.add_argument("--works", default=",".join(BLOCK), help="these alone")
    args = parser.parse_args()
    import torch  # noqa: F401  imported once, for all children; CUDA is not started here

    os.makedirs(args.out, exist_ok=True)
    asked = args.works.split(",")
    ratios, bare_s, took, beside = {n: [] for n in asked}, {n: [] for n in asked}, [], []
    for index in range(args.couples):
        evidence = os.path.join(args.out, f"evidence-{index}")
        share, boundary_ms, parameters = couple(args.lib, evidence, args.cupti, args.pairs, ratios, bare_s)
        beside.append(share)
        took += boundary_ms
        print(index, {n: round(statistics.median(r[-args.pairs :]), 5) for n, r in ratios.items()}, "beside", share, file=sys.stderr, flush=True)
    bare_s = {n: statistics.median(s) for n, s in bare_s.items()}
    print(json.dumps({"ratios": ratios, "bare_s": bare_s, "beside_meter": beside, "boundary_ms": took, "parameters": parameters, "power_w": {n: statistics.median([w for w in p if w] or [0]) for n, p in POWER.items()}}))


if __name__ == "__main__":
    main()
