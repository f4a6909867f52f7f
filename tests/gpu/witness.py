"""The witness: who used the GPU, and what it costs to look. Run by run.py.

    python3 witness.py work TRUTH SECONDS          products for so long, at half speed; what was executed goes to TRUTH
    python3 witness.py launches TRUTH              how many launches such a program makes, by torch.profiler
    python3 witness.py over BIN OUT                what the witness costs the program beside it: one JSON object
    python3 witness.py cupti                       the libcupti that the framework brings

Truth and measurement: both programs execute products whose FLOP are known; the metered one's share of both is the truth that the witness's share of tensor time is
held against. Launches are counted by torch.profiler in a program of its own that does the same: so many for the start, so many for each product.

PM sampling (its check: pm): an unmetered program alone on the GPU beside `flopsprof watch --tensor pm`: tensor cycles, at 1024 operations of wgmma bf16 each, against what it
executed; and that a metered program which comes later gets the counters and is counted to the unit.

Cost: one process does steps, and `flopsprof watch` is started and ended beside it (off, on, on, off, ...), so that what drifts drifts for both. Three ways: processes'
lives and rare calls alone; all launches; and the default, one second in sixty, of which the burst itself is watched: what its steps took longer, all together, over
sixty seconds.
"""

import glob
import json
import os
import statistics
import subprocess
import sys
import time

M, N, K = 4096, 2048, 1024
FLOP = 2 * M * N * K
BATCH = 20
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaLaunchCooperativeKernel", "cuLaunchCooperativeKernel", "cudaGraphLaunch", "cuGraphLaunch")
# What the default counts launches in.
PERIOD_S = 60.0
# What a tensor core of an H100 or H200 executes of wgmma bf16 in a cycle in which it is active.
FLOP_PER_TENSOR_CYCLE = 1024
BF16 = "sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32"


def write(path, **what):
    with open(path, "w") as f:
        json.dump(what, f)


# ---- programs


def operands():
    import torch

    return tuple(torch.randn(s, device="cuda", dtype=torch.bfloat16) for s in ((M, K), (K, N)))


def batch(a, b):
    import torch

    for _ in range(BATCH):
        a @ b
    torch.cuda.synchronize()


def work(path, seconds):
    a, b = operands()
    batches, began = 0, time.monotonic()
    while time.monotonic() - began < float(seconds):
        batch(a, b)
        batches += 1
        # Below the power limit the clock stays where it is, and tensor time can be told from outside.
        time.sleep(0.002)
    write(path, flop=batches * BATCH * FLOP, batches=batches, pid=os.getpid())


def launches(path):
    from torch.profiler import ProfilerActivity, profile

    def count(profiled):
        events = profiled.events()
        called = sum(e.name.startswith(LAUNCHES) for e in events)
        ran = sum(str(e.device_type).endswith("CUDA") and not e.name.startswith("Mem") for e in events)
        return called, ran

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as first:
        a, b = operands()
        batch(a, b)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as second:
        batch(a, b)
    (called, start), (called_each, each) = count(first), count(second)
    # Kernels that ran are launches that were made: there are no graphs here. Calls may be told twice, as the runtime's and as the driver's.
    write(path, start=start - each, batch=each, called=[called, called_each])


class Watch:
    """`flopsprof watch`, at work once this returns."""

    def __init__(self, command, env=None):
        self.child = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        self.said = []
        for line in self.child.stderr:
            self.said.append(line.strip())
            if "witnessing into" in line:
                return
        raise RuntimeError(f"{command}: {self.said}")

    def end(self):
        self.child.terminate()
        self.said += self.child.stderr.read().splitlines()
        return self.child.wait(timeout=60)


def cupti():
    """Beside the framework's own packages, as a Python program finds it."""
    found = [f for folder in sys.path for name in ("libcupti.so.13", "libcupti.so.12") for f in glob.glob(os.path.join(folder, "nvidia", "*", "lib", name))]
    print(found[0] if found else "")


