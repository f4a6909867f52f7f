"""The analytic side's checks, run by run.py: trainings that are explained line by line, what the callback costs, and the goldens of the estimate counted again.

They need transformers, peft and accelerate.
"""

import json
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PREFIX = "sm__ops_path_tensor_"


def trained(c, folder, *arguments):
    """Runs reconcile.py with its evidence in a folder of this name."""
    folder = os.path.join(c.evidence, folder)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    # Windows of one second: the trainings last some.
    environment = c.env | {"LD_PRELOAD": c.args.lib, "FLOPSPROF_WINDOW": "1"}
    command = [sys.executable, os.path.join(HERE, "reconcile.py"), folder, *arguments]
    done = subprocess.run(command, env=environment, timeout=540, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    print(done.stdout[-4000:], done.stderr[-4000:] if done.returncode else "", flush=True)


def explained(c, row, folder, name):
    """A row of what 6ND and its corrections leave unexplained of a training; its lines, or none where there is no such thing."""
    if not os.path.isdir(os.path.join(c.evidence, folder, name)):
        c.row(row, None, 0.02, "<=", error="no evidence")
        return None
    report = c.report(os.path.join(folder, name))
    said = report["reconciliation"]
    if said["lines"] is None:
        c.row(row, None, 0.02, "<=", error=said["why_not"])
        return None
    lines = {line["name"]: line for line in said["lines"]["lines"]}
    shares = {k: round(line["share"], 5) for k, line in lines.items() if line["share"]}
    error = said["lines"]["standard_error"]
    measured = said["lines"]["measured"]
    paths = {p["metric"].removeprefix(PREFIX): [p["counted"], p["interpolated"]] for p in report["paths"] if p["flop"] != "0"}
    value = abs(lines["unexplained"]["share"])
    c.row(row, value, 0.02, "<=", lines=shares, measured=measured, standard_error=error and error / measured, paths=paths, rates=said["rates"])
    print("     ", " ".join(f"{k}={100 * v:+.2f}%" for k, v in shares.items()), f"std.err. {error and 100 * error / measured}%", flush=True)
    return lines


def reconcile(c):
    """Trainings by transformers: what 6ND and its corrections leave unexplained."""
    if c.args.stand_in:
        return
    trained(c, "reconcile", "--fills", c.args.fills, "--seconds", str(c.args.seconds))
    from reconcile import cases

    for name, _, _, fill in cases():
        if fill in c.args.fills.split(","):
            explained(c, f"reconcile.{name.replace('-', '_')}", "reconcile", name)


def tiles(c):
    """Trainings with a census of one step: how many of their products it was matched with, and what is left unexplained then."""
    if c.args.stand_in:
        return
    trained(c, "tiles", "--tiles", "--seconds", str(max(c.args.seconds, 20)))
    # A minute passes before the first census.
    trained(c, "tiles-itself", "--itself", "--seconds", "100")
    from reconcile import ITSELF
    from reconcile import tiles as cases

    for folder, (name, _, _, _) in [*(("tiles", case) for case in cases()), *(("tiles-itself", case) for case in ITSELF)]:
        row = name.replace("-", "_")
        lines = explained(c, f"reconcile.tiles.{row}", folder, name)
        source = (lines or {}).get("tile_padding", {}).get("source", "")
        c.row(f"reconcile.matched.{row}", int("are the products of" in source), 1, "==", source=source)


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


CHECKS = {"reconcile": reconcile, "tiles": tiles, "callback": callback, "estimate": estimate}
