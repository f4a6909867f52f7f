/* Trains, in form: the same launches step after step. steps STEPS PAUSE_US [plain|graph|graphs|threads|capture|lengths]
 * A step is seven launches: bf16 on 132 blocks twice, on 64 once, fp8, two that count nothing, fp64. `graph` replays the first four as one graph, and `graphs` the fp8 one as
 * another beside it, which comes first in every other step;
 * `threads` gives each of four threads a kernel or grid of its own; `capture` captures a graph in every step and never launches it; `lengths` trains at other lengths as
 * it goes on: a step's grids follow its length, but for one kernel of one grid that works as long as the length says. */
#include "zoo.h"

#include <pthread.h>

enum { ITERATIONS = 100 };
static struct zoo zoo;
static int steps;
static long pause_us;

static void launch(enum kernel kernel, unsigned blocks, void *stream) {
    zoo_launch(&zoo, kernel, blocks, ITERATIONS, stream);
}

static void work(void *stream) {
    launch(BF16, 132, stream);
    launch(BF16, 132, stream);
    launch(BF16, 64, stream);
    launch(FP8, 132, stream);
}

static void rest(void *stream) {
    launch(IDLE, 16, stream);
    launch(IDLE, 16, stream);
    launch(FP64, 8, stream);
}

/* A step of a length: ten launches, the last bf16 one of the same grid at any length. */
static void step_of(unsigned length, void *stream) {
    launch(BF16, 132 * length, stream);
    for (int i = 0; i < 4; i++) launch(IDLE, 16 * length, stream);
    launch(FP8, 66 * length, stream);
    for (int i = 0; i < 2; i++) launch(IDLE, 16 * length, stream);
    zoo_launch(&zoo, BF16, 64, ITERATIONS * length, stream);
    launch(FP64, 8, stream);
}

static void second(void *stream) {
    launch(FP8, 132, stream);
}

/* Captures some work: it is executed when the graph is launched. */
static void *capture(void (*work)(void *), void *stream) {
    unsigned long long before[KERNELS];
    void *graph, *exec;
    memcpy(before, zoo_flop, sizeof before);
    ZOO_CHECK(cuStreamBeginCapture_v2(stream, 0));
    work(stream);
    ZOO_CHECK(cuStreamEndCapture(stream, &graph));
    ZOO_CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    memcpy(zoo_flop, before, sizeof before);
    return exec;
}

static void replay(void *exec, void *stream) {
    ZOO_CHECK(cuGraphLaunch(exec, stream));
    zoo_flop[BF16] += (132 + 132 + 64) * (THREADS / 32) * FLOP_PER_WARP_ITERATION * ITERATIONS;
    zoo_flop[FP8] += 132 * (THREADS / 32) * FLOP_PER_WARP_ITERATION * ITERATIONS;
}

static void *thread(void *number) {
    static const struct {
        enum kernel kernel;
        unsigned blocks;
    } kinds[] = {{BF16, 132}, {BF16, 64}, {FP8, 132}, {IDLE, 16}};
    void *stream;
    ZOO_CHECK(cuCtxSetCurrent(zoo.context));
    ZOO_CHECK(cuStreamCreate(&stream, 0));
    for (int i = 0; i < steps; i++) {
        launch(kinds[(intptr_t)number].kernel, kinds[(intptr_t)number].blocks, stream);
        if (pause_us > 0) usleep((useconds_t)pause_us);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    steps = atoi(argv[1]);
    pause_us = atol(argv[2]);
    const char *how = argc > 3 ? argv[3] : "plain";
    zoo_open();
    zoo = zoo_primary(0);
    if (strcmp(how, "threads") == 0) {
        pthread_t threads[4];
        for (intptr_t t = 0; t < 4; t++) pthread_create(&threads[t], NULL, thread, (void *)t);
        for (int t = 0; t < 4; t++) pthread_join(threads[t], NULL);
    } else if (strcmp(how, "lengths") == 0) {
        for (int i = 0; i < steps; i++) {
            /* A new length comes up now and then, and the old ones come again. */
            step_of(1 + (unsigned)(i * 7 % (1 + 4 * i / steps)), NULL);
            if (pause_us > 0) usleep((useconds_t)pause_us);
        }
    } else {
        void *stream, *other, *exec = NULL, *exec2 = NULL;
        ZOO_CHECK(cuStreamCreate(&stream, 0));
        ZOO_CHECK(cuStreamCreate(&other, 0));
        if (strncmp(how, "graph", 5) == 0) exec = capture(work, other);
        if (strcmp(how, "graphs") == 0) exec2 = capture(second, other);
        for (int i = 0; i < steps; i++) {
            if (strcmp(how, "capture") == 0) capture(work, other);
            if (exec != NULL) {
                if (i % 2 == 0) replay(exec, stream);
                if (exec2 != NULL) {
                    ZOO_CHECK(cuGraphLaunch(exec2, stream));
                    zoo_flop[FP8] += 132 * (THREADS / 32) * FLOP_PER_WARP_ITERATION * ITERATIONS;
                }
                if (i % 2 == 1) replay(exec, stream);
            } else {
                work(stream);
            }
            rest(stream);
            if (pause_us > 0) usleep((useconds_t)pause_us);
        }
    }
    ZOO_CHECK(cuCtxSynchronize());
    zoo_truth();
    return 0;
}
