"""Checks of the census, of the kernels' table and of the budget, for `run.py` (`--only census,kernel,budget`); and the programs that they run:

    python3 census.py profile|train|products|kineto TRUTH_FILE [ARGUMENTS]

Together they take about four minutes on the device, most of it torch starting.
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
# Batch and lengths of the training steps: a shape of 220 M parameters at one length, and a small one at lengths that change from step to step.
BATCH = 8
SHAPES = {"whole": (12, 1024, 16, 2816), "small": (4, 1024, 16, 2816)}
LENGTHS = [768, 832, 896, 960, 1088, 1152, 1216, 1280]


def write(path, **said):
    with open(path, "w") as f:
        json.dump(said, f)


# ---- programs


def trained(shape):
    """The step of a shape, and its input of a length."""
    import torch

    sys.path.insert(0, HERE)
    from overhead import llama

    step, _ = llama(*SHAPES[shape])
    ids = {n: torch.randint(0, 32000, (BATCH, n), device="cuda") for n in [1024, *LENGTHS]}
    return lambda n: step(ids[n])


def profile(path, *_):
    """How often a step launches each kernel, by torch.profiler."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    said = {}
    for shape in SHAPES:
        step = trained(shape)
        for _ in range(3):
            step(1024)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as p:
            step(1024)
            torch.cuda.synchronize()
        names = {}
        for e in p.events():
            if str(e.device_type).endswith("CUDA") and not e.name.lower().startswith(("memcpy", "memset")):
                names[e.name] = names.get(e.name, 0) + 1
        said[shape] = names
    write(path, **said)


def train(path, seconds, shape="whole", lengths="one", settle="0"):
    """Trains for so long; says steps, and the time of those after `settle` seconds."""
    import torch

    step, order, steps = trained(shape), random.Random(1), 0
    cycle, began, late = [], time.monotonic(), []
    while time.monotonic() - began < float(seconds):
        if not cycle:
            cycle = LENGTHS[:] if lengths == "all" else [1024]
            order.shuffle(cycle)
        begun = time.monotonic()
        step(cycle.pop())
        torch.cuda.synchronize()
        steps += 1
        if begun - began > float(settle):
            late.append(time.monotonic() - begun)
    write(path, steps=steps, late_s=sum(late), late_steps=len(late), median_s=statistics.median(late))


def products(path, seconds):
    """The same few products and attentions, again and again; at 0 seconds once, between cudaProfilerStart and Stop."""
    import torch
    from torch.nn import functional as F

    torch.manual_seed(1)
    shapes = [(4096, 4096, 4096), (2048, 11008, 4096), (1000, 1000, 1000), (8192, 2048, 1024), (104, 304, 80)]
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

    def __init__(self, c, name, mode, *arguments, metered=True, **env):
        self.c, self.name, self.truth = c, name, os.path.join(c.args.out, "truth.json")
        command = [sys.executable, os.path.abspath(__file__), mode, self.truth, *map(str, arguments)]
        if os.path.exists(self.truth):
            os.remove(self.truth)
        if metered:
            self.status, _, _ = c.metered(name, command, timeout=200, **env)
        else:
            self.status = subprocess.run(command, env=c.env, timeout=200).returncode
        self.said = json.load(open(self.truth)) if self.status == 0 else None

    def records(self, kind):
        folder = os.path.join(self.c.evidence, self.name)
        lines = (json.loads(line) for file in sorted(os.listdir(folder)) if file.endswith(".jsonl") for line in open(os.path.join(folder, file)) if line.endswith("\n"))
        return [line for line in lines if line["type"] == kind]

    def censuses(self):
        return [k for k in self.records("kernels") if k.get("kernels")]

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
    step = sum(Run(c, "kernel-profile", "profile", metered=False).said["small"].values())
    every = Run(c, "kernel-every", "train", 30, "small", "all", FLOPSPROF_CENSUS="3:1000000")
    some = Run(c, "kernel-some", "train", 36, "small", "all", FLOPSPROF_CENSUS=f"3:{2 * step}:0.2")
    true, told = shares(adds_up(c, "kernel.every", every)), shares(adds_up(c, "kernel.some", some))
    ten = sorted(true, key=true.get, reverse=True)[:10]
    off = {name: abs(told.get(name, 0) / true[name] - 1) for name in ten}
    steps = [sum(k["launches"] for k in r.censuses()) / step for r in (every, some)]
    c.row("kernel.lengths", max(off.values()), 0.03, "<=", off=list(off.values()), shares=[true[n] for n in ten], steps=steps, censuses=len(some.censuses()))
    ncu(c)
    profilers(c)


