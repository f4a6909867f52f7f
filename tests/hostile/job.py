"""A job in Python, without a framework: it starts CUDA through ctypes, as some do, and other processes in every way that Python has. job.py HOW"""

import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading

METRIC = "sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32"
PTX = (
    f"//@sim kernel=work metric={METRIC} flop_per_warp_iteration=65536 iterations_param=0\n"
    ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry work(.param .u32 iterations)\n{\n\tret;\n}\n"
).encode()


def check(result):
    if result != 0:
        sys.exit(f"CUDA answered {result}")


def work(launches=150):
    """Starts CUDA in this process, and works."""
    cuda = ctypes.CDLL("libcuda.so.1")
    check(cuda.cuInit(0))
    context, module, function = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
    check(cuda.cuCtxSetCurrent(context))
    check(cuda.cuModuleLoadData(ctypes.byref(module), PTX))
    check(cuda.cuModuleGetFunction(ctypes.byref(function), module, b"work"))
    iterations = ctypes.c_uint32(100)
    parameters = (ctypes.c_void_p * 1)(ctypes.addressof(iterations))
    pause = threading.Event()
    for _ in range(launches):
        check(cuda.cuLaunchKernel(function, 132, 1, 1, 128, 1, 1, 0, None, parameters, None))
        pause.wait(0.001)
    check(cuda.cuCtxSynchronize())
    print(f"truth {METRIC} {launches * 132 * 4 * 65536 * 100}", flush=True)


def load(number):
    """A data loader: it reads, and has nothing to do with CUDA."""
    return sum(range(number))


def threads():
    return [t.name for t in threading.enumerate()]


def main():
    how = sys.argv[1]
    if how == "subprocesses":
        work()
        for close in (True, False):
            run = subprocess.run([sys.executable, "-c", "import os; print(len(os.listdir('/proc/self/fd')))"], close_fds=close, capture_output=True, check=True)
            print("descriptors of a child:", run.stdout.decode().strip(), run.stderr.decode())
        print(subprocess.run("echo in a shell; exit 3", shell=True, stdout=subprocess.PIPE).stdout)
        popen = subprocess.Popen(["sleep", "0.05"], start_new_session=True)
        print("sleep:", popen.wait())
    elif how == "forked-loaders":
        work()
        with multiprocessing.get_context("fork").Pool(4) as pool:
            print(pool.map(load, [10, 100, 1000, 10000] * 4))
        work()
    elif how == "forked-workers":
        workers = [multiprocessing.get_context("fork").Process(target=work) for _ in range(1)]
        for worker in workers:
            worker.start()
            worker.join()
            print("worker:", worker.exitcode)
    elif how == "spawned-workers":
        worker = multiprocessing.get_context("spawn").Process(target=work)
        worker.start()
        worker.join()
        print("worker:", worker.exitcode)
    elif how == "server-workers":
        worker = multiprocessing.get_context("forkserver").Process(target=work)
        worker.start()
        worker.join()
        print("worker:", worker.exitcode)
    elif how == "exception":
        work()
        raise RuntimeError("as programs end")
    elif how == "exit-in-thread":
        work()
        thread = threading.Thread(target=lambda: os._exit(7))
        thread.start()
        thread.join()
    else:
        sys.exit(2)
    print("threads:", threads(), "descriptors:", len(os.listdir("/proc/self/fd")), flush=True)


if __name__ == "__main__":
    main()
