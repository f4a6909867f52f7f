/* Starts CUDA, and launches so many kernels, 200 a second: begins nothing|plainly|in-an-initialiser|forks-meanwhile launches. How long the start took goes into the file BEGINS_TOOK, in
 * milliseconds. */
#include "probe.h"

static long now_ms(void) {
    struct timespec t;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Has CUDA started by the initialiser of a library that is just being loaded. */
static void load_initialiser(void) {
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 32);
    MUST(length > 0);
    path[length] = 0;
    strcpy(strrchr(path, '/'), "/libinitialiser.so");
    MUST(dlopen(path, RTLD_NOW) != NULL);
}

/* Children that do what a child may: take memory, ask the loader, end with handlers or without. */
static void *fork_and_fork(void *done) {
    for (int n = 0; !*(volatile int *)done; n++) {
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0) {
            alarm(20);
            void *memory = malloc(100000 + n);
            MUST(memory != NULL && dlsym(RTLD_DEFAULT, "getpid") != NULL && setenv("CHILD", "1", 1) == 0);
            free(memory);
            if (n % 2) exit(0);
            _exit(0);
        }
        int status;
        MUST(waitpid(child, &status, 0) == child && status == 0);
        usleep(2000);
    }
    return NULL;
}

int main(int argc, char **argv) {
    int launches = argc > 2 ? atoi(argv[2]) : 60;
    long began = now_ms();
    if (argc > 1 && strcmp(argv[1], "nothing") == 0) return 7;
    if (argc > 1 && strcmp(argv[1], "in-an-initialiser") == 0) load_initialiser();
    static int done;
    pthread_t forks;
    int with_forks = argc > 1 && strcmp(argv[1], "forks-meanwhile") == 0;
    if (with_forks) MUST(pthread_create(&forks, NULL, fork_and_fork, &done) == 0);
    zoo_open();
    done = 1;
    if (with_forks) MUST(pthread_join(forks, NULL) == 0);
    const char *file = getenv("BEGINS_TOOK");
    if (file != NULL) {
        FILE *took = fopen(file, "w");
        MUST(took != NULL && fprintf(took, "%ld\n", now_ms() - began) > 0 && fclose(took) == 0);
    }
    if (launches == 0) return 7;
    struct zoo zoo = zoo_primary(0);
    for (int i = 0; i < launches; i++) {
        zoo_launch(&zoo, BF16, 132, 100, NULL);
        usleep(5000);
    }
    ZOO_CHECK(cuCtxSynchronize());
    zoo_truth();
    return 7;
}
