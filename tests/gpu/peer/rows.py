"""From what `peers.py` measured to rows of results.json, and from those to README's table."""

import statistics

from .work import TIMED

#: Whose process tells each report: AWS's meter gives two.
REPORTS = {
    "bare": "bare",
    "flopsprof": "flopsprof",
    "ncu": "ncu",
    "flop_counter": "flop_counter",
    "torch_profiler": "torch_profiler",
    "torch_profiler_flops": "torch_profiler_flops",
    "proton": "proton",
    "gpm": "gpm",
    "aws": "aws",
    "nvml": "aws",
}
NAMES = {
    "bare": "no tool, a second bare process",
    "flopsprof": "flopsprof",
    "ncu": "Nsight Compute, kernels that may use tensor cores",
    "flop_counter": "PyTorch FlopCounterMode",
    "torch_profiler": "torch.profiler, CUDA activities",
    "torch_profiler_flops": "torch.profiler, `with_flops`",
    "proton": "Triton Proton",
    "gpm": "NVML GPM polled as DCGM does, × peak at the clock",
    "aws": "AWS meter: 6 × N × tokens",
    "nvml": "AWS meter: NVML utilization × peak",
}
#: A feature is what the first variant has and the second has not.
FEATURES = {
    "triton": ("triton", "base"),
    "graph": ("graph", None),
    "padding": ("padded", "trimmed"),
    "tiles": ("tiles", "base"),
    "recomputation": ("recompute", "base"),
    "other_process": ("other", "base"),
}
HEADS = {
    "triton": "Triton kernel",
    "graph": "CUDA graph",
    "padding": "pad tokens",
    "tiles": "tile padding",
    "recomputation": "recomputation",
    "other_process": "other process",
}
#: A tool sees a feature when it reports that share of its operations.
SEEN = (0.75, 1.25)


class Said:
    """What was measured."""

    def __init__(self, said):
        self.said, self.tools, self.nominal = said, said["tools"], said["work"]["tiles_nominal"]

    def why(self, report, variant=None):
        """Why there is no number."""
        tool = self.tools.get(REPORTS[report])
        if tool is None:
            return self.said.get("why", "it was not asked")
        return tool["failed"].get(variant) or tool.get("why") or "it reports no number"

    def step(self, report, variant):
        """Operations that are reported for a step of a variant."""
        measured = self.tools.get(REPORTS[report], {}).get("measured", {}).get(variant)
        flop = measured and measured["reports"].get(report)
        return None if flop is None else flop / measured["times"]

    def truth(self, variant):
        """Operations that a step of a variant executes, and who counted them: Nsight Compute where it did, else the meter."""
        for by in ("ncu", "flopsprof"):
            flop = self.step(by, variant)
            if flop is not None:
                return flop, by
        return None, None

    def other(self, report):
        """Of the other process, in a step beside it: operations that are reported for it, and those that it executed."""
        beside, alone = self.step(report, "other"), self.step(report, "base")
        if beside is None or alone is None:
            return None
        measured = self.tools[REPORTS[report]]["measured"]["other"]
        return beside, alone, measured["others"] * self.said["other"]["product"] / measured["times"], "2MNK"

    def feature(self, report, feature):
        """What is reported with a feature and without, the operations that it has, and who counted those."""
        if feature == "other_process":
            return self.other(report)
        with_it, without = FEATURES[feature]
        pairs = [(self.step(report, v), *self.truth(v)) if v else (0, 0, None) for v in (with_it, without)]
        if any(x is None for pair in pairs for x in pair[:2]):
            return None
        # Of products that do not fill their tiles, what the formula says is no padding.
        less = self.nominal if feature == "tiles" else 0
        (told, executed, by), (told_without, executed_without, by_without) = pairs
        if by_without and by_without != by:
            by = f"{by}, {by_without}"
        # Who does not report the products at all reports nothing of their padding.
        return max(told - less, told_without) if less else told, told_without, executed - executed_without - less, by


def rows(said):
    """Rows: id, value, limit, op, and what else belongs to them."""
    s = Said(said)
    for report, owner in REPORTS.items():
        for variant, kind in TIMED.items():
            yield _time_row(s, report, owner, variant, kind)
        if report == "bare":
            continue
        yield _error(s, report)
        for feature in FEATURES:
            yield _sees(s, report, feature)


def _time_row(s, report, owner, variant, kind):
    name, time = f"peer.{report}.{kind}", ((s.tools.get(owner) or {}).get("time") or {}).get(variant)
    if not time:
        why = "timed on the other step alone: each takes it many seconds" if owner == "ncu" and kind == "time" else s.why(report, kind)
        return name, None, None, "-", {"why": why}
    quartiles = statistics.quantiles(time["ratios"], n=4) if len(time["ratios"]) > 1 else 3 * time["ratios"]
    more = {"pairs": len(time["ratios"]), "quartiles": quartiles, **{k: time[k] for k in ("steps", "bare_s", "launched_s", "bare_launched_s", "start_s", "stop_s")}}
    value = statistics.median(time["ratios"])
    if report == "flopsprof" and s.said.get("boundary_ms"):
        # As in over.*: the pairs see no boundary between windows, an old run has one a minute.
        more["boundary_ms"] = statistics.median(s.said["boundary_ms"])
        value += more["boundary_ms"] / 60_000
    return name, value, None, "-", more


