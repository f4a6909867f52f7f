/* Launches kernels: plain [launches [pause_us [threads [kernel]]]]. Each thread has its own stream and launches as many. */
#include "zoo.h"

#include <pthread.h>

static struct zoo zoo;
static int launches = 200;
static long pause_us = 0;
static enum kernel kernel = BF16;

static void *work(void *unused) {
    (void)unused;
    void *stream;
    ZOO_CHECK(cuCtxSetCurrent(zoo.context));
    ZOO_CHECK(cuStreamCreate(&stream, 0));
    for (int i = 0; i < launches; i++) {
        zoo_launch(&zoo, kernel, 132, 100, stream);
        if (pause_us > 0) {
            usleep((useconds_t)pause_us);
        }
    }
    ZOO_CHECK(cuCtxSynchronize());
    return NULL;
}

int main(int argc, char **argv) {
    int threads = 1;
    if (argc > 1) launches = atoi(argv[1]);
    if (argc > 2) pause_us = atol(argv[2]);
    if (argc > 3) threads = atoi(argv[3]);
    for (int k = 0; argc > 4 && k < KERNELS; k++) {
        if (strcmp(kernel_name[k] + strlen("zoo_"), argv[4]) == 0) kernel = (enum kernel)k;
    }
    pthread_t thread[16];
    if (threads < 1 || threads > 16) return 2;

    zoo_open();
    zoo = zoo_primary(0);
    for (int t = 0; t < threads; t++) pthread_create(&thread[t], NULL, work, NULL);
    for (int t = 0; t < threads; t++) pthread_join(thread[t], NULL);
    zoo_truth();
    return 7;
}
