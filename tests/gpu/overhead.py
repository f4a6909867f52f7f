"""What the meter costs: the same work in a metered and in a bare process, both alive, in alternation.

    python3 overhead.py --lib LIBRARY --out DIR [--couples 2] [--controls 1] [--pairs 16] [--works gpu_bound,...] [--cupti libcupti.so.13]

A couple is two processes forked from a parent that has imported torch and not started CUDA. One has CUDA_INJECTION64_PATH set, and that is the only difference; which
of them is there first alternates from couple to couple. In a control neither has it: what its pairs differ by is what pairs differ by anyway.
They take turns on the GPU and on the same few processors, a block of a work each, so that temperature, clocks and other tenants of the machine change for both alike (left to
the scheduler, processes of one program on a virtual machine of 16 processors took 22 to 28 ms of CPU for the same step): a pair is a
metered block and the bare block beside it, and the one who comes first alternates. The works: a training step of a Llama shape of about 1 B parameters in mixed precision, few and wide layers so that the CPU is far
ahead of the GPU, on four rows of 2048 tokens, waited for every four; the same with weights of zero (the same kernels, launches and operations, but a chip at its power limit no longer:
there the clock moves and pairs scatter by 1 to 2 %, here it stands still); with as many launches in a quarter of the time, on one row of 1024, waited for every ten; a step of about 220 M in deeper layers (launch-bound: the CPU is hardly faster than the GPU), 2000 tiny kernels, and large
matrix products. Beside the time the SM's own cycles are taken: they do not scatter with the clock.

What an open counter session does to the whole chip the bare process would feel too: `session_cost.py` looks for that.

Prints one JSON object: per work the ratios metered/bare of the pairs, the bare seconds, and the times of window boundaries and of changes of the group of counters.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
import traceback

# The metered process works until its survey is over and a window of so many seconds has ended: the meter is at its steady work then.
STEADY_S = 2.0
# Repetitions in a block: half a second or so, long against what switching between the processes disturbs.
BLOCK = {"gpu_bound": 1, "gpu_bound_zeros": 1, "gpu_bound_short": 2, "launch_bound": 12, "tiny": 24, "product": 12}
# Steps in a repetition, where it is not one: waited for now and then, as trainers do when they log.
EACH = {"gpu_bound": 4, "gpu_bound_zeros": 4, "gpu_bound_short": 10}
# The works of the one big model, and whether its weights are what a training begins with.
OF_BIG = {"gpu_bound": True, "gpu_bound_zeros": False, "gpu_bound_short": True}
# Processors for both: the launching thread, autograd's and the meter's, and one for the system.
PROCESSORS = 4
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

    step.model, step.optimizer = model, optimizer
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


def works(asked):
    """A step of each of these works, and the parameters of the models by work."""
    import torch

    def ids(*shape):
        return torch.randint(0, 32000, shape, device="cuda")

    steps, parameters = {}, {}
    if set(OF_BIG) & set(asked):
        big, parameters["gpu_bound"] = llama(*BIG)
        four, one, filled = ids(4, 2048), ids(1, 1024), True

        def fill(random):
            """Weights, gradients and moments as a training begins, or none but zeros: two such models would not fit twice. The change falls into a step that is not measured."""
            nonlocal filled
            if filled != random:
                filled = random
                big.optimizer.state.clear()
                with torch.no_grad():
                    for p in big.model.parameters():
                        if p.dim() > 1:
                            p.normal_(0, 0.02) if random else p.zero_()

        def of(name, rows):
            def step():
                fill(OF_BIG[name])
                big(rows)

            return step

        steps |= {name: of(name, rows) for name, rows in (("gpu_bound", four), ("gpu_bound_zeros", four), ("gpu_bound_short", one))}
    if "launch_bound" in asked:
        small, parameters["launch_bound"] = llama(12, 1024, 16, 2816)
        eight = ids(8, 1024)
        steps["launch_bound"] = lambda: small(eight)
    a, x = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16), torch.zeros(1, device="cuda")

    def tiny():
        for _ in range(2000):
            x.add_(1)

    def product():
        for _ in range(20):
            a @ a

    steps |= {"tiny": tiny, "product": product}
    return {name: steps[name] for name in asked}, parameters


CLOCKS = """
extern "C" __global__ void clocks(long long *now) {
    unsigned sm;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(sm));
    now[sm] = clock64();
}
"""


def cycles():
    """A function that has each SM note its own clock, and one for the median of what they ran between two notes; none where torch cannot compile it."""
    import torch

    try:
        kernel, sms = torch.cuda._compile_kernel(CLOCKS, "clocks"), torch.cuda.get_device_properties(0).multi_processor_count

        def note():
            now = torch.zeros(2 * sms, dtype=torch.int64, device="cuda")
            kernel(grid=(8 * sms, 1, 1), block=(32, 1, 1), args=[now])
            return now

        def between(a, b):
            return (b - a)[(a != 0) & (b != 0)].median().item()

        between(note(), note())
        return note, between
    except Exception:
        traceback.print_exc()
        return lambda: None, lambda a, b: None


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

    def __init__(self, asked, library=None, evidence=None, cupti=None):
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
                self.serve(asked, os.fdopen(ask), os.fdopen(answer, "w"))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(ask)
        os.close(answer)
        self.ask, self.answer = os.fdopen(self.ask, "w"), os.fdopen(self.answer)
        self.parameters = json.loads(self.answer.readline())

    @staticmethod
    def serve(asked, ask, answer):
        import torch

        todo, parameters = works(asked)
        for step in todo.values():
            step()
        note, between = cycles()
        torch.cuda.synchronize()
        print(json.dumps(parameters), file=answer, flush=True)
        for line in ask:
            name, times = line.split()
            step, took, steps = todo[name], [], EACH.get(name, 1)
            step()  # the other process was on the GPU: caches are its
            begun = note()
            torch.cuda.synchronize()
            for _ in range(int(times)):
                start = time.perf_counter()
                for _ in range(steps):
                    step()
                torch.cuda.synchronize()
                took.append((time.perf_counter() - start) / steps)
            ran = between(begun, note())
            print(json.dumps({"took": took, "cycles": ran and ran / int(times) / steps, "power_w": power_w()}), file=answer, flush=True)

    def run(self, name, times):
        """Seconds of a step, the median of so many repetitions, and its SM cycles, where they can be had."""
        print(name, times, file=self.ask, flush=True)
        said = json.loads(self.answer.readline())
        POWER.setdefault(name, []).append(said["power_w"])
        return statistics.median(said["took"]), said["cycles"]

    def end(self):
        self.ask.close()
        os.waitpid(self.pid, 0)


class Pairs:
    """Of a work: ratios of the pairs by time and by cycles, and what the bare step took."""

    def __init__(self):
        self.ratios, self.in_cycles, self.bare_s = [], [], []

    def add(self, metered, bare):
        self.ratios.append(metered[0] / bare[0])
        self.bare_s.append(bare[0])
        if metered[1] and bare[1]:
            self.in_cycles.append(metered[1] / bare[1])

    def as_json(self):
        return vars(self)


def crossed(ratios):
    """Of each pair with the bare block first and the one after it, with the metered block first, the geometric mean: what the second of a pair finds (a warmer chip, a lower clock) is in neither."""
    return [math.sqrt(a * b) for a, b in zip(ratios[::2], ratios[1::2])]


def standard_error(values):
    """Of the median of so many values, by their quartiles, as if they were normally distributed."""
    low, _, high = statistics.quantiles(values, n=4)
    return 1.2533 * (high - low) / 1.349 / math.sqrt(len(values))


def couple(asked, index, meter, pairs, into):
    """A metered and a bare process, or, without a meter, two bare ones, the `index`th of all; adds their pairs. Returns the folder of evidence, where it was when
    the metered one was alone, and parameters. Of a couple without a meter the first takes the metered one's place."""
    children = {}
    for which in ("metered", "bare") if index % 2 else ("bare", "metered"):
        children[which] = Child(asked, *(meter if meter and which == "metered" else ()))
        if which == "metered" and meter:
            began = time.monotonic()
            while not steady(meter[1]):
                children[which].run(asked[0], 2)
                if time.monotonic() - began > 30:
                    raise RuntimeError(f"no long window after 30 s: {[(w.get('group'), w['start_ns'], w['end_ns']) for w in windows(meter[1])]}")
    # From here on the other process is on the GPU too, and a boundary waits for its turn there.
    took = boundaries(meter[1]) if meter else ([], [])
    for name in asked:
        for pair in range(pairs):
            # Who comes first alternates, so that what the second finds favours neither.
            order = ("metered", "bare") if pair % 2 else ("bare", "metered")
            block = {which: children[which].run(name, BLOCK[name]) for which in order}
            into[name].add(block["metered"], block["bare"])
    # The second holds the first's pipe open, as it was there when it was forked.
    for child in reversed(children.values()):
        child.end()
    return took, children["bare"].parameters