def ncu(c):
    """The same kernels by Nsight Compute: FLOP of a launch, by kernel and grid."""
    places = [shutil.which("ncu"), "/usr/local/cuda/bin/ncu"]
    tool = next((p for p in places if p and os.path.exists(p)), None)
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
        theirs.setdefault((r["Kernel Name"], grid), set()).add(flop)
    ours = {}
    for k in run.kernels()["kernels"]:
        for s in k["shapes"]:
            ours[(k["symbol"], tuple(s["grid"]))] = s["flop_per_launch"]
    # Kernels that stand in both, and have one number each in theirs; random numbers and the like run only before.
    both = [key for key, flop in theirs.items() if len(flop) == 1 and key in ours and max(flop) > 0]
    wrong = [(key, ours[key], max(theirs[key])) for key in both if ours[key] != max(theirs[key])]
    c.row("kernel.ncu", len(wrong) if both else None, 0, "==", compared=len(both), theirs=len(theirs), wrong=[str(w) for w in wrong[:3]], stderr=done.stderr[-300:] if not both else "")


def profilers(c):
    """torch.profiler before, during and after a burst keeps every event."""
    for when, at, asked in (("before", 1, "3:300"), ("during", 4, "3:1000000"), ("after", 6, "3:300")):
        run = Run(c, f"kernel-kineto-{when}", "kineto", at, at + 2, FLOPSPROF_CENSUS=asked)
        events = run.said["events"] / 500 if run.said else None
        c.row(f"kernel.kineto.{when}", events, 1, "==", censuses=[[k.get("launches", 0), k.get("why", "")] for k in run.records("kernels")])


def budget(c):
    """A budget that pays for a census in a run of this length; what is said to be spent, and what is lost against a bare run."""
    if c.args.stand_in:
        return
    percent = 10
    bare = Run(c, "budget-bare", "train", 20, "whole", "one", 5, metered=False)
    run = Run(c, "budget", "train", 80, "whole", "one", 5, FLOPSPROF_OVERHEAD=str(percent))
    if run.said is None:
        c.row("budget.spent", None, percent / 100, "<=")
        return
    told = c.report("budget")["overhead"]
    found = run.censuses()
    c.row("budget.spent", told["share"], percent / 100, "<=", census_s=told["census_s"], windows_s=told["windows_s"], rotation_s=told["rotation_s"])
    c.row("budget.censuses", len(found), 1, ">=", steps=[k.get("step") for k in found], launches=[k["launches"] for k in found], why=[k.get("why", "") for k in run.records("kernels")])
    ratio = run.said["late_s"] / run.said["late_steps"] / (bare.said["late_s"] / bare.said["late_steps"])
    c.row("budget.ratio", ratio, 1 + percent / 100, "<=", median=run.said["median_s"] / bare.said["median_s"], bare_s=bare.said["median_s"])
    # What an hour at the default would be, by these costs: windows a minute, probes every eight minutes, and the rest for censuses, which are taken when paid.
    boundary = statistics.median(w["opened"]["took_ns"] for w in run.records("window")) / 1e9
    c.row("budget.windows_an_hour", boundary * 60 / 3600, 0.005, "<=", boundary_s=boundary)


CHECKS = {"census": census, "kernel": kernel, "budget": budget}

if __name__ == "__main__":
    {f.__name__: f for f in (profile, train, products, kineto)}[sys.argv[1]](*sys.argv[2:])