def over(command, out):
    import torch

    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from overhead import llama, standard_error

    small, _ = llama(12, 1024, 16, 2816)
    ids = torch.randint(0, 32000, (8, 1024), device="cuda")
    x, many = torch.zeros(1, device="cuda"), torch.zeros(1 << 29, device="cuda")

    def gpu_bound():
        # Bound by the GPU's memory: at its power limit a step scatters by more than what is looked for here.
        for _ in range(40):
            many.add_(1)

    def tiny():
        for _ in range(2000):
            x.add_(1)

    works = {"gpu_bound": gpu_bound, "launch_bound": lambda: small(ids), "tiny": tiny}

    def once(name):
        begun = time.perf_counter()
        works[name]()
        torch.cuda.synchronize()
        return time.perf_counter() - begun

    def block(names):
        took = {}
        for name, times in names.items():
            once(name)
            took[name] = [once(name) for _ in range(times)]
        return took

    for name in works:
        for _ in range(8):
            once(name)
    watch = [command, "watch", "--out"]

    def alternate(mode, names, rounds):
        """Off, on, on, off, each round against itself: the machine drifts by more from one minute to the next. By work: the median of the rounds, its standard error, steps."""
        ratios = {n: [] for n in names}
        for index in range(rounds):
            took, watching = {False: {n: [] for n in names}, True: {n: [] for n in names}}, None
            for on in (False, True, True, False):
                if on and not watching:
                    watching = Watch([*watch, os.path.join(out, f"{mode}-{index}"), "--launches", mode])
                elif not on and watching:
                    watching.end()
                    watching = None
                for name, seconds in block(names).items():
                    took[on][name].append(statistics.median(seconds))
            for name in names:
                ratios[name].append(sum(took[True][name]) / sum(took[False][name]))
        return {n: [statistics.median(ratios[n]), standard_error(ratios[n]) if rounds > 1 else None, 2 * rounds * names[n]] for n in names}

    life = alternate("off", {"gpu_bound": 12, "launch_bound": 24}, 20)
    full = alternate("all", {"launch_bound": 24, "tiny": 24}, 1)
    bursts, around, steps = [], [statistics.median(once("launch_bound") for _ in range(40))], 0
    for index in range(3):
        watching = Watch([*watch, os.path.join(out, f"sampled-{index}"), "--launches", "sampled", "--every", "1"])
        took, began = [], time.perf_counter()
        while time.perf_counter() - began < 6:
            took.append(once("launch_bound"))
        watching.end()
        around.append(statistics.median(once("launch_bound") for _ in range(40)))
        # Steps of the burst and of its beginning and end, against those around it; a step that was disturbed by something else counts too.
        bursts.append(sum(took) - len(took) * statistics.mean(around[-2:]))
        steps += len(took)
    print(json.dumps({"life": life, "full": full, "bursts_s": bursts, "steps": steps, "bare_s": around}))


# ---- checks


def processes(report):
    return {p["pid"]: p for p in report["completeness"]["processes"]}


