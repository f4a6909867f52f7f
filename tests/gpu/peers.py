"""flopsprof beside its peers: the same training step, bare and under each tool, in one run. For `run.py` (`--only peer`); by itself

    python3 peers.py measure --lib LIBRARY --out DIR [--seconds 300] [--only bare,flopsprof,...] [--tiny]
    python3 peers.py table results.json

The first writes DIR/peers.json, the second prints README's table from the rows that `run.py` made of it. Each tool works in a process of its own, forked from
one that has imported torch and not started CUDA, so that one which fails, hangs or leaves something behind costs the others nothing. What a tool costs is told by
pairs, a block of steps under it and a block of a bare process beside it, in alternation as in `overhead.py`. What it sees is told by what it reports with
and without a feature (see `peer/work.py`), against what the counters say. `--tiny` tries the script on a CPU, where nothing is counted.
"""

import argparse
import csv
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "python")]
from peer import rows, work  # noqa: E402
from peer.process import Child, Failed, serve  # noqa: E402

#: Tools in the order in which they are run: those with which the others are compared first.
ORDER = ("bare", "flopsprof", "ncu", "flop_counter", "torch_profiler", "gpm", "proton", "aws", "torch_profiler_flops")
#: Pairs of blocks, and timed steps of a block.
PAIRS, BLOCK = 8, {"wide": 4, "base": 6}
#: The same for Nsight Compute, which takes many seconds a step and cannot be told apart between the two.
NCU_PAIRS, NCU_BLOCK = 2, {"base": 1}
#: Kernels that may use tensor cores, by their mangled names: the others execute nothing there, and each costs Nsight Compute as much.
NCU_KERNELS = "nvjet|gemm|xmma|cutlass|sdpa|flash|fmha|peer_product|peer_mark"
NCU_METRIC = "sm__ops_path_tensor_src_bf16_dst_fp32.sum"
#: What Nsight Compute is asked for, the most telling first: it may not come to the end.
NCU_ORDER = ("base", "triton", "graph", "tiles", "recompute", "other", "padded", "trimmed")
#: Seconds that Nsight Compute may take, and that it needs of them to write.
NCU_SECONDS, NCU_END = 80, 12


# ---- the study


