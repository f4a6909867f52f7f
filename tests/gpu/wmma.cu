// A CUDA C++ program on the runtime API whose operations are known: WMMA, fp16 -> fp32.
//   wmma SECONDS TRUTH_FILE
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cuda_fp16.h>
#include <mma.h>

using namespace nvcuda;

__global__ void products(int iterations, float *sink) {
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> a;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> b;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> c;
    wmma::fill_fragment(a, __float2half(0.5f));
    wmma::fill_fragment(b, __float2half(0.25f));
    wmma::fill_fragment(c, 0.0f);
    for (int i = 0; i < iterations; i++) wmma::mma_sync(c, a, b, c);
    // Never true, and the compiler cannot know.
    if (iterations < 0) wmma::store_matrix_sync(sink, c, 16, wmma::mem_row_major);
}

int main(int argc, char **argv) {
    const double seconds = atof(argv[1]);
    const int blocks = 528, warps = 4, iterations = 20000;
    float *sink;
    if (cudaMalloc(&sink, 16 * 16 * sizeof(float)) != cudaSuccess) return 1;
    long launches = 0;
    const auto start = std::chrono::steady_clock::now();
    while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds) {
        for (int i = 0; i < 16; i++, launches++) products<<<blocks, 32 * warps>>>(iterations, sink);
        if (cudaDeviceSynchronize() != cudaSuccess) return 2;
    }
    FILE *f = fopen(argv[2], "w");
    // 2 * 16 * 16 * 16 operations a product.
    fprintf(f, "{\"flop\": %.0f}", (double)launches * blocks * warps * iterations * 8192.0);
    return fclose(f);
}
