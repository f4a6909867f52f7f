/* What the host programs of the zoo share: libcuda by dlopen, kernels of known operations, and the truth on stdout.
 *
 * A program links nothing of CUDA: it opens libcuda.so.1 as frameworks do. Its kernels do nothing on a real GPU; the `//@sim` lines tell the stand-in
 * what a launch executes. At its end a program prints `truth <metric> <FLOP>` lines, which the tests compare with what was counted. */
#ifndef ZOO_H
#define ZOO_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* FLOP that a warp does in one iteration of each kernel. */
#define FLOP_PER_WARP_ITERATION 65536ull
#define THREADS 128u

enum kernel { BF16, FP8, FP64, IDLE, SPARSE, GEMM, SGEMM, KERNELS };
static const char *const kernel_name[KERNELS] = {"zoo_bf16", "zoo_fp8", "zoo_fp64", "zoo_idle", "zoo_sparse", "zoo_gemm", "zoo_sgemm"};
/* The first two stand in every group of GH100's counters, the third takes turns, the fourth works on the CUDA cores alone, the fifth makes the first one's
 * operations with 2:4 sparse matrices. The last two are products by their names: one on a path that takes turns, the other on the CUDA cores. */
static const char *const kernel_metric[KERNELS] = {"sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32", "sm__ops_path_tensor_src_fp8",
                                                   "sm__ops_path_tensor_src_fp64", NULL, "sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32",
                                                   "sm__ops_path_tensor_op_hmma_src_bf16_dst_fp32", NULL};
static const char zoo_ptx[] =
    "//@sim kernel=zoo_bf16 metric=sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32 flop_per_warp_iteration=65536 iterations_param=0\n"
    "//@sim kernel=zoo_fp8 metric=sm__ops_path_tensor_src_fp8 flop_per_warp_iteration=65536 iterations_param=0\n"
    "//@sim kernel=zoo_fp64 metric=sm__ops_path_tensor_src_fp64 flop_per_warp_iteration=65536 iterations_param=0\n"
    ".version 7.0\n.target sm_80\n.address_size 64\n"
    ".visible .entry zoo_bf16(.param .u32 iterations)\n{\n\tret;\n}\n"
    ".visible .entry zoo_fp8(.param .u32 iterations)\n{\n\tret;\n}\n"
    ".visible .entry zoo_fp64(.param .u32 iterations)\n{\n\tret;\n}\n"
    "//@sim kernel=zoo_idle metric=smsp__sass_thread_inst_executed_op_ffma_pred_on flop_per_warp_iteration=32 iterations_param=0\n"
    ".visible .entry zoo_idle(.param .u32 iterations)\n{\n\tret;\n}\n"
    "//@sim kernel=zoo_sparse metric=sm__ops_path_tensor_op_hgmma_src_bf16_dst_fp32_sparsity_on flop_per_warp_iteration=65536 iterations_param=0\n"
    ".visible .entry zoo_sparse(.param .u32 iterations)\n{\n\tret;\n}\n"
    "//@sim kernel=zoo_gemm metric=sm__ops_path_tensor_op_hmma_src_bf16_dst_fp32 flop_per_warp_iteration=65536 iterations_param=0\n"
    ".visible .entry zoo_gemm(.param .u32 iterations)\n{\n\tret;\n}\n"
    "//@sim kernel=zoo_sgemm metric=smsp__sass_thread_inst_executed_op_ffma_pred_on flop_per_warp_iteration=32 iterations_param=0\n"
    ".visible .entry zoo_sgemm(.param .u32 iterations)\n{\n\tret;\n}\n";

/* The functions that the zoo calls, by their exported names. */
#define ZOO_FUNCTIONS(X)                                                                                                                          \
    X(cuInit, (unsigned))                                                                                                                         \
    X(cuDeviceGetCount, (int *))                                                                                                                  \
    X(cuDeviceGet, (int *, int))                                                                                                                  \
    X(cuDevicePrimaryCtxRetain, (void **, int))                                                                                                   \
    X(cuDevicePrimaryCtxRelease_v2, (int))                                                                                                        \
    X(cuDevicePrimaryCtxReset_v2, (int))                                                                                                          \
    X(cuCtxCreate_v2, (void **, unsigned, int))                                                                                                   \
    X(cuCtxDestroy_v2, (void *))                                                                                                                  \
    X(cuCtxSetCurrent, (void *))                                                                                                                  \
    X(cuCtxSynchronize, (void))                                                                                                                   \
    X(cuModuleLoadData, (void **, const void *))                                                                                                  \
    X(cuModuleGetFunction, (void **, void *, const char *))                                                                                       \
    X(cuStreamCreate, (void **, unsigned))                                                                                                        \
    X(cuStreamBeginCapture_v2, (void *, unsigned))                                                                                                \
    X(cuStreamEndCapture, (void *, void **))                                                                                                      \
    X(cuGraphInstantiateWithFlags, (void **, void *, unsigned long long))                                                                         \
    X(cuGraphLaunch, (void *, void *))                                                                                                        \
    X(cuLaunchKernel, (void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **))

