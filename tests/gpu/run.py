"""The checks that need a GPU: runs them, prints a table, writes results.json and the evidence.

    python3 tests/gpu/run.py --bin flopsprof --lib libflopsprof.so --out DIR --commit HASH [--only exact,mix,...] [--onto results.json]

No cargo and no network are needed: it takes the built files. On the stand-in GPU (--stand-in DIR, a folder with its three libraries) the checks that need
no framework run too, shorter, to try the script itself; their rows say so.
"""

import argparse
import datetime
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import census as kernels  # noqa: E402  its checks: census, kernel, budget
import overhead  # noqa: E402  its works: over
import peers  # noqa: E402  its check: peer
import witness  # noqa: E402  its checks: witness, pm

PREFIX = "sm__ops_path_tensor_"


class Checks:
    def __init__(self, args):
        self.args = args
        # A row of a later file takes the place of the one with its id; of those after the first file only what is asked for.
        wanted = tuple(filter(None, args.rows.split(",")))
        read = [(i, row) for i, file in enumerate(args.onto) for row in json.load(open(file))]
        self.rows = list({row["id"]: row for i, row in read if i == 0 or not wanted or row["id"].startswith(wanted)}.values())
        self.device = {"device": "", "driver": "", "cupti": ""}
        self.evidence = os.path.join(args.out, "evidence")
        os.makedirs(self.evidence, exist_ok=True)
        self.env = dict(os.environ)
        for name in ("LD_PRELOAD", "CUDA_INJECTION64_PATH", "FLOPSPROF_OUT"):
            self.env.pop(name, None)
        if args.stand_in:
            self.env["LD_LIBRARY_PATH"] = args.stand_in

    def seconds(self, real):
        return 8.0 if self.args.stand_in else real

    def row(self, name, value, limit, op, **more):
        # What is only printed may have no value, if it says why.
        passed = op == "-" and "why" in more
        if value is not None:
            passed = {"<=": lambda: value <= limit, ">=": lambda: value >= limit, "==": lambda: value == limit, "-": lambda: True}[op]()
        row = {"id": name, "value": value, "limit": limit, "op": op, "pass": bool(passed), **more, **self.device}
        row |= {"commit": self.args.commit, "date": datetime.date.today().isoformat(), "simulated": bool(self.args.stand_in)}
        self.rows = [r for r in self.rows if r["id"] != name] + [row]
        print(f"{'ok  ' if passed else 'FAIL'} {name:<24} {value!s:<24} {op} {limit}", flush=True)
        self.write()

    def write(self):
        with open(os.path.join(self.args.out, "results.json"), "w") as f:
            json.dump(self.rows, f, indent=1)
            f.write("\n")

    def metered(self, name, command, timeout=120, **env):
        """Runs a command under the meter; its evidence goes to evidence/NAME. Returns exit status, seconds and stderr."""
        out = os.path.join(self.evidence, name)
        shutil.rmtree(out, ignore_errors=True)
        environment = self.env | {"LD_PRELOAD": self.args.lib, "FLOPSPROF_OUT": out} | env
        start = time.monotonic()
        done = subprocess.run(command, env=environment, timeout=timeout, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"  {name}: exit status {done.returncode}\n{done.stderr[-2000:]}", flush=True)
        return done.returncode, time.monotonic() - start, done.stderr

    def report(self, name):
        done = subprocess.run([self.args.bin, "report", "--json", os.path.join(self.evidence, name)], capture_output=True, text=True)
        report = json.loads(done.stdout)
        if report["devices"] and not self.device["device"]:
            self.device["device"] = report["devices"][0]["name"]
            self.device["cupti"] = ", ".join(report["libraries"].get("libcupti", []))
            self.device["driver"] = self.driver(name)
            # Rows from before the first report did not know it.
            for row in (row for row in self.rows if not row["device"]):
                row |= self.device
        return report

    def driver(self, name):
        folder = os.path.join(self.evidence, name)
        # Beside the evidence lies the report that the job wrote at its end.
        for file in (f for f in os.listdir(folder) if f.endswith(".jsonl")):
            for line in open(os.path.join(folder, file)):
                record = json.loads(line)
                if record["type"] == "device":
                    return record["driver"]
        return ""

    def declared(self, name):
        """Of each process that declared a model: its parameters, all and those that are trained, and the tokens that it added."""
        folder, found = os.path.join(self.evidence, name), []
        for file in sorted(f for f in os.listdir(folder) if f.endswith(".jsonl")):
            parameters, tokens = None, 0
            for record in map(json.loads, open(os.path.join(folder, file))):
                if record["type"] == "declare":
                    parameters = [record["parameters"], record["trainable"]]
                elif record["type"] in ("window", "end"):
                    tokens = record["tokens"]
            if parameters:
                found.append((parameters, tokens))
        return found

    def demo(self, name, *arguments, **env):
        """The known-FLOP workload under the meter: truth and measurement by path."""
        truth = os.path.join(self.args.out, "truth.json")
        status, seconds, _ = self.metered(name, [self.args.bin, "demo", "--bare", "--truth", truth, *arguments], **env)
        if status != 0:
            return None, None, seconds
        with open(truth) as f:
            true = {k: int(v) for k, v in json.load(f)["truth"].items()}
        return true, self.report(name), seconds