def boundaries(folder):
    """Milliseconds of the boundaries between windows of one group, and of those to another group."""
    same, other, before = [], [], None
    for record in windows(folder):
        if before is not None:
            (same if record.get("group") == before else other).append(record["opened"]["took_ns"] / 1e6)
        before = record.get("group")
    return same, other


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lib", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--couples", type=int, default=2)
    parser.add_argument("--controls", type=int, default=1, help="couples of two bare processes")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--cupti", help="count by this libcupti")
    parser.add_argument("--works", default=",".join(BLOCK), help="these alone")
    args = parser.parse_args()
    if args.pairs % 2:
        parser.error("--pairs: an even number, since the order alternates from pair to pair")
    import torch  # noqa: F401  imported once, for all children; CUDA is not started here

    os.makedirs(args.out, exist_ok=True)
    on_few_processors()
    asked = args.works.split(",")
    pairs, control = ({name: Pairs() for name in asked} for _ in range(2))
    boundary_ms, change_ms = [], []
    for index in range(args.couples + args.controls):
        meter = (args.lib, os.path.join(args.out, f"evidence-{index}"), args.cupti) if index < args.couples else None
        into = pairs if meter else control
        (same, other), parameters = couple(asked, index, meter, args.pairs, into)
        boundary_ms += same
        change_ms += other
        print(index, "metered" if meter else "control", *(f"{n} {statistics.median(p.ratios[-args.pairs :]):.5f} {statistics.median(p.in_cycles[-args.pairs :] or [0]):.5f}" for n, p in into.items()), file=sys.stderr, flush=True)
    said = {"pairs": {n: p.as_json() for n, p in pairs.items()}, "control": {n: p.as_json() for n, p in control.items()}}
    print(json.dumps(said | {"boundary_ms": boundary_ms, "change_ms": change_ms, "parameters": parameters, "power_w": {n: statistics.median([w for w in p if w] or [0]) for n, p in POWER.items()}}))


if __name__ == "__main__":
    main()
