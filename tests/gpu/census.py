"""Checks of the census, of the kernels' table and of the budget, for `run.py` (`--only census,kernel,ncu,profilers,cores,budget,default`); and the programs that they run:

    python3 census.py profile|train|products|kineto TRUTH_FILE [ARGUMENTS]

Together they take about fourteen minutes on the device.
"""

import csv
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import overhead  # noqa: E402

# Rows, length and sizes of the training steps: a shape of 220 M parameters at one length, a small one at lengths that change from step to step, and one of 2.1 B in two wide layers on
# one short row, where the CPU is far ahead of the GPU and the GPU waits for its memory, and is below its power limit: at the limit (with 1024 tokens it was there, at 660 W) the clock
# went from 1846 to 1807 MHz within five minutes as the chip grew warm, and processes of the same program differed by 0.5 to 1 %.
SHAPES = {"whole": (8, 1024, (12, 1024, 16, 2816)), "small": (8, 1024, (4, 1024, 16, 2816)), "big": (1, 256, (2, 8192, 64, 22016))}
LENGTHS = [768, 832, 896, 960, 1088, 1152, 1216, 1280]


def write(path, **said):
    with open(path, "w") as f:
        json.dump(said, f)


# ---- programs


def trained(shape):
    """The step of a shape, for an input of its length or of another."""
    import torch

    rows, length, sizes = SHAPES[shape]
    step, _ = overhead.llama(*sizes)
    ids = {n: torch.randint(0, 32000, (rows, n), device="cuda") for n in [length, *LENGTHS]}
    return lambda n=length: step(ids[n])


def profile(path, *_):
    """How often a step launches each kernel, by torch.profiler; "lengths": a step of each length together, some of which take more launches than others."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    said = {}
    for name, shape, lengths in (("whole", "whole", None), ("small", "small", None), ("lengths", "small", LENGTHS)):
        step = trained(shape)
        lengths = lengths or [SHAPES[shape][1]]
        for n in [*lengths, *lengths, *lengths]:
            step(n)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as p:
            for n in lengths:
                step(n)
            torch.cuda.synchronize()
        names = {}
        for e in p.events():
            if str(e.device_type).endswith("CUDA") and not e.name.lower().startswith(("memcpy", "memset")):
                names[e.name] = names.get(e.name, 0) + 1
        said[name] = names
    write(path, **said)


def train(path, seconds, shape="whole", lengths="one", settle="0", each="1"):
    """Trains for so long, and waits for the GPU after each so many steps; says steps and their time, and those after `settle` seconds."""
    import torch

    step, order, steps = trained(shape), random.Random(1), 0
    cycle, began, late, all_s, lengths_of = [], time.monotonic(), [], 0.0, [SHAPES[shape][1]] if lengths == "one" else LENGTHS
    while time.monotonic() - began < float(seconds):
        if not cycle:
            cycle = lengths_of[:]
            if lengths == "all":
                order.shuffle(cycle)
        begun = time.monotonic()
        for _ in range(int(each)):
            cycle = cycle or lengths_of[:]
            step(cycle.pop())
        torch.cuda.synchronize()
        steps += int(each)
        took = time.monotonic() - begun
        all_s += took
        if begun - began > float(settle):
            late.append(took / int(each))
    write(path, steps=steps, all_s=all_s, late_s=sum(late), late_steps=len(late), median_s=statistics.median(late))


def products(path, seconds):
    """The same products and attention, 22 kernels, again and again; at 0 seconds once, between cudaProfilerStart and Stop."""
    import torch
    from torch.nn import functional as F

    torch.manual_seed(1)
    shapes = [(4096, 4096, 4096), (2048, 11008, 4096), (1000, 1000, 1000), (8192, 2048, 1024), (104, 304, 80)]
    shapes += [(1024 + 256 * i, 512 * (1 + i % 5), 640 + 128 * i) for i in range(16)]
    pairs = [tuple(torch.randn(s, device="cuda", dtype=torch.bfloat16) for s in ((m, k), (k, n))) for m, n, k in shapes]
    q = torch.randn(4, 16, 2048, 64, device="cuda", dtype=torch.bfloat16)

    def once():
        for a, b in pairs:
            a @ b
        F.scaled_dot_product_attention(q, q, q, is_causal=True)

    once()
    torch.cuda.synchronize()
    if float(seconds) == 0:
        torch.cuda.cudart().cudaProfilerStart()
        once()
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()
    began, rounds = time.monotonic(), 0
    while time.monotonic() - began < float(seconds):
        for _ in range(20):
            once()
        torch.cuda.synchronize()
        rounds += 20
    write(path, rounds=rounds)


def kineto(path, at, seconds):
    """Products for so long, with a profile of 500 of them at a moment."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    a = torch.randn(4096, 1024, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(1024, 2048, device="cuda", dtype=torch.bfloat16)
    began, events, calls = time.monotonic(), None, 0
    while time.monotonic() - began < float(seconds):
        for _ in range(100):
            a @ b
        calls += 100
        torch.cuda.synchronize()
        if events is None and time.monotonic() - began > float(at):
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as p:
                for _ in range(500):
                    a @ b
                torch.cuda.synchronize()
            calls += 500
            events = sum(1 for e in p.events() if str(e.device_type).endswith("CUDA"))
    write(path, events=events, calls=calls, flop=calls * 2 * 4096 * 1024 * 2048)