def measured(report, metric):
    found = [p for p in report["paths"] if p["metric"] == metric]
    return (int(found[0]["flop"]), found[0]["standard_error"]) if found else (0, None)


def exact(c):
    always = {"bf16": "wgmma_bf16", "fp8": "wgmma_fp8", "tf32": "wgmma_tf32", "fp16_hgmma": "wgmma_fp16"}
    turns = {"fp64": "mma_fp64", "fp16_wmma_f32": "mma_fp16", "fp16_wmma_f16": "mma_fp16_acc16"}
    for name, kernel in (always | turns).items():
        true, report, _ = c.demo(f"exact-{name}", "--kernel", kernel, "--seconds", str(c.seconds(30)))
        if true is None:
            c.row(f"exact.{name}", None, 1e-6 if name in always else 1e-3, "<=")
            continue
        [(metric, flop)] = true.items()
        value, error = measured(report, metric)
        if name in always:
            c.row(f"exact.{name}", abs(value / flop - 1), 1e-6, "<=", true=str(flop), measured=str(value))
        else:
            c.row(f"exact.{name}", abs(value / flop - 1), 1e-3, "<=", true=str(flop), measured=str(value), standard_error=error)
            c.row(f"exact.{name}.sigma", abs(value - flop) / error if error else None, 3, "<=")


def mix(c):
    true, report, _ = c.demo("mix", "--kernel", "mma_bf16,mma_fp16", "--seconds", str(c.seconds(60)))
    values = {metric: measured(report, metric) for metric in true}
    total, flop = sum(v for v, _ in values.values()), sum(true.values())
    error = sum(e * e for _, e in values.values() if e is not None) ** 0.5
    c.row("mix.total", abs(total / flop - 1), 0.01, "<=", true=str(flop), measured=str(total))
    c.row("mix.sigma", abs(total - flop) / error if error else None, 3, "<=")


def first(c):
    true, report, _ = c.demo("first", "--kernel", "wgmma_bf16", "--launches", "200", "--tiny")
    [(metric, flop)] = true.items()
    c.row("first.launches", measured(report, metric)[0] / flop, 1, "==")


