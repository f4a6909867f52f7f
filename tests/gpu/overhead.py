"""What the meter costs: the same work in whole processes, metered and bare in alternation.

    python3 overhead.py --lib LIBRARY --out DIR [--pairs 16]

A parent that has imported torch and not started CUDA forks a child for each run; the metered ones have CUDA_INJECTION64_PATH set, the bare ones do not, and
that is the only difference. A metered child warms up until the meter's survey is over and a window of some seconds has just ended, so that the next one,
twice as long, holds the works; the bare ones warm up as long as the last metered one. Then it times four works, repetition by repetition: a training step
of a Llama shape of about 1 B parameters in mixed precision (GPU-bound), one of about 220 M (launch-bound), 2000 tiny kernels, and a large matrix product
that takes the chip to its power limit. A work's time is the lower quartile of its repetitions: what the meter adds to each of them is in it, other tenants of the machine's
processors are not. Prints one JSON object: per work the ratios metered/bare of the pairs, and the time of a window boundary.
"""

import argparse
import json
import os
import statistics
import time
import traceback

# The shortest window after which the works begin: they take some 5 s, and the next window is as long as the run is old.
LAST_S = 2.5
# From then until the works begin: a boundary that has just begun is over by then.
SETTLE_S = 0.3


def llama(layers, hidden, heads, mlp, vocab=32000):
    """A decoder of Llama's shape."""
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
    with torch.device("cuda"):
        model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(ids):
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

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
    """Whether the survey is over and a window that was long enough has just ended."""
    seen = windows(folder)
    return len({w.get("group") for w in seen}) > 1 and seen[-1]["end_ns"] - seen[-1]["start_ns"] > LAST_S * 1e9


def child(path, warm_s, evidence):
    """Warms up, times, writes seconds of each work."""
    import torch

    began = time.monotonic()
    # Tensor cores first: the survey of the counters follows their first work.
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(100):
        a @ a
    big, big_n = llama(16, 2048, 16, 5632)
    small, small_n = llama(12, 1024, 16, 2816)
    ids_big, ids_small = torch.randint(0, 32000, (4, 2048), device="cuda"), torch.randint(0, 32000, (8, 1024), device="cuda")
    x = torch.zeros(1, device="cuda")

    def tiny():
        for _ in range(2000):
            x.add_(1)

    def product():
        for _ in range(20):
            a @ a

    works = {"gpu_bound": (lambda: big(ids_big), 15), "launch_bound": (lambda: small(ids_small), 30), "tiny": (tiny, 50), "product": (product, 25)}
    for work, _ in works.values():
        work()
    torch.cuda.synchronize()
    while not steady(evidence) if evidence else time.monotonic() - began < warm_s:
        big(ids_big)
        torch.cuda.synchronize()
        if time.monotonic() - began > 30:
            raise RuntimeError(f"no long window after 30 s: {[(w.get('group'), w['start_ns'], w['end_ns']) for w in windows(evidence)]}")
    settled = time.monotonic() + SETTLE_S
    while time.monotonic() < settled:
        big(ids_big)
        torch.cuda.synchronize()
    result = {"parameters": [big_n, small_n], "times": {}, "warm_s": time.monotonic() - began, "from_ns": time.monotonic_ns()}
    for name, (work, times) in works.items():
        work()
        torch.cuda.synchronize()
        took = []
        for _ in range(times):
            start = time.perf_counter()
            work()
            torch.cuda.synchronize()
            took.append(time.perf_counter() - start)
        result["times"][name] = statistics.quantiles(took, n=4)[0]
    result["to_ns"] = time.monotonic_ns()
    with open(path, "w") as f:
        json.dump(result, f)


def run(library, out, index, metered, warm_s):
    path = os.path.join(out, "child.json")
    pid = os.fork()
    if pid == 0:
        try:
            evidence = os.path.join(out, f"evidence-{index}") if metered else None
            if metered:
                os.environ["CUDA_INJECTION64_PATH"] = library
                os.environ["FLOPSPROF_OUT"] = evidence
            child(path, warm_s, evidence)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    with open(path) as f:
        result = json.load(f)
    os.remove(path)
    return result


def boundaries(folder):
    """Milliseconds of the boundaries between windows of one group, after the first seconds."""
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
    parser.add_argument("--pairs", type=int, default=16)
    # Of the bare child of the first pair, which comes before any metered one.
    parser.add_argument("--warm", type=float, default=7)
    args = parser.parse_args()
    import torch  # noqa: F401  imported once, for all children; CUDA is not started here

    os.makedirs(args.out, exist_ok=True)
    pairs, took, parameters, warm_s, inside = [], [], None, args.warm, 0
    for index in range(args.pairs):
        # Who comes first alternates, so that a drift of the machine favours neither.
        order = [True, False] if index % 2 else [False, True]
        pair = {}
        for metered in order:
            pair[metered] = run(args.lib, args.out, index, metered, warm_s)
            warm_s = pair[True]["warm_s"] if metered else warm_s
        evidence = windows(os.path.join(args.out, f"evidence-{index}"))
        inside += sum(pair[True]["from_ns"] < w["end_ns"] < pair[True]["to_ns"] for w in evidence)
        parameters = pair[True]["parameters"]
        took += boundaries(os.path.join(args.out, f"evidence-{index}"))
        pairs.append({m: pair[m]["times"] for m in pair})
        print(index, round(warm_s, 1), {w: round(pairs[-1][True][w] / pairs[-1][False][w], 5) for w in pairs[-1][True]}, flush=True)
    ratios = {w: [p[True][w] / p[False][w] for p in pairs] for w in pairs[0][True]}
    steps = {w: statistics.median(p[False][w] for p in pairs) for w in pairs[0][True]}
    print(json.dumps({"ratios": ratios, "bare_s": steps, "boundary_ms": took, "inside": inside, "warm_s": warm_s, "parameters": parameters}))


if __name__ == "__main__":
    main()