# ---- checks


class Run:
    """A program of this file, under the meter or bare, and what came of it."""

    def __init__(self, c, name, mode, *arguments, metered=True, timeout=560, **env):
        self.c, self.name, self.truth = c, name, os.path.join(c.args.out, "truth.json")
        command = [sys.executable, os.path.abspath(__file__), mode, self.truth, *map(str, arguments)]
        if os.path.exists(self.truth):
            os.remove(self.truth)
        if metered:
            self.status, _, _ = c.metered(name, command, timeout=timeout, **env)
        else:
            self.status = subprocess.run(command, env=c.env, timeout=timeout).returncode
        self.said = json.load(open(self.truth)) if self.status == 0 else None

    def records(self, kind):
        folder = os.path.join(self.c.evidence, self.name)
        lines = (json.loads(line) for file in sorted(os.listdir(folder)) if file.endswith(".jsonl") for line in open(os.path.join(folder, file)) if line.endswith("\n"))
        return [line for line in lines if line["type"] == kind]

    def censuses(self):
        return [k for k in self.records("kernels") if k.get("kernels") and not k.get("cores")]

    def kernels(self):
        done = subprocess.run([self.c.args.bin, "report", "--kernels=100000", "--json", os.path.join(self.c.evidence, self.name)], capture_output=True, text=True)
        return json.loads(done.stdout)


def counts(rows):
    """FLOP by path of rows or windows that carry counts."""
    total = {}
    for row in rows:
        for path, flop in row.get("counts", {}).items():
            total[path] = total.get(path, 0) + int(flop)
    return {path: flop for path, flop in total.items() if flop}


def adds_up(c, name, run):
    """Kernels and residual over the counted total; the census's launches over its window."""
    table, report = run.kernels(), c.report(run.name)
    total = sum(int(k["flop"]) for k in table["kernels"]) + int(table["residual"]["flop"])
    c.row(f"{name}.sum", abs(total / int(report["total"]["flop"]) - 1), 1e-6, "<=", residual=table["residual"]["share"])
    windows = {w["index"]: w for w in run.records("window")}
    wrong = sum(counts(k["kernels"]) != counts([windows[k["window"]]]) for k in run.censuses())
    c.row(f"{name}.window", wrong, 0, "==", censuses=len(run.censuses()))
    return table