def fw(c):
    if c.args.stand_in:
        return
    modes = {"torch_eager": "eager", "torch_compile": "compiled", "cuda_graph": "cuda_graph", "streams": "streams", "jax": "jax", "fork": "fork", "spawn": "spawn"}
    truth = os.path.join(c.args.out, "truth.json")
    for name, mode in modes.items():
        status, _, _ = c.metered(f"fw-{name}", [sys.executable, os.path.join(HERE, "workload.py"), mode, truth, "5"])
        value = None
        if status == 0:
            flop = json.load(open(truth))["flop"]
            value = abs(int(c.report(f"fw-{name}")["total"]["flop"]) / flop - 1)
        c.row(f"fw.{name}", value, 1e-6, "<=")
    program = os.path.join(c.args.out, "wmma")
    subprocess.run(["nvcc", "-arch=sm_90", "-O2", "-o", program, os.path.join(HERE, "wmma.cu")], check=True)
    status, _, _ = c.metered("fw-cuda_cpp", [program, "12", truth])
    value = abs(int(c.report("fw-cuda_cpp")["total"]["flop"]) / json.load(open(truth))["flop"] - 1) if status == 0 else None
    c.row("fw.cuda_cpp", value, 1e-3, "<=")
    os.remove(program)


def multi(c):
    """Two GPUs: two ranks of a job, and one process."""
    if c.args.stand_in:
        return
    truth, workload = os.path.join(c.args.out, "truth.json"), os.path.join(HERE, "workload.py")
    status, _, _ = c.metered("multi-ranks", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", workload, "ranks", truth, "6"])
    value, more = None, {}
    if status == 0:
        report, true = c.report("multi-ranks"), [json.load(open(f"{truth}.{rank}"))["flop"] for rank in range(2)]
        value = abs(int(report["total"]["flop"]) / sum(true) - 1)
        more = {"true": [str(n) for n in true], "devices": len(report["devices"]), "processes": len(report["processes"])}
    c.row("multi.ranks", value, 1e-6, "<=", **more)
    status, _, _ = c.metered("multi-two_gpus", [sys.executable, workload, "two_gpus", truth, "6"])
    value, more = None, {}
    if status == 0:
        report, true = c.report("multi-two_gpus"), json.load(open(truth))
        value = abs(int(report["total"]["flop"]) / true["flop"] - 1)
        # Each by itself.
        each = sorted(int(d["flop"]) for d in report["devices"])
        value = max(value, *(abs(n / m - 1) for n, m in zip(each, sorted(true["each"]))))
        more = {"true": [str(n) for n in true["each"]], "each": [str(n) for n in each]}
    c.row("multi.two_gpus", value, 1e-6, "<=", **more)
    # The Trainer keeps original parameters as views; a flat parameter hides them in another way.
    _sharded(c, "multi.fsdp1", ["fsdp1", "fsdp1_flat"])
    said = subprocess.run([sys.executable, "-c", "import deepspeed"], env=c.env, capture_output=True, text=True)
    if said.returncode == 0:
        _sharded(c, "multi.zero3", ["zero3"])
    else:
        print(f"     multi.zero3: no row, because deepspeed cannot be imported: {(said.stderr.splitlines() or [''])[-1]}", flush=True)


def _sharded(c, row, modes):
    """Two ranks of a training that is sharded: what they declare of the whole model, and the tokens of both together. The value is the worst error of the modes."""
    truth, script = os.path.join(c.args.out, "truth.json"), os.path.join(HERE, "sharded.py")
    worst, more = [], {}
    for mode in modes:
        name = f"multi-{mode}"
        status, _, _ = c.metered(name, [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, mode, truth])
        if status != 0:
            c.row(row, None, 0, "<=", error=f"{mode}: exit status {status}")
            return
        report, true = c.report(name), [json.load(open(f"{truth}.{rank}")) for rank in range(2)]
        # The report has one pair for the run, and a sum: in the evidence a rank cannot hide behind the other.
        ranks = c.declared(name)
        parameters, tokens = true[0]["parameters"], sorted(t["tokens"] for t in true)
        pairs = [*zip(report["parameters"] or [0, 0], parameters), (report["tokens"], sum(tokens)), (len(ranks), 2)]
        pairs += [pair for said, _ in ranks for pair in zip(said, parameters)]
        pairs += zip(sorted(n for _, n in ranks), tokens)
        worst.append(max(abs(said / real - 1) for said, real in pairs))
        more[mode] = {"worst": worst[-1], "parameters": parameters, "declared": [said for said, _ in ranks], "tokens": tokens, "added": report["tokens"], "held": [t["held"] for t in true]}
    c.row(row, max(worst), 0, "<=", **more)


def start(c):
    truth = os.path.join(c.args.out, "truth.json")
    one = [c.args.bin, "demo", "--bare", "--truth", truth, "--kernel", "wgmma_bf16", "--launches", "1", "--tiny"]

    def wall(command, env):
        begun = time.perf_counter()
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begun

    def first_kernel(env):
        """Seconds from before the process to the end of its first kernel, and to its own end."""
        begun = time.monotonic_ns()
        subprocess.run(one, env=env, check=True)
        ended = time.monotonic_ns()
        return (json.load(open(truth))["first_done_ns"] - begun) / 1e9, (ended - begun) / 1e9

    c.metered("start", one)
    c.report("start")
    with_meter = c.env | {"LD_PRELOAD": c.args.lib, "FLOPSPROF_OUT": os.path.join(c.evidence, "start")}
    pairs = [(first_kernel(with_meter), first_kernel(c.env)) for _ in range(7)]
    c.row("start.first_kernel_s", statistics.median(a[0] - b[0] for a, b in pairs), 0.5, "<=")
    # The drain at exit is in it too.
    c.row("start.whole_process_s", statistics.median(a[1] - b[1] for a, b in pairs), None, "-")
    pairs = [(wall(["/bin/true"], with_meter), wall(["/bin/true"], c.env)) for _ in range(200)]
    c.row("start.true_ms", 1e3 * (statistics.median(a for a, _ in pairs) - statistics.median(b for _, b in pairs)), 1, "<=")

    def peak(env):
        child = subprocess.Popen(one[:-3] + ["--launches", "200"], env=env, stdout=subprocess.DEVNULL)
        return os.wait4(child.pid, 0)[2].ru_maxrss / 1024

    c.row("mem.added_mib", peak(with_meter) - peak(c.env), None, "-")


def kineto(c):
    if c.args.stand_in:
        return
    truth = os.path.join(c.args.out, "truth.json")
    status, _, _ = c.metered("kineto", [sys.executable, os.path.join(HERE, "workload.py"), "kineto", truth, "12"])
    if status != 0:
        c.row("kineto.events", None, 1, "==")
        return
    said = json.load(open(truth))
    report = c.report("kineto")
    c.row("kineto.events", min(said["events"]) / said["expected"], 1, "==", events=said["events"])
    c.row("kineto.count", abs(int(report["total"]["flop"]) / said["flop"] - 1), 1e-3, "<=")


def shared(c):
    out = os.path.join(c.evidence, "shared")
    shutil.rmtree(out, ignore_errors=True)
    env = c.env | {"LD_PRELOAD": c.args.lib, "FLOPSPROF_OUT": out}
    truths = [os.path.join(c.args.out, f"truth-{i}.json") for i in range(2)]
    command = [c.args.bin, "demo", "--bare", "--kernel", "wgmma_bf16", "--seconds", str(max(c.seconds(15), 8)), "--truth"]
    children = [subprocess.Popen(command + [t], env=env) for t in truths]
    statuses = [child.wait() for child in children]
    flop = sum(int(v) for t in truths for v in json.load(open(t))["truth"].values())
    report = c.report("shared")
    stated = all(int(p["counted"]) > 0 and int(p["interpolated"]) > 0 for p in report["processes"]) and len(report["processes"]) == 2
    c.row("shared.sum", abs(int(report["total"]["flop"]) / flop - 1) if statuses == [0, 0] and stated else None, 0.05, "<=")


def kill9(c):
    readable, lost, random_moments = 0, 0, random.Random(9)
    command = [c.args.bin, "demo", "--bare", "--kernel", "wgmma_bf16", "--seconds", "20", "--truth", "/dev/null"]
    for i in range(20):
        out = os.path.join(c.evidence, f"kill9-{i}")
        shutil.rmtree(out, ignore_errors=True)
        child = subprocess.Popen(command, env=c.env | {"LD_PRELOAD": c.args.lib, "FLOPSPROF_OUT": out})
        time.sleep(random_moments.uniform(0.8, 4.0))
        killed = time.monotonic_ns()
        child.send_signal(signal.SIGKILL)
        child.wait()
        done = subprocess.run([c.args.bin, "report", "--json", out], capture_output=True, text=True)
        # Killed before its first window: there is nothing to read, and nothing was counted that could be lost.
        none_yet = done.returncode == 3
        readable += done.returncode == 0 or none_yet
        if not none_yet and done.returncode == 0:
            lines = [json.loads(line) for f in os.listdir(out) if f.endswith(".jsonl") for line in open(os.path.join(out, f)) if line.endswith("\n")]
            ends = [line["end_ns"] for line in lines if line["type"] == "window"]
            begun = min([line["start_ns"] for line in lines if line["type"] == "window"], default=lines[0]["at_ns"])
            last = max(ends, default=begun)
            # The open window may be as long as the run is old; a boundary before it takes up to half a second.
            open_window = max(last - begun, 250_000_000) + 500_000_000
            lost = max(lost, 1 + (killed - last > open_window + 500_000_000))
        shutil.rmtree(out, ignore_errors=True)
    c.row("kill9.readable", readable / 20, 1, "==")
    c.row("kill9.windows_lost", lost, 1, "<=")


#: Between boundaries, and between probes with two changes of the group of counters each, in an old run (src/window/schedule.rs).
OLD_WINDOW_MS = 300_000
RARE_PROBE_MS = 1_800_000


def over(c):
    """What the meter costs, by the libcupti that it finds; and by a newer one, if there is one to try."""
    if c.args.stand_in:
        return
    _over(c, c.args.over_as, None)
    if c.args.newer_cupti:
        _over(c, "over_newer", c.args.newer_cupti)


def _over(c, prefix, cupti):
    out = os.path.join(c.args.out, prefix)
    command = [sys.executable, os.path.join(HERE, "overhead.py"), "--lib", c.args.lib, "--out", out, "--works", c.args.works]
    for number in ("couples", "controls", "pairs"):
        command += [f"--{number}", str(getattr(c.args, number))]
    done = subprocess.run([*command, *(["--cupti", cupti] if cupti else [])], env=c.env, stdout=subprocess.PIPE, text=True)
    first_evidence = sorted(d for d in os.listdir(out) if d.startswith("evidence"))[0]
    shutil.copytree(os.path.join(out, first_evidence), os.path.join(c.evidence, prefix), dirs_exist_ok=True)
    report = c.report(prefix)
    result = json.loads(done.stdout.splitlines()[-1])
    boundary, change = (statistics.median(result[f"{which}_ms"]) if result[f"{which}_ms"] else None for which in ("boundary", "change"))
    # A block that a boundary fell into is one of many, and the median does not see it. What boundaries and probes take of an old run is added.
    share = (boundary or 0) / OLD_WINDOW_MS + 2 * (change or 0) / RARE_PROBE_MS
    with open(os.path.join(c.evidence, prefix, "pairs.json"), "w") as f:
        json.dump(result, f)
    for name, limit in (("gpu_bound", 1.001), ("gpu_bound_zeros", 1.001), ("gpu_bound_short", None), ("launch_bound", 1.01), ("tiny", 1.01), ("product", None)):
        if name not in c.args.works.split(","):
            continue
        pairs, control = result["pairs"][name], result["control"][name]
        ratios, per_couple = overhead.crossed(pairs["ratios"]), c.args.pairs // 2
        # A process has luck of its own with memory and processors: each couple's median, besides.
        couples = [statistics.median(ratios[i : i + per_couple]) for i in range(0, len(ratios), per_couple)]
        more = {"couples": couples, "quartiles": statistics.quantiles(ratios, n=4), "standard_error": overhead.standard_error(ratios), "bare_s": statistics.median(pairs["bare_s"]), "power_w": result["power_w"].get(name), "share": share}
        more |= {key: statistics.median(found) for key, found in (("in_cycles", overhead.crossed(pairs["in_cycles"])), ("control", overhead.crossed(control["ratios"])), ("control_in_cycles", overhead.crossed(control["in_cycles"]))) if found}
        c.row(f"{prefix}.{name}", statistics.median(ratios) + share, None if cupti else limit, "<=" if limit and not cupti else "-", pairs=len(pairs["ratios"]), by=", ".join(report["libraries"].get("libcupti", [])), **more)
    c.row(f"{prefix}.boundary_ms", boundary, None, "-", seen=len(result["boundary_ms"]))
    c.row(f"{prefix}.change_ms", change, None, "-", seen=len(result["change_ms"]))
    shutil.rmtree(out)


def reconcile(c):
    """Trainings by transformers: what 6ND and its corrections leave unexplained. Not among the default checks: it needs transformers, peft and accelerate."""
    if c.args.stand_in:
        return
    folder = os.path.join(c.evidence, "reconcile")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    # Windows of one second: the trainings last four.
    environment = c.env | {"LD_PRELOAD": c.args.lib, "FLOPSPROF_WINDOW": "1"}
    command = [sys.executable, os.path.join(HERE, "reconcile.py"), folder, "--fills", c.args.fills, "--seconds", str(c.args.seconds)]
    done = subprocess.run(command, env=environment, timeout=540, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    print(done.stdout[-4000:], done.stderr[-4000:] if done.returncode else "", flush=True)
    sys.path.insert(0, HERE)
    from reconcile import cases

    for name, _, _, fill in cases():
        if fill not in c.args.fills.split(","):
            continue
        row = f"reconcile.{name.replace('-', '_')}"
        if not os.path.isdir(os.path.join(folder, name)):
            c.row(row, None, 0.02, "<=", error="no evidence")
            continue
        report = c.report(os.path.join("reconcile", name))
        said = report["reconciliation"]
        if said["lines"] is None:
            c.row(row, None, 0.02, "<=", error=said["why_not"])
            continue
        lines = {line["name"]: line["share"] for line in said["lines"]["lines"]}
        shares = {k: round(v, 5) for k, v in lines.items() if v}
        error = said["lines"]["standard_error"]
        measured = said["lines"]["measured"]
        paths = {p["metric"].removeprefix(PREFIX): [p["counted"], p["interpolated"]] for p in report["paths"] if p["flop"] != "0"}
        c.row(row, abs(lines["unexplained"]), 0.02, "<=", lines=shares, measured=measured, standard_error=error and error / measured, paths=paths, rates=said["rates"])
        print("     ", " ".join(f"{k}={100 * v:+.2f}%" for k, v in shares.items()), f"std.err. {error and 100 * error / measured}%", flush=True)


def callback(c):
    """What the transformers callback adds to a step: the time that a step spends in it, and steps with and without it."""
    if c.args.stand_in:
        return
    truth = os.path.join(c.args.out, "truth.json")
    command = [sys.executable, os.path.join(HERE, "reconcile.py"), os.path.join(c.args.out, "callback"), "--callback", truth, "--seconds", "48"]
    status, _, _ = c.metered("callback", command)
    if status != 0:
        c.row("callback.cost", None, 1e-3, "<=")
        return
    c.report("callback")
    said = json.load(open(truth))
    c.row("callback.cost", said["cost"], 1e-3, "<=", **{k: said[k] for k in ("step_s", "ratio", "steps", "host_s", "gpu_s", "parts_s", "first_s", "typical_s", "most_s")})


def estimate(c):
    """The goldens of tests/estimate, counted again by this machine's PyTorch on its GPU."""
    if c.args.stand_in:
        return
    goldens = os.path.join(HERE, "..", "estimate")
    out = os.path.join(c.args.out, "goldens")
    command = [sys.executable, os.path.join(goldens, "record.py"), "--device", "cuda", "--out", out]
    subprocess.run(command, env=c.env, check=True, timeout=600)
    worst = 0.0
    # Some are of the release of transformers before: they are not counted again by this one.
    names = sorted(name.removesuffix(".json") for name in os.listdir(out))
    for name in names:
        again, golden = (json.load(open(os.path.join(folder, f"{name}.json"))) for folder in (out, os.path.join(goldens, "golden")))
        for a, b in zip(again["counted"], golden["counted"]):
            worst = max(worst, *(abs(a[k] / b[k] - 1) for k in ("forward", "backward")))
    c.row("estimate.goldens", worst, 1e-3, "<=", classes=len(names))
    shutil.rmtree(out)


ALL = {"start": start, "first": first, "exact": exact, "mix": mix, "fw": fw, "kineto": kineto, "shared": shared, "kill9": kill9, "over": over}
# Those that run only when they are named: they take long, or need more than PyTorch.
MORE = {"multi": multi, "reconcile": reconcile, "callback": callback, "estimate": estimate} | kernels.CHECKS | peers.CHECKS | witness.CHECKS


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=os.path.abspath)
    parser.add_argument("--lib", required=True, type=os.path.abspath)
    parser.add_argument("--out", required=True, type=os.path.abspath)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--only", default=",".join(ALL), help="these checks; none for an empty list (besides: " + ",".join(MORE) + ")")
    parser.add_argument("--onto", nargs="*", default=[], help="results.json of runs before: a row of this run takes the place of the one with its id")
    parser.add_argument("--rows", default="", help="of all files of --onto but the first: rows whose ids begin so")
    parser.add_argument("--couples", type=int, default=2)
    parser.add_argument("--controls", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--default-seconds", type=int, default=490, help="of default: how long the metered run is; a census comes after some seven minutes")
    parser.add_argument("--over-as", default="over", help="what the rows of over are called: a second run confirms the first")
    parser.add_argument("--newer-cupti", type=os.path.abspath, help="of over: measure by this libcupti too")
    parser.add_argument("--works", default=",".join(overhead.BLOCK), help="of over: these alone")
    parser.add_argument("--fills", default="padded,packed,whole", help="of reconcile: how rows are filled")
    parser.add_argument("--seconds", type=float, default=4, help="of reconcile: of each training")
    parser.add_argument("--peer-seconds", type=float, default=300, help="of peer: of the whole study")
    parser.add_argument("--stand-in", type=os.path.abspath)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    checks = Checks(args)
    checks.write()
    for name in filter(None, args.only.split(",")):
        begun = time.monotonic()
        try:
            (ALL | MORE)[name](checks)
        except Exception as e:  # one check that breaks must not cost the others their run
            checks.row(name, None, None, "<=", error=repr(e))
        print(f"     ({name}: {time.monotonic() - begun:.0f} s)", flush=True)
    with tarfile.open(os.path.join(args.out, "evidence.tar.gz"), "w:gz") as tar:
        tar.add(checks.evidence, arcname="evidence")
    shutil.rmtree(checks.evidence)
    failed = [r["id"] for r in checks.rows if not r["pass"]]
    print(f"{len(checks.rows) - len(failed)} passed, {len(failed)} failed{': ' + ', '.join(failed) if failed else ''}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