class Study:
    def __init__(self, args):
        self.args, self.until = args, time.monotonic() + args.seconds
        self.tool_until = self.until
        self.said = {"tools": {}, "other": {}, "bare": {}, "work": {"products": work.PRODUCTS, "product": work.PRODUCT, "tiles_nominal": work.TILES_NOMINAL}}

    def left(self):
        return min(self.until, self.tool_until) - time.monotonic()

    def patience(self):
        """How long an answer may take."""
        return max(min(60, self.left()), 1)

    def write(self):
        path = os.path.join(self.args.out, "peers.json")
        with open(path + ".new", "w") as f:
            json.dump(self.said, f, indent=1)
        os.replace(path + ".new", path)

    def go(self):
        self.write()
        self.bare = Child("plain", self.args)
        try:
            ready = self.bare.hear(60)
        except Failed as e:
            self.said["why"] = f"the bare process failed: {e}"
            self.write()
            return
        self.said["bare"] |= {"failed": ready["failed"], "parameters": ready["parameters"], "tokens": math.prod(work.BATCH)}
        self.step_s = statistics.median(self._bare_block(8)[0])
        self.said["bare"]["step_s"] = self.step_s
        self.write()
        self.other = None
        try:
            self.other = Child("other", self.args)
            self.said["other"]["product"] = self.other.hear(60)["flop"]
        except Failed as e:
            self.other, self.said["other"]["why"] = None, str(e)
        for name in self.args.only.split(","):
            begun, out = time.monotonic(), {"measured": {}, "failed": {}}
            self.said["tools"][name] = out
            self.tool_until = begun + NCU_SECONDS if name == "ncu" else self.until
            try:
                self.tool(name, out)
            except Failed as e:
                out["why"] = str(e)
            except Exception as e:
                traceback.print_exc()
                out["why"] = f"{type(e).__name__}: {e}"[:300]
            out["study_s"] = time.monotonic() - begun
            print(f"  {name}: {out['study_s']:.0f} s {out.get('why', '')} {out['failed'] or ''}", file=sys.stderr, flush=True)
            self.write()
        for child in filter(None, (self.bare, self.other)):
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(5)

    def _bare_block(self, times, variant="base"):
        self.bare.tell(do="time", variant=variant, times=times, warm=1)
        said = self.bare.hear(self.patience())
        return said["took"], said["launched"]

    def tool(self, name, out):
        if self.left() < 15:
            raise Failed("the time of the study was over")
        env, command, evidence = {}, None, os.path.join(self.args.out, "evidence")
        if name == "flopsprof":
            shutil.rmtree(evidence, ignore_errors=True)
            env = {"CUDA_INJECTION64_PATH": self.args.lib or "", "FLOPSPROF_OUT": evidence}
        elif name == "ncu":
            command = self._ncu()
        child = Child(name, self.args, command, **env)
        try:
            ready = child.hear(self.patience())
            out["failed"] |= ready["failed"]
            if name == "flopsprof" and not self.args.tiny:
                self._steady(child, out, evidence)
            if name == "ncu":
                self._measure(child, out, name, ready["seconds"], NCU_ORDER[:1])
            out["time"] = {}
            pairs, blocks = (NCU_PAIRS, NCU_BLOCK) if name == "ncu" else (2 if self.args.tiny else PAIRS, BLOCK)
            for variant, times in blocks.items():
                try:
                    out["time"][variant] = self._time(child, variant, pairs, times)
                except Failed as e:
                    out["failed"][work.TIMED[variant]] = str(e)
                    if e.final:
                        raise
            if name != "bare":
                self._measure(child, out, name, ready["seconds"], NCU_ORDER[1:] if name == "ncu" else (*work.VARIANTS, "other"))
            child.tell(do="end")
            out["more"] = out.get("more", {}) | child.hear(30)["more"]
        finally:
            child.wait(NCU_END + 10 if name == "ncu" else 10)
        if name == "ncu":
            self._ncu_said(out)

    def _steady(self, child, out, evidence):
        """Until the meter is at its steady work."""
        from overhead import steady

        until = time.monotonic() + 25
        while not steady(evidence):
            child.tell(do="time", variant="base", times=8, warm=0)
            child.hear(30)
            if time.monotonic() > until:
                # It is timed as it is; the row says so.
                out["more"] = {"unsteady": "no long window within 25 s"}
                return

    def _time(self, child, variant, pairs, times):
        ratios, bare_s, around, launched, bare_launched = [], [], [], [], []
        for index in range(pairs):
            took = {}
            # Who comes first alternates, so that what the second finds favours neither.
            for under in (True, False) if index % 2 else (False, True):
                if under:
                    child.tell(do="time", variant=variant, times=times, warm=1 if times > 1 else 0)
                    said = child.hear(self.patience())
                    took[under], more = said["took"], [said["start_s"], said["stop_s"]]
                    launched += said["launched"]
                else:
                    took[under], block = self._bare_block(BLOCK[variant], variant)
                    bare_launched += block
            ratios.append(statistics.median(took[True]) / statistics.median(took[False]))
            bare_s.append(statistics.median(took[False]))
            around.append(more)
            if index >= 2 and min(ratios) > 2:
                # It is plain what it costs.
                break
            if child.name == "ncu" and self.left() < NCU_END + 3 + 2 * took[True][0]:
                break
        start_s, stop_s = (statistics.median(x) for x in zip(*around))
        cpu = {"launched_s": statistics.median(launched), "bare_launched_s": statistics.median(bare_launched)}
        return {"ratios": ratios, "bare_s": statistics.median(bare_s), **cpu, "steps": times, "start_s": start_s, "stop_s": stop_s}

    def _measure(self, child, out, name, seconds, variants):
        """What the tool reports for each variant, and beside another process. It goes on with the next when one fails."""
        times = 1 if name == "ncu" else max(2, math.ceil(seconds / self.step_s))
        for variant in variants:
            # A step under Nsight Compute that does not end in time costs all that it has counted before: none is begun that may be too long.
            longest = max((m["took_s"] for m in out["measured"].values()), default=0) if name == "ncu" else 0
            if self.left() < (NCU_END if name == "ncu" else 0) + 3 + 2 * longest:
                out["failed"][variant] = "the time of the study was over"
                continue
            if variant in out["failed"]:
                continue
            try:
                if variant == "other":
                    self._beside_another(child, out, times)
                else:
                    child.tell(do="measure", variant=variant, times=times)
                    out["measured"][variant] = child.hear(self.patience())
            except Failed as e:
                out["failed"][variant] = str(e)
                if e.final:
                    raise

    def _beside_another(self, child, out, times):
        if self.other is None:
            raise Failed(f"there is no other process: {self.said['other'].get('why')}")
        products = 2 if self.args.tiny else times * work.PRODUCTS
        child.tell(do="measure", variant="base", times=times, wait=True)
        child.hear(self.patience())
        self.other.tell(times=products)
        child.hear(self.patience())
        self.other.hear(self.patience())
        child.tell(do="stop")
        out["measured"]["other"] = child.hear(self.patience()) | {"others": products}

    # ---- Nsight Compute

    def _ncu(self):
        found = [p for p in (shutil.which("ncu"), "/usr/local/cuda/bin/ncu") if p and os.path.exists(p)]
        if not found:
            raise Failed("there is no ncu on this machine")
        self.ncu_csv = os.path.join(self.args.out, "ncu.csv")
        command = [found[0], "--csv", "--page", "raw", "--print-units", "base", "--log-file", self.ncu_csv, "--clock-control", "none", "--profile-from-start", "off"]
        return [*command, "--kernel-name-base", "mangled", "--kernel-name", f"regex:{NCU_KERNELS}", "--metrics", NCU_METRIC]

    def _ncu_said(self, out):
        if not os.path.exists(self.ncu_csv):
            raise Failed("ncu wrote nothing")
        with open(self.ncu_csv, errors="replace") as f:
            text = f.read()
        rows = [r for r in csv.DictReader(text[text.find('"ID"') :].splitlines()) if r.get("Kernel Name") and r["ID"]] if '"ID"' in text else []
        if not rows:
            raise Failed(f"ncu profiled no kernel: {' '.join(text[-300:].split())}")
        mark, flop, launches = 0, {}, {}
        for row in rows:
            if "peer_mark" in row["Kernel Name"]:
                mark = int(row["Grid Size"].strip("() ").split(",")[0])
                continue
            flop[mark] = flop.get(mark, 0) + round(float(row[NCU_METRIC].replace(",", "")))
            launches[mark] = launches.get(mark, 0) + 1
        for said in out["measured"].values():
            said["reports"]["ncu"] = flop.get(said["reports"]["mark"])
            said["launches"] = launches.get(said["reports"]["mark"])