def census(c):
    if c.args.stand_in:
        # The known-FLOP workload: the script's own road, not the device's.
        true, report, _ = c.demo("census", "--kernel", "wgmma_bf16,mma_fp16", "--seconds", "6", FLOPSPROF_CENSUS="3:100")
        run = Run.__new__(Run)
        run.c, run.name = c, "census"
        [one] = run.censuses()
        c.row("census.launches", one["launches"], 100, "==")
        c.row("census.ranges", one["ranges"] / one["launches"], 1, "==")
        adds_up(c, "census", run)
        return
    said = Run(c, "census-profile", "profile", metered=False).said
    made = said["whole"]
    step = sum(made.values())
    run = Run(c, "census", "train", 18, FLOPSPROF_CENSUS=f"5:{2 * step}")
    found = run.censuses()
    if not found:
        c.row("census.launches", None, 1, "==", why=[k.get("why") for k in run.records("kernels")])
        return
    one = found[0]
    spent = run.records("window")[-1]["spent"]["census_ns"] / 1e9
    # Launches seen are launches made, if a step's kernels come as often as torch.profiler says: as numbers, because both name them in their own way.
    seen = {}
    for k in one["kernels"]:
        seen[k["name"]] = seen.get(k["name"], 0) + k["launches"]
    c.row("census.launches", one["launches"] / (2 * step), 1, "==", step=step, why=one.get("why", ""), seconds=spent, ms_per_launch=1e3 * spent / one["launches"])
    c.row("census.ranges", one["ranges"] / one["launches"], 1, "==")
    c.row("census.kernels", int(sorted(seen.values()) == sorted(2 * n for n in made.values())), 1, "==", kinds=len(seen))
    c.row("census.named", sum(k["launches"] for k in one["kernels"] if k["name"]) / one["launches"], 1, "==")
    adds_up(c, "census", run)
    # Nothing was lost for it: every step executes what the two in the census did.
    always = counts(one["kernels"])
    total = counts(run.records("window"))
    c.row("census.total", max(abs(total[p] / (run.said["steps"] * always[p] / 2) - 1) for p in always), 1e-6, "<=", steps=run.said["steps"])
    c.row("census.durations", sum(len(k.get("durations_ns", [])) for k in one["kernels"]) / one["launches"], 1, "==")


def shares(table):
    """Shares of the kernels' sum, by symbol."""
    flop = {}
    for k in table["kernels"]:
        flop[k["symbol"]] = flop.get(k["symbol"], 0) + int(k["flop"])
    total = sum(flop.values())
    return {name: n / total for name, n in flop.items() if n}


def kernel(c):
    if c.args.stand_in:
        return
    cycle = sum(Run(c, "kernel-profile", "profile", metered=False).said["lengths"].values())
    step = cycle / len(LENGTHS)
    # The truth: five rounds of all lengths, one after the other, every launch of them, of a time when the program trains.
    every = Run(c, "kernel-every", "train", 34, "small", "turn", FLOPSPROF_CENSUS=f"10:{5 * cycle}")
    # By itself, in three minutes: a census and roll calls after the first, and a census of each length that comes up.
    some = Run(c, "kernel-some", "train", 180, "small", "all", FLOPSPROF_OVERHEAD="20")
    every_table, some_table = adds_up(c, "kernel.every", every), adds_up(c, "kernel.some", some)
    true, told = shares(every_table), shares(some_table)
    ten = sorted(true, key=true.get, reverse=True)[:10]
    off = {name: abs(told.get(name, 0) / true[name] - 1) for name in ten}
    # The table's own errors: of a share of all, so relative to the kernel's.
    errors = {k["symbol"]: k["standard_error"] / float(k["flop"]) for k in some_table["kernels"] if k["standard_error"] is not None and int(k["flop"])}
    sigmas = {name: off[name] / errors[name] if errors.get(name) else None for name in ten}
    steps = [sum(k["launches"] for k in r.censuses()) / step for r in (every, some)]
    heard = [(r["launches"], r.get("unknown", 0), r["heard_ns"] / 1e9, sum(row["launches"] for row in r.get("rows", []) if row.get("unsure"))) for r in some.records("roll_call")]
    c.row("kernel.lengths", max(off.values()), 0.03, "<=", off=list(off.values()), sigmas=list(sigmas.values()), shares=[true[n] for n in ten], steps=steps, censuses=len(some.censuses()), heard=heard, overhead=c.report("kernel-some")["overhead"])


