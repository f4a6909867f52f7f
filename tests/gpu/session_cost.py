"""What an open counter session costs the GPU: the same work in one process, with a session in one state or another around each block of it.

    python3 session_cost.py --session libsession_cost.so --cupti libcupti.so.13 [--rounds 8]

`overhead.py` compares processes that are alive at the same time, so what an open session does to the whole chip (its power, so its clock at the power limit) is in both of a
pair. Here nothing else is on the GPU, and a block without a session has none. States: `bare`; `enabled`, where range profiling is enabled and nothing is counted; `one`,
where a single path is counted; `all`, the meter's first group of counters. Their order is drawn anew each round. One JSON object: by work and state, the ratio of each block's
median step to that of `bare` in its round, the energy of a step, and the SM clock after the block.
"""

import argparse
import ctypes
import json
import os
import random
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
#: Repetitions in a block, by the works of overhead.py, and the part of the rounds that each gets.
BLOCK = {"gpu_bound": (8, 1.0), "gpu_bound_short": (20, 1.0), "product": (20, 0.5), "launch_bound": (24, 0.5)}
STATES = ("bare", "enabled", "one", "all")


class Session:
    def __init__(self, library, cupti):
        self.lib = ctypes.CDLL(library)
        self.lib.session_enable.argtypes = [ctypes.c_void_p]
        self.lib.session_open.argtypes = [ctypes.c_size_t] * 2
        self.lib.session_close.restype = ctypes.c_double
        self.context = ctypes.c_void_p()
        assert ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(self.context)) == 0 and self.context
        assert self.lib.session_load(cupti.encode()) == 0

    def enter(self, state):
        if state != "bare":
            assert self.lib.session_enable(self.context) == 0
        if state in ("one", "all"):
            assert self.lib.session_open(0, 1 if state == "one" else 99) == 0

    def leave(self, state):
        flop = self.lib.session_close() if state in ("one", "all") else 0.0
        if state != "bare":
            assert self.lib.session_disable() == 0
        return flop


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--session", required=True)
    parser.add_argument("--cupti", required=True)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    import pynvml
    import torch
    from overhead import works

    pynvml.nvmlInit()
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    todo, parameters = works(list(BLOCK))
    for work in todo.values():
        work()
    torch.cuda.synchronize()
    session, order, said = Session(args.session, args.cupti), random.Random(1), {}

    def block(work, times, state):
        session.enter(state)
        work()
        torch.cuda.synchronize()
        energy, took = pynvml.nvmlDeviceGetTotalEnergyConsumption(device), []
        for _ in range(times):
            begun = time.perf_counter()
            work()
            torch.cuda.synchronize()
            took.append(time.perf_counter() - begun)
        energy = (pynvml.nvmlDeviceGetTotalEnergyConsumption(device) - energy) / 1e3
        clock, watts = pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM), energy / sum(took)
        flop = session.leave(state)
        return {"step_s": statistics.median(took), "step_j": energy / times, "watts": watts, "clock_mhz": clock, "flop": flop / (times + 1)}

    for name, (times, part) in BLOCK.items():
        # The chip gets as warm as it will be.
        begun = time.perf_counter()
        while time.perf_counter() - begun < 4:
            block(todo[name], times, "bare")
        rounds = []
        for _ in range(max(round(args.rounds * part), 1)):
            states = list(STATES)
            order.shuffle(states)
            rounds.append({state: block(todo[name], times, state) for state in states})
        of = said[name] = {}
        for state in STATES:
            of[state] = {key: statistics.median(r[state][key] for r in rounds) for key in rounds[0][state]}
            of[state]["ratios"] = [r[state]["step_s"] / r["bare"]["step_s"] for r in rounds]
            of[state]["ratio"] = statistics.median(of[state]["ratios"])
        print(name, {s: (round(v["ratio"], 5), round(v["watts"], 1), v["clock_mhz"]) for s, v in of.items()}, file=sys.stderr, flush=True)
    print(json.dumps({"device": torch.cuda.get_device_name(0), "driver": pynvml.nvmlSystemGetDriverVersion(), "parameters": parameters, "works": said}))


if __name__ == "__main__":
    main()