# ---- run.py's


def peer(c):
    """Rows of the study: see `peer/rows.py`."""
    if c.args.stand_in:
        return
    from overhead import boundaries, windows

    out = os.path.join(c.args.out, "peer")
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    command = [sys.executable, os.path.abspath(__file__), "measure", "--lib", c.args.lib, "--out", out, "--seconds", str(c.args.peer_seconds)]
    try:
        done = subprocess.run(command, env=c.env, timeout=c.args.peer_seconds + 20, stderr=subprocess.PIPE, text=True)
        print(done.stderr[-4000:], flush=True)
    except subprocess.TimeoutExpired as e:
        print(f"the study did not end: {(e.stderr or b'')[-2000:]}", flush=True)
    with open(os.path.join(out, "peers.json")) as f:
        said = json.load(f)
    evidence = os.path.join(out, "evidence")
    if windows(evidence):
        shutil.copytree(evidence, os.path.join(c.evidence, "peer"), dirs_exist_ok=True)
        # What flopsprof itself says of the whole run, beside the sum of the windows, of which the study took its share.
        said["report"] = int(c.report("peer")["total"]["flop"])
        said["windows"] = sum(int(n) for w in windows(evidence) for n in w.get("counts", {}).values())
        said["boundary_ms"], _ = boundaries(evidence)
    for name, value, limit, op, more in rows.rows(said):
        c.row(name, value, limit, op, **more)
    shutil.copy(os.path.join(out, "peers.json"), os.path.join(c.evidence, "peers.json"))
    shutil.rmtree(out)


CHECKS = {"peer": peer}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    measure, served, table = verbs.add_parser("measure"), verbs.add_parser("serve"), verbs.add_parser("table")
    for verb in (measure, served):
        verb.add_argument("--out", required=True, type=os.path.abspath)
        verb.add_argument("--lib", type=os.path.abspath)
        verb.add_argument("--tiny", action="store_true")
    measure.add_argument("--seconds", type=float, default=300)
    measure.add_argument("--only", default=",".join(ORDER))
    for name in ("tool", "ask", "answer"):
        served.add_argument(name)
    table.add_argument("results")
    args = parser.parse_args()
    if args.verb == "serve":
        serve(args.tool, args.ask, args.answer, args)
    elif args.verb == "table":
        with open(args.results) as f:
            print(rows.table(json.load(f)), end="")
    else:
        import torch  # noqa: F401  imported once, for all children; CUDA is not started here

        os.makedirs(args.out, exist_ok=True)
        Study(args).go()


if __name__ == "__main__":
    main()