def ncu_tool():
    return next((p for p in (shutil.which("ncu"), "/usr/local/cuda/bin/ncu") if p and os.path.exists(p)), None)


def ncu(c):
    """The same twenty kernels and more by Nsight Compute: FLOP of a launch, by kernel and grid."""
    tool = ncu_tool()
    if tool is None:
        c.row("kernel.ncu", None, 0, "==", error="there is no ncu on this machine")
        return
    run = Run(c, "kernel-ncu", "products", 7, FLOPSPROF_CENSUS="3:300")
    paths = sorted({p for w in run.records("window") if w["index"] == run.censuses()[0]["window"] for p in w["counts"]})
    command = [tool, "--csv", "--page", "raw", "--print-units", "base", "--print-kernel-base", "mangled", "--clock-control", "none", "--profile-from-start", "off"]
    command += ["--metrics", ",".join(f"{p}.sum" for p in paths), sys.executable, os.path.abspath(__file__), "products", run.truth, "0"]
    done = subprocess.run(command, env=c.env, timeout=200, capture_output=True, text=True)
    text = done.stdout[done.stdout.find('"ID"'):]
    rows = [r for r in csv.DictReader(io.StringIO(text)) if r.get("ID")]
    theirs = {}
    for r in rows:
        grid = tuple(int(n) for n in r["Grid Size"].strip("() ").split(","))
        flop = sum(float(r[f"{p}.sum"].replace(",", "")) for p in paths)
        theirs.setdefault((r["Kernel Name"], grid), []).append(flop)
    # Products of different depth may have one kernel and grid: each has a row of its own in the census.
    ours = {}
    for k in run.censuses()[0]["kernels"]:
        ours.setdefault((k["name"], tuple(k["grid"])), set()).add(sum(map(int, k.get("counts", {}).values())) / k["launches"])
    # All that Nsight Compute saw execute anything; random numbers and the like run only before.
    both = [(key, flop) for key, seen in theirs.items() for flop in seen if flop > 0]
    wrong = [(key, flop, sorted(ours.get(key, ()))) for key, flop in both if flop not in ours.get(key, ())]
    c.row("kernel.ncu", len(wrong) if len(both) >= 20 else None, 0, "==", compared=len(both), theirs=len(rows), wrong=[str(w) for w in wrong[:3]], stderr=done.stderr[-300:] if not both else "")


def core_step(path, seconds):
    """A training step again and again, each marked; at 0 seconds once, between cudaProfilerStart and Stop."""
    import torch

    sys.path.insert(0, os.path.join(HERE, "..", "..", "python"))
    import flopsprof

    step = trained("small")
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    began, steps = time.monotonic(), 0
    if float(seconds) == 0:
        torch.cuda.cudart().cudaProfilerStart()
        step()
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()
    while time.monotonic() - began < float(seconds):
        step()
        flopsprof.step()
        steps += 1
        torch.cuda.synchronize()
    write(path, steps=steps)


def sparse(path, seconds):
    """2:4 sparse products, where torch makes them."""
    import torch
    from torch.sparse import SparseSemiStructuredTensor, to_sparse_semi_structured

    # cuSPARSELt: PyTorch's own kernels are for compute capability 8 alone.
    SparseSemiStructuredTensor._FORCE_CUTLASS = False
    mask = torch.tensor([0, 0, 1, 1], device="cuda", dtype=torch.bfloat16).tile((4096, 1024))
    a = to_sparse_semi_structured(torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16) * mask)
    b = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    began, calls = time.monotonic(), 0
    while time.monotonic() - began < float(seconds):
        torch.mm(a, b)
        calls += 1
        if calls % 50 == 0:
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    write(path, calls=calls, dense_flop=calls * 2 * 4096**3)


#: What the CUDA cores execute, by Nsight Compute's names: thread instructions, and those of an FMA once more.
CORES = {"fp32": ("fadd", "fmul", "ffma", "ffma"), "fp16": ("hadd", "hmul", "hfma", "hfma"), "fp64": ("dadd", "dmul", "dfma", "dfma")}