def witness(c):
    truth = {name: os.path.join(c.args.out, f"truth-{name}.json") for name in ("metered", "unmetered", "launches", "alone")}
    here = [sys.executable, os.path.abspath(__file__)]

    def program(name, seconds):
        if c.args.stand_in:
            return [c.args.bin, "demo", "--bare", "--kernel", "wgmma_bf16", "--seconds", str(seconds), "--truth", truth[name]]
        return [*here, "work", truth[name], str(seconds)]

    def told(name):
        """What a program executed: FLOP, and launches."""
        said = json.load(open(truth[name]))
        if c.args.stand_in:
            return sum(int(v) for v in said["truth"].values()), said["launches"]
        counted = json.load(open(truth["launches"]))
        return said["flop"], counted["start"] + said["batches"] * counted["batch"]

    more = {}
    if not c.args.stand_in:
        subprocess.run([*here, "launches", truth["launches"]], env=c.env, check=True, timeout=100)
        more = {"by_profiler": json.load(open(truth["launches"]))}

    # Two programs on one GPU, one of them unmetered.
    out = os.path.join(c.evidence, "witness")
    watch = Watch([c.args.bin, "watch", "--out", out, "--launches", "all", "--every", "2"], c.env)
    commands = {name: program(name, 8) for name in ("metered", "unmetered")}
    env = {"metered": c.env | {"LD_PRELOAD": c.args.lib, "FLOPSPROF_OUT": out}, "unmetered": c.env}
    children = {name: subprocess.Popen(command, env=env[name]) for name, command in commands.items()}
    statuses = [child.wait(timeout=100) for child in children.values()]
    watch.end()
    report = c.report("witness")
    found = processes(report)
    metered, unmetered = (found.get(children[name].pid, {}) for name in ("metered", "unmetered"))
    named = statuses == [0, 0] and metered.get("metered") is True and unmetered.get("metered") is False and unmetered.get("worked") is True
    c.row("witness.unmetered_named", int(named), 1, "==", program=unmetered.get("program"), others=[p["program"] for p in found.values() if p["pid"] not in (metered.get("pid"), unmetered.get("pid"))])
    (ours, launched), (theirs, launched_there) = told("metered"), told("unmetered")
    [device] = report["completeness"]["devices"][:1] or [{"completeness": None}]
    share = device["completeness"]
    true = ours / (ours + theirs)
    c.row("witness.share", abs(share - true) if share is not None else None, 0.02, "<=", share=share, true=true, verdict=report["completeness"]["verdict"], windows=device.get("windows"))
    for name, process, made in (("metered", metered, launched), ("unmetered", unmetered, launched_there)):
        counted = process.get("launches")
        c.row(f"witness.launches_{name}", counted / made if counted is not None else None, 1, "==", counted=counted, made=made, calls=process.get("calls"), **more)

    # Alone, with the witness that flopsprof run starts.
    out = os.path.join(c.evidence, "witness-alone")
    done = subprocess.run([c.args.bin, "run", "--out", out, *program("alone", 10)], env=c.env | {"FLOPSPROF_LIB": c.args.lib}, capture_output=True, text=True, timeout=100)
    told_of = c.report("witness-alone")["completeness"]
    [device] = told_of["devices"][:1] or [{"completeness": None}]
    good = done.returncode == 0 and told_of["verdict"] == "complete"
    c.row("witness.alone", device["completeness"] if good else None, 0.99, ">=", verdict=told_of["verdict"], why=told_of["why"], error=device.get("error"), unmetered=[p["program"] for p in told_of["processes"] if not p["metered"]], stderr=done.stderr[-500:])
    if c.args.stand_in:
        return

    out = os.path.join(c.args.out, "witness-over")
    done = subprocess.run([*here, "over", c.args.bin, out], env=c.env, stdout=subprocess.PIPE, text=True, timeout=400, check=True)
    cost = json.loads(done.stdout.splitlines()[-1])
    (gpu, gpu_error, steps), (launch, launch_error, launch_steps) = cost["life"]["gpu_bound"], cost["life"]["launch_bound"]
    c.row("witness.over_life_gpu", gpu, 1.001, "<=", steps=steps, standard_error=gpu_error)
    c.row("witness.over_life_launch", launch, 1.005, "<=", steps=launch_steps, standard_error=launch_error)
    c.row("witness.over_default", launch + max(statistics.median(cost["bursts_s"]), 0) / PERIOD_S, 1.005, "<=", bursts_s=cost["bursts_s"], life=launch, steps=cost["steps"], bare_s=cost["bare_s"])
    c.row("witness.over_full", cost["full"]["launch_bound"][0], None, "-", tiny=cost["full"]["tiny"][0])


def intervals(folder):
    """The first device in each of the witness's intervals."""
    [file] = glob.glob(os.path.join(folder, "witness-*.jsonl"))
    records = [json.loads(line) for line in open(file)]
    return [r["devices"][0] for r in records if r["type"] == "interval" and r["devices"]]


