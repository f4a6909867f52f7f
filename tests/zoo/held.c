/* Waits until it is told to work: held LAUNCHES [threads|fork|every|bf16]. Prints `ready PID`, reads a byte, launches, prints `made PID N` and ends.
 * threads: four threads, each as many. fork: a child that starts CUDA itself does the work. every: by every kind of launch, and a graph.
 * bf16: a kernel that has operations, as plain launches it. */
#include "zoo.h"

#include <pthread.h>
#include <sys/wait.h>

static struct zoo zoo;
static int launches;

static void *work(void *unused) {
    (void)unused;
    ZOO_CHECK(cuCtxSetCurrent(zoo.context));
    for (int i = 0; i < launches; i++) zoo_launch(&zoo, IDLE, 1, 1, NULL);
    return NULL;
}

/* Calls `cuLaunchKernelEx` and `cuLaunchCooperativeKernel`, and launches a graph, as often. */
static int every(void) {
    uint32_t iterations = 1;
    void *parameters[] = {&iterations}, *function = zoo.function[IDLE], *stream, *graph, *exec;
    struct {
        unsigned grid[3], block[3], shared;
        void *stream, *attributes;
        unsigned count;
    } config = {{1, 1, 1}, {THREADS, 1, 1}, 0, NULL, NULL, 0};
    int (*ex)(const void *, void *, void **, void **);
    int (*cooperative)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **);
    *(void **)&ex = dlsym(zoo_libcuda, "cuLaunchKernelEx");
    *(void **)&cooperative = dlsym(zoo_libcuda, "cuLaunchCooperativeKernel");
    ZOO_CHECK(cuStreamCreate(&stream, 0));
    ZOO_CHECK(cuStreamBeginCapture_v2(stream, 2));
    zoo_launch(&zoo, IDLE, 1, 1, stream);
    ZOO_CHECK(cuStreamEndCapture(stream, &graph));
    ZOO_CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    for (int i = 0; i < launches; i++) {
        ZOO_CHECK(ex(&config, function, parameters, NULL));
        ZOO_CHECK(cooperative(function, 1, 1, 1, THREADS, 1, 1, 0, NULL, parameters));
        ZOO_CHECK(cuGraphLaunch(exec, NULL));
    }
    /* What was captured was launched, too. */
    return 3 * launches + 1;
}

int main(int argc, char **argv) {
    const char *how = argc > 2 ? argv[2] : "";
    launches = argc > 1 ? atoi(argv[1]) : 1;
    if (strcmp(how, "fork") == 0) {
        int status;
        if (fork() != 0) return wait(&status) < 0 || status != 0 ? 3 : 0;
    }
    zoo_open();
    zoo = zoo_primary(0);
    printf("ready %d\n", getpid());
    fflush(stdout);
    if (getchar() == EOF) return 3;
    int made = launches;
    if (strcmp(how, "threads") == 0) {
        pthread_t thread[4];
        for (int t = 0; t < 4; t++) pthread_create(&thread[t], NULL, work, NULL);
        for (int t = 0; t < 4; t++) pthread_join(thread[t], NULL);
        made = 4 * launches;
    } else if (strcmp(how, "every") == 0) {
        made = every();
    } else if (strcmp(how, "bf16") == 0) {
        zoo_work(&zoo, BF16, launches, 2000);
    } else {
        work(NULL);
    }
    printf("made %d %d\n", getpid(), made);
    fflush(stdout);
    return 0;
}