def _error(s, report):
    told, limit = s.step(report, "base"), 1e-6 if report == "flopsprof" else None
    op, extra = "<=" if limit else "-", s.tools.get(REPORTS[report], {}).get("more") or {}
    # Neither of the two that count is its own judge.
    executed, by = (s.step("flopsprof", "base"), "flopsprof") if report == "ncu" else s.truth("base")
    if report == "flopsprof":
        extra = extra | _cross(s)
        if by == "flopsprof":
            executed, by = None, None
            if "triton_over_2mnk" in extra:
                executed, by = told / extra["triton_over_2mnk"], "2MNK of the Triton kernel"
    if told is None or not executed:
        why = s.why(report, "base") if told is None else "nothing else counted the step"
        return f"peer.{report}.error", None, limit, op, extra | {"why": why, "flop": told}
    return f"peer.{report}.error", abs(told / executed - 1), limit, op, extra | {"flop": told, "executed": executed, "by": by}


def _cross(s):
    """The meter's counts over those of Nsight Compute, by variant, and over what is known of the Triton kernel; the report's total over the sum of its windows."""
    variants = ["base", *s.tools.get("ncu", {}).get("measured", {})]
    over = {v: s.step("flopsprof", v) / s.step("ncu", v) for v in variants if s.step("ncu", v) and s.step("flopsprof", v) is not None}
    found = {"over_ncu": over}
    triton, base = s.step("flopsprof", "triton"), s.step("flopsprof", "base")
    if triton is not None and base is not None:
        found["triton_over_2mnk"] = (triton - base) / (s.said["work"]["products"] * s.said["work"]["product"])
    if s.said.get("windows"):
        found["report_over_windows"] = s.said["report"] / s.said["windows"]
    return found


def _sees(s, report, feature):
    name, found = f"peer.{report}.sees_{feature}", s.feature(report, feature)
    if found is None or not found[2]:
        variants = [v for v in FEATURES[feature] if v]
        missing = next((v for v in variants if s.step(report, v) is None), None)
        why = s.why(report, missing) if missing else "nobody counted what there was to see" if found is None else "there was nothing to see"
        return name, None, None, "-", {"why": why}
    with_it, without, executed, by = found
    share = (with_it - without) / executed
    more = {"share": share, "with": with_it, "without": without, "executed": executed, "by": by}
    return name, int(SEEN[0] <= share <= SEEN[1]), None, "-", more


# ---- README's table


def _reports(found):
    return [r for r in REPORTS if f"peer.{r}.time" in found]


def _time(row):
    if row["value"] is None:
        return "–"
    return f"{row['value']:.4g} ({row['quartiles'][0]:.4g} to {row['quartiles'][2]:.4g})"


def _cell(row):
    if row["value"] is None:
        return "–"
    return f"{'yes' if row['value'] else '**no**'}, {row['share']:.3g}"


def table(results):
    """The table in README, with who is better than flopsprof at what; nothing when there are no such rows."""
    found = {row["id"]: row for row in results if row["id"].startswith("peer.")}
    if "peer.flopsprof.time" not in found:
        return ""
    heads = ["", "GPU-bound step : bare (quartiles)", "launch-bound step : bare", "FLOP of a step", "error", *HEADS.values()]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    absent = []
    for report in _reports(found):
        row, launch = (found[f"peer.{report}.{kind}"] for kind in TIMED.values())
        cells = [NAMES[report], _time(row), _time(launch)]
        error = found.get(f"peer.{report}.error")
        if error:
            cells += ["–" if error.get("flop") is None else f"{error['flop']:.4g}", "–" if error["value"] is None else f"{error['value']:.2g}"]
            cells += [_cell(found[f"peer.{report}.sees_{f}"]) for f in FEATURES]
        else:
            cells += ["–"] * (len(heads) - 2)
        lines.append("| " + " | ".join(cells) + " |")
        absent += [f"{NAMES[report]}: {' '.join(x['why'].split())[:160]}" for x in (row, launch, error) if x and x["value"] is None and "why" in x][:1]
    one = found["peer.flopsprof.time"]
    lines += ["", f"({one['device']}, driver {one['driver']}, {one['date']}, commit {one['commit']}. –: no number.)", "", *_better(found)]
    lines += [f"- No number: {said}." for said in absent]
    grouped = found["peer.flop_counter.error"].get("grouped_query")
    lines += [f"- {NAMES['flop_counter']} on attention with grouped queries: {grouped}."] if grouped else []
    return "\n".join(lines) + "\n"


def _better(found):
    """Lines that name whoever is better than flopsprof, and at what."""
    ours = {kind: found[f"peer.flopsprof.{kind}"] for kind in (*TIMED.values(), "error", *(f"sees_{f}" for f in FEATURES))}
    lines = []
    for report in _reports(found):
        at = []
        if report in ("bare", "flopsprof"):
            continue
        error = found[f"peer.{report}.error"]
        for kind, head in (("time", "time of the GPU-bound step"), ("time_launch", "time of the launch-bound step")):
            time, our = found[f"peer.{report}.{kind}"], ours[kind]
            if None not in (time["value"], our["value"]) and time["value"] < our["value"]:
                apart = time["quartiles"][2] < our["quartiles"][0]
                at.append(f"{head} ({time['value']:.4g} against {our['value']:.4g}{'' if apart else ', inside the scatter of the pairs'})")
        if None not in (error["value"], ours["error"]["value"]) and error["value"] < ours["error"]["value"]:
            at.append(f"error ({error['value']:.2g} against {ours['error']['value']:.2g})")
        for feature, head in HEADS.items():
            theirs, our = found[f"peer.{report}.sees_{feature}"], ours[f"sees_{feature}"]
            if theirs["value"] == 1 and our["value"] != 1:
                at.append(f"seeing: {head}")
        if at:
            lines.append(f"- Better than flopsprof: {NAMES[report]}, at {'; '.join(at)}.")
    unknown = [kind for kind, row in ours.items() if row["value"] is None]
    if unknown:
        lines.append(f"- Not told, because flopsprof has no number: who is better at {', '.join(unknown)}.")
    return lines or ["- Nobody was better than flopsprof at any of these."]