def cores(c):
    """The CUDA cores' FLOP of a step, against Nsight Compute; and sparse products told from dense ones."""
    if c.args.stand_in:
        return
    step = sum(Run(c, "cores-profile", "profile", metered=False).said["small"].values())
    run = Run(c, "cores", "core_step", 16, FLOPSPROF_CENSUS=f"14:{step}:cores")
    bursts = [k for k in run.records("kernels") if k.get("cores")]
    found = next((k for k in bursts if k.get("kernels")), None)
    theirs = ncu_cores(c, run.truth)
    if found is None or theirs is None:
        c.row("cores.fp32", None, 0.02, "<=", why=[k.get("why") for k in bursts], theirs=theirs)
        return
    weights = {"fp32": "ffma", "fp16": "hfma", "fp64": "dfma"}
    ours = {f: sum(n for m, n in counts(found["kernels"]).items() if w in m) for f, w in weights.items()}
    window = next(w for w in run.records("window") if w["index"] == found["window"])
    seconds = (window["end_ns"] - window["start_ns"]) / 1e9
    report = c.report("cores")
    for f in ("fp32", "fp16"):
        off = abs(ours[f] / theirs[f] - 1) if theirs[f] else float(ours[f] != 0)
        c.row(f"cores.{f}", off, 0.02, "<=", ours=ours[f], theirs=theirs[f], launches=found["launches"], step=step, seconds=seconds, tier=window["tier"], why=found.get("why", ""))
    # Nothing of what the tensor cores did is lost: every step executes what the census counted.
    census = run.censuses()[0]
    always = counts(census["kernels"])
    path = max(always, key=always.get)
    total = next(int(p["flop"]) for p in report["paths"] if p["metric"] == path)
    c.row("cores.total", abs(total / (run.said["steps"] + 3) / always[path] - 1), 1e-6, "<=", path=path, steps=run.said["steps"], told=report["cuda_cores"])
    run = Run(c, "cores-sparse", "sparse", 6)
    if run.said is None:
        c.row("cores.sparse", None, None, "-", why="torch made no sparse product")
        return
    paths = {p["metric"]: (int(p["flop"]), int(p["sparse"])) for p in c.report("cores-sparse")["paths"] if p.get("sparse")}
    told = {m: v for m, v in paths.items() if v[0]}
    share = sum(s for _, s in told.values()) / max(sum(n for n, _ in told.values()), 1)
    c.row("cores.sparse", share, 0.99, ">=", paths=told, over_dense=sum(n for n, _ in told.values()) / run.said["dense_flop"])


def ncu_cores(c, truth):
    """FLOP of a step on the CUDA cores, by format, as Nsight Compute has them."""
    tool = ncu_tool()
    if tool is None:
        return None
    metrics = sorted({f"smsp__sass_thread_inst_executed_op_{op}_pred_on.sum" for ops in CORES.values() for op in ops})
    command = [tool, "--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none", "--profile-from-start", "off", "--metrics", ",".join(metrics)]
    done = subprocess.run([*command, sys.executable, os.path.abspath(__file__), "core_step", truth, "0"], env=c.env, timeout=200, capture_output=True, text=True)
    rows = [r for r in csv.DictReader(io.StringIO(done.stdout[done.stdout.find('"ID"'):])) if r.get("ID")]
    if not rows:
        print("  ncu:", done.stderr[-500:], done.stdout[-500:], flush=True)
        return None
    of = {m: sum(float(r[m].replace(",", "")) for r in rows) for m in metrics}
    return {f: sum(of[f"smsp__sass_thread_inst_executed_op_{op}_pred_on.sum"] for op in ops) for f, ops in CORES.items()}