def pm(c):
    here = [sys.executable, os.path.abspath(__file__)]
    environment = dict(c.env)
    if not c.args.stand_in and "FLOPSPROF_CUPTI" not in environment:
        environment["FLOPSPROF_CUPTI"] = subprocess.run([*here, "cupti"], env=c.env, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    if c.args.stand_in:
        environment["FLOPSPROF_CUPTI"] = os.path.join(c.args.stand_in, "libcupti.so.13")

    def program(truth, seconds):
        if c.args.stand_in:
            return [c.args.bin, "demo", "--bare", "--kernel", "wgmma_bf16", "--seconds", str(seconds), "--truth", truth]
        return [*here, "work", truth, str(seconds)]

    def told(truth):
        said = json.load(open(truth))
        return sum(int(v) for v in said["truth"].values()) if c.args.stand_in else said["flop"]

    def watch(name):
        folder = os.path.join(c.evidence, name)
        return folder, Watch([c.args.bin, "watch", "--out", folder, "--tensor", "pm", "--every", "1"], environment)

    # Alone, and unmetered.
    folder, watching = watch("pm")
    truth = os.path.join(c.args.out, "truth-pm.json")
    done = subprocess.run(program(truth, 3), env=c.env, timeout=60)
    time.sleep(0.5)
    watching.end()
    devices = intervals(folder)
    held = [d["pm"] for d in devices if "pm" in d]
    total = {field: sum(p[field] for p in held) for field in ("tensor_cycles", "elapsed_cycles", "sampled_ns", "samples", "dropped", "overflows")}
    total["lost_ns"] = sum(p["end_ns"] - p["start_ns"] for p in held) - total["sampled_ns"]
    flop = told(truth) if done.returncode == 0 else 0
    error = abs(total["tensor_cycles"] * FLOP_PER_TENSOR_CYCLE / flop - 1) if flop and total["samples"] else None
    report = c.report("pm")["completeness"]["devices"]
    more = {"flop": flop, "peak": max((p["peak"] for p in held), default=None), "ended": [p["ended"] for p in held if "ended" in p], "report": report, "stderr": watching.said}

    # A metered one comes, and gets the counters.
    folder, watching = watch("pm-gives-way")
    time.sleep(1)
    truth = os.path.join(c.args.out, "truth-pm-gives-way.json")
    out = os.path.join(c.evidence, "pm-metered")
    done = subprocess.run(program(truth, 2), env=c.env | {"LD_PRELOAD": c.args.lib, "FLOPSPROF_OUT": out}, timeout=60, capture_output=True, text=True)
    watching.end()
    sampled = [d["pm"] for d in intervals(folder) if "pm" in d]
    ended = [p["ended"] for p in sampled if "ended" in p]
    gave_way = len(ended) == 1 and "a metered process needs the counters" in ended[0] and sum(p["samples"] for p in sampled) > 0
    report = c.report("pm-metered")
    path = next((p for p in report["paths"] if p["metric"] == BF16), {"flop": "0", "tier": "none"})
    flop = told(truth) if done.returncode == 0 else None
    counted = path["tier"] == "counted" and int(path["flop"]) == flop
    windows = [(w["tier"], w.get("why", "")) for w in lines(out) if w["type"] == "window"]
    if c.args.stand_in:
        # It shows a context before that is made, so that the meter asks for the counters before the witness can know of it: its first window is not counted there.
        counted = bool(windows) and windows[-1][0] == "counted"
    # Now the device has a name.
    c.row("witness.pm", error, 0.01, "<=", **total, **more)
    c.row("witness.pm_gives_way", int(gave_way and counted), 1, "==", gave_way=gave_way, tier=path["tier"], measured=path["flop"], true=str(flop), ended=ended, windows=windows[:3], metered_stderr=done.stderr[-500:], stderr=watching.said)


def lines(folder):
    """The evidence of the metered processes in a folder."""
    files = [f for f in glob.glob(os.path.join(folder, "*.jsonl")) if not os.path.basename(f).startswith("witness-")]
    return [json.loads(line) for f in files for line in open(f)]


CHECKS = {"witness": witness, "pm": pm}

if __name__ == "__main__":
    {f.__name__: f for f in (work, launches, over, cupti)}[sys.argv[1]](*sys.argv[2:])
