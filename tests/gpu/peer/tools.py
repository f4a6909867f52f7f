"""The tools that `peers.py` sets side by side, each as its users run it.

A tool is started before work and stopped after it; `stop` answers the operations it reports for that work, by the name under which they are told. What a tool
needs to know of the work (tokens, parameters) it is told as its users would tell it.
"""

import ctypes
import glob
import json
import os
import time

class Tool:
    """No tool: bare."""

    #: The names under which it reports.
    reports = ()
    #: It cannot be started and stopped inside the process: it is there all the time.
    external = False
    #: It runs on from block to block: what it does now and then would not fall into one.
    lasting = False
    #: How long work must last for it to see anything, seconds; 0: a step or two do.
    seconds = 0.0

    def __init__(self, work, args):
        self.work, self.running = work, False

    def start(self):
        pass

    def step(self, fed):
        """A step is done; these tokens were fed to it."""

    def stop(self):
        return {}

    def read(self):
        """After the clock has stopped: what `stop` could not say yet."""
        return {}

    def more(self):
        """What else is to be known of it."""
        return {}


class Flopsprof(Tool):
    """The meter: the operations in the windows between two marks, which end windows while the GPU is idle."""

    reports, external, seconds = ("flopsprof",), True, 0.5

    def __init__(self, work, args):
        super().__init__(work, args)
        from flopsprof._library import Library  # of python/, which peers.py puts on the path

        self.folder = os.environ["FLOPSPROF_OUT"]
        # The driver has loaded this very file; a second opening gives the same library.
        self.library = Library(ctypes.CDLL(args.lib))
        self.clean, self.first = -1, 0

    def _windows(self):
        from overhead import windows

        return windows(self.folder)

    def _fence(self):
        """Ends the open window; the number of windows there are then."""
        self.work.sync()
        asked = time.monotonic_ns()
        while time.monotonic_ns() - asked < 10e9:
            if not self.library.mark_phase("peers"):
                raise RuntimeError("the library is not in this process")
            for _ in range(10):
                time.sleep(0.05)
                found = self._windows()
                if found and found[-1]["end_ns"] >= asked:
                    self.clean = self.work.ran
                    return len(found)
        raise RuntimeError("no window ended within 10 s of a mark")

    def start(self):
        if self.clean != self.work.ran:
            self.first = self._fence()

    def stop(self):
        last = self._fence()
        found = self._windows()[self.first : last]
        self.first = last
        if not found or any(w["tier"] != "counted" for w in found):
            raise RuntimeError(f"windows that are not counted: {[w['tier'] for w in found]}")
        return {"flopsprof": sum(int(n) for w in found for n in w["counts"].values())}


class TorchProfiler(Tool):
    """torch.profiler with the GPU's activities alone."""

    reports, flops = ("torch_profiler",), False

    def start(self):
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU] if self.work.tiny else [ProfilerActivity.CUDA]
        if self.flops and not self.work.tiny:
            activities.append(ProfilerActivity.CPU)
        self.profile = profile(activities=activities, with_flops=self.flops)
        self.profile.__enter__()

    def stop(self):
        self.profile.__exit__(None, None, None)
        self.last, self.profile = self.profile, None
        return {}

    def read(self):
        averages = self.last.key_averages()
        self.kernels = sum(a.count for a in averages if str(a.device_type).endswith("CUDA"))
        self.last = None
        return {self.reports[0]: sum(a.flops or 0 for a in averages)}

    def more(self):
        return {"kernels": getattr(self, "kernels", None)}


class TorchProfilerFlops(TorchProfiler):
    """torch.profiler with_flops: formulas of the operators that the CPU calls."""

    reports, flops = ("torch_profiler_flops",), True


class FlopCounter(Tool):
    """PyTorch's FlopCounterMode."""

    reports = ("flop_counter",)

    def start(self):
        from torch.utils.flop_counter import FlopCounterMode

        self.mode = FlopCounterMode(display=False)
        self.mode.__enter__()

    def stop(self):
        self.mode.__exit__(None, None, None)
        return {"flop_counter": self.mode.get_total_flops()}

    def more(self):
        from torch.utils.flop_counter import FlopCounterMode

        self.work.grouped_query()
        try:
            with FlopCounterMode(display=False) as mode:
                self.work.grouped_query()
            return {"grouped_query": f"{mode.get_total_flops()} FLOP"}
        except Exception as e:
            return {"grouped_query": f"{type(e).__name__}: {e}"[:300]}


class Proton(Tool):
    """Triton's profiler: operations that a kernel's author told it."""

    reports = ("proton",)

    def __init__(self, work, args):
        super().__init__(work, args)
        import triton.profiler

        self.proton, self.path, self.number, self.seen = triton.profiler, os.path.join(args.out, "proton"), 0, None

    def start(self):
        self.number += 1
        self.session = self.proton.start(f"{self.path}-{self.number}", hook="triton")
        if self.session is None:
            raise RuntimeError("Proton is switched off here")

    def stop(self):
        self.proton.finalize(self.session, "hatchet")
        return {}

    def read(self):
        [file] = glob.glob(f"{self.path}-{self.number}*.hatchet")
        flop, self.seen = 0.0, 0

        def walk(node):
            nonlocal flop
            metrics = node.get("metrics", {})
            flop += sum(v for k, v in metrics.items() if k in ("flops", "flops8", "flops16", "flops32", "flops64"))
            self.seen += metrics.get("count", 0)
            for child in node.get("children", []):
                walk(child)

        with open(file) as f:
            for tree in json.load(f):
                # Beside the tree stands a list of devices.
                if "metrics" in tree:
                    walk(tree)
        os.remove(file)
        return {"proton": flop}

    def more(self):
        return {"kernels": self.seen}


class Ncu(Tool):
    """Nsight Compute, from outside: which launches it profiles is told by cudaProfilerStart and Stop, which phase they belong to by a mark among them."""

    reports, external = ("ncu",), False

    def __init__(self, work, args):
        super().__init__(work, args)
        import torch

        self.torch, self.number, self.x = torch, 0, torch.zeros(1, device="cuda")
        from .kernel import mark

        self.mark = mark
        self.mark(1, self.x)
        work.sync()

    def start(self):
        self.number += 1
        self.work.sync()
        self.torch.cuda.cudart().cudaProfilerStart()
        self.mark(self.number, self.x)

    def stop(self):
        self.work.sync()
        self.torch.cuda.cudart().cudaProfilerStop()
        # What it counted stands in its own output, under this number.
        return {"ncu": None, "mark": self.number}


def tool(name):
    """The tool of a name."""
    if name in ("gpm", "aws"):
        from . import nvml

        return {"gpm": nvml.Gpm, "aws": nvml.Aws}[name]
    return {
        "flopsprof": Flopsprof,
        "torch_profiler": TorchProfiler,
        "torch_profiler_flops": TorchProfilerFlops,
        "flop_counter": FlopCounter,
        "proton": Proton,
        "ncu": Ncu,
    }.get(name, Tool)