def profilers(c):
    """torch.profiler before, during and after a burst keeps every event."""
    for when, at, asked in (("before", 1, "3:300"), ("during", 4, "3:1000000"), ("after", 6, "3:300")):
        run = Run(c, f"kernel-kineto-{when}", "kineto", at, at + 2, FLOPSPROF_CENSUS=asked)
        events = run.said["events"] / 500 if run.said else None
        c.row(f"kernel.kineto.{when}", events, 1, "==", censuses=[[k.get("launches", 0), k.get("why", "")] for k in run.records("kernels")])


def paired(c, name, seconds, bare_s, overhead):
    """What a whole metered run lost against bare ones just before and just after it, over the rest of its time: from the first step to the last, the meter's survey and bursts
    in it. A bare run of as many steps is made of the bare runs: their own time, and for the steps that they have fewer the time of one after their first five seconds."""
    before = Run(c, f"{name}-bare", "train", bare_s, "big", "one", 5, 10, metered=False).said
    run = Run(c, name, "train", seconds, "big", "one", 5, 10, timeout=seconds + 90, **({"FLOPSPROF_OVERHEAD": overhead} if overhead else {}))
    after = Run(c, f"{name}-bare", "train", bare_s, "big", "one", 5, 10, metered=False).said
    bare = statistics.mean(b["all_s"] + (run.said["steps"] - b["steps"]) * b["late_s"] / b["late_steps"] for b in (before, after))
    steady = [b["late_s"] / b["late_steps"] for b in (before, run.said, after)]
    return run, run.said["all_s"] / bare, dict(steps=run.said["steps"], all_s=run.said["all_s"], bare_s=bare, steady_s=steady, medians_s=[b["median_s"] for b in (before, run.said, after)])


def budget(c):
    """A budget of 5 %: what is said to be spent, and what the whole run loses against bare runs before and after it, bursts included."""
    if c.args.stand_in:
        return
    run, ratio, more = paired(c, "budget", 110, 12, "5")
    told = c.report("budget")["overhead"]
    found = run.censuses()
    c.row("budget.spent", told["share"], 0.05, "<=", census_s=told["census_s"], windows_s=told["windows_s"], rotation_s=told["rotation_s"])
    c.row("budget.censuses", len(found), 1, ">=", steps=[k.get("step") for k in found], launches=[k["launches"] for k in found], why=[k.get("why", "") for k in run.records("kernels")], rolls=len(run.records("roll_call")))
    c.row("budget.five", ratio, 1.05, "<=", **more)
    # What an hour at the default would be, by these costs: windows a minute, probes every eight minutes, and the rest for censuses, which are taken when paid.
    same = [w["opened"]["took_ns"] for a, w in zip(run.records("window"), run.records("window")[1:]) if a.get("group") == w.get("group") and w["opened"]["took_ns"] < 1e8]
    c.row("budget.windows_an_hour", statistics.median(same) / 1e9 / 60, 0.005, "<=", boundary_s=statistics.median(same) / 1e9)


def default(c):
    """The default budget: a whole run, long enough to pay for a burst, against bare runs before and after it."""
    if c.args.stand_in:
        return
    run, ratio, more = paired(c, "default", c.args.default_seconds, 12, None)
    told = c.report("default")["overhead"]
    power = [w["nvml"].get("power_mw") for w in run.records("window") if w.get("nvml")]
    c.row("budget.default", ratio, 1.005, "<=", told=told, power_w=statistics.median(power) / 1e3, **more)
    came = [(k["at_ns"], k["launches"], k.get("step")) for k in run.censuses()]
    c.row("budget.default_censuses", len(came), 1, ">=", came=came, why=[k["why"] for k in run.records("kernels") if k.get("why")], rolls=len(run.records("roll_call")))
    # Without boundaries, survey and probes: what CUPTI takes all the time.
    bare, between, bare_after = more["medians_s"]
    c.row("budget.default_between", 2 * between / (bare + bare_after), None, "-")


CHECKS = {"census": census, "kernel": kernel, "ncu": ncu, "profilers": profilers, "cores": cores, "budget": budget, "default": default}

if __name__ == "__main__":
    {f.__name__: f for f in (profile, train, products, kineto, core_step, sparse)}[sys.argv[1]](*sys.argv[2:])