#define X(name, arguments) static int(*name) arguments;
ZOO_FUNCTIONS(X)
#undef X

static void *zoo_libcuda;
static unsigned long long zoo_flop[KERNELS];

/* A program that cannot do its work says so on stderr and ends with 3. */
#define ZOO_CHECK(call)                                                                                                                           \
    do {                                                                                                                                          \
        int zoo_result = (call);                                                                                                                  \
        if (zoo_result != 0) {                                                                                                                    \
            fprintf(stderr, "%s answered %d\n", #call, zoo_result);                                                                               \
            exit(3);                                                                                                                              \
        }                                                                                                                                         \
    } while (0)

__attribute__((unused)) static void zoo_sleep_ms(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&t, &t) != 0) {
    }
}

/* Opens libcuda and initialises it. */
__attribute__((unused)) static void zoo_open(void) {
    zoo_libcuda = dlopen("libcuda.so.1", RTLD_NOW);
    if (zoo_libcuda == NULL) {
        fprintf(stderr, "no CUDA driver\n");
        exit(3);
    }
#define X(name, arguments) *(void **)&name = dlsym(zoo_libcuda, #name);
    ZOO_FUNCTIONS(X)
#undef X
    ZOO_CHECK(cuInit(0));
}

/* A context with its kernels. */
struct zoo {
    void *context;
    void *module;
    void *function[KERNELS];
};

__attribute__((unused)) static void zoo_kernels(struct zoo *zoo) {
    ZOO_CHECK(cuCtxSetCurrent(zoo->context));
    ZOO_CHECK(cuModuleLoadData(&zoo->module, zoo_ptx));
    for (int k = 0; k < KERNELS; k++) {
        ZOO_CHECK(cuModuleGetFunction(&zoo->function[k], zoo->module, kernel_name[k]));
    }
}

/* The primary context of a device. */
__attribute__((unused)) static struct zoo zoo_primary(int ordinal) {
    struct zoo zoo = {0};
    int device;
    ZOO_CHECK(cuDeviceGet(&device, ordinal));
    ZOO_CHECK(cuDevicePrimaryCtxRetain(&zoo.context, device));
    zoo_kernels(&zoo);
    return zoo;
}

/* Launches a kernel on a stream of the current context, and adds it to the truth. Any thread may. */
__attribute__((unused)) static void zoo_launch(const struct zoo *zoo, enum kernel kernel, unsigned blocks, uint32_t iterations, void *stream) {
    void *parameters[] = {&iterations};
    ZOO_CHECK(cuLaunchKernel(zoo->function[kernel], blocks, 1, 1, THREADS, 1, 1, 0, stream, parameters, NULL));
    if (kernel_metric[kernel] != NULL) {
        __atomic_fetch_add(&zoo_flop[kernel], blocks * (THREADS / 32) * FLOP_PER_WARP_ITERATION * iterations, __ATOMIC_RELAXED);
    }
}

/* So many launches of one kernel, on the default stream, each `pause_us` after the other, then waits for all. */
__attribute__((unused)) static void zoo_work(const struct zoo *zoo, enum kernel kernel, int launches, long pause_us) {
    for (int i = 0; i < launches; i++) {
        zoo_launch(zoo, kernel, 132, 100, NULL);
        if (pause_us > 0) {
            usleep((useconds_t)pause_us);
        }
    }
    ZOO_CHECK(cuCtxSynchronize());
}

/* Prints what was executed, so that nothing of it is left in a buffer. */
__attribute__((unused)) static void zoo_truth(void) {
    for (int k = 0; k < KERNELS; k++) {
        if (zoo_flop[k] != 0) {
            printf("truth %s %llu\n", kernel_metric[k], zoo_flop[k]);
        }
    }
    fflush(stdout);
}

#endif
