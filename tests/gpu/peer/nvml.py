"""The tools of `peers.py` that poll NVML."""

import threading
import time

from .tools import Tool

#: bf16, dense: operations of a multiprocessor in a cycle, on Hopper (989.4 TFLOP/s of an H100 SXM = 132 of them at 1830 MHz).
PER_CYCLE = 4096
#: What the data sheets of H100 SXM and H200 say, TFLOP/s of dense bf16.
DATA_SHEET = 989.4


class Poll(Tool):
    """A thread that reads NVML at an interval."""

    lasting = True

    def __init__(self, work, args):
        super().__init__(work, args)
        import pynvml

        self.nvml = pynvml
        pynvml.nvmlInit()
        self.device = pynvml.nvmlDeviceGetHandleByIndex(0)

    def start(self):
        self.begin()
        self.end, self.error = threading.Event(), None
        self.thread = threading.Thread(target=self._loop, daemon=True)
        self.thread.start()

    def _loop(self):
        try:
            while not self.end.wait(self.interval):
                self.poll()
        except Exception as e:
            self.error = e

    def join(self):
        self.end.set()
        self.thread.join()
        if self.error:
            raise self.error


class Gpm(Poll):
    """As DCGM does on Hopper: share of the time in which the tensor pipes were active (GPM's HMMA), times what they can do at the clock of the moment."""

    reports, seconds, interval = ("gpm",), 1.0, 0.1
    HMMA = 7

    def __init__(self, work, args):
        super().__init__(work, args)
        import torch

        if not self.nvml.nvmlGpmQueryDeviceSupport(self.device).isSupportedDevice:
            raise RuntimeError("this device has no GPM")
        self.multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
        self.samples = [self.nvml.nvmlGpmSampleAlloc() for _ in range(2)]

    def _sample(self):
        self.nvml.nvmlGpmSampleGet(self.device, self.samples[1])
        return time.monotonic()

    def begin(self):
        self.flop = self.flop_data_sheet = 0.0
        self.at = self._sample()
        self.samples.reverse()

    def poll(self):
        at = self._sample()
        asked = self.nvml.c_nvmlGpmMetricsGet_t()
        asked.version, asked.numMetrics = self.nvml.NVML_GPM_METRICS_GET_VERSION, 1
        asked.sample1, asked.sample2 = self.samples
        asked.metrics[0].metricId = self.HMMA
        self.nvml.nvmlGpmMetricsGet(asked)
        clock = self.nvml.nvmlDeviceGetClockInfo(self.device, self.nvml.NVML_CLOCK_SM) * 1e6
        active = asked.metrics[0].value / 100 * (at - self.at)
        self.flop += active * PER_CYCLE * self.multiprocessors * clock
        self.flop_data_sheet += active * DATA_SHEET * 1e12
        self.at = at
        self.samples.reverse()

    def stop(self):
        self.join()
        # A sample needs some time since the one before; the GPU is idle in it.
        time.sleep(0.05)
        self.poll()
        return {"gpm": self.flop}

    def more(self):
        return {"last_by_data_sheet_over_by_clock": self.flop_data_sheet / self.flop if self.flop else None}


class Aws(Poll):
    """The AWS toolkit's meter: (4 x all + 2 x trained parameters) x tokens that are not its pad id; and NVML's utilization x peak x seconds. The
    toolkit reads it once a second; here that is twice, because the runs are short."""

    reports, seconds, interval = ("aws", "nvml"), 1.6, 0.5
    #: What the toolkit asks the training arguments for, and gets: they have none.
    PAD = -100

    def begin(self):
        self.tokens, self.seen, self.began = 0, [], time.monotonic()

    def poll(self):
        self.seen.append(self.nvml.nvmlDeviceGetUtilizationRates(self.device).gpu)

    def step(self, fed):
        self.tokens += int((fed != self.PAD).sum())

    def stop(self):
        self.join()
        took = time.monotonic() - self.began
        busy = sum(self.seen) / len(self.seen) / 100 if self.seen else None
        formula = (4 * self.work.parameters + 2 * self.work.parameters) * self.tokens
        return {"aws": formula, "nvml": None if busy is None else busy * DATA_SHEET * 1e12 * took}

    def more(self):
        # By the toolkit's rule of names an H200 is an "h20".
        name = self.nvml.nvmlDeviceGetName(self.device)
        return {"toolkit_peak_tflops": 148 if "h20" in str(name).lower() else 989, "peak_tflops": DATA_SHEET}
