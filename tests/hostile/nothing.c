/* A program without CUDA, as most that a job's shell starts are: linked statically, or with another C library, it must run as ever. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *leaves_later(void *unused) {
    (void)unused;
    usleep(100000);
    puts("the last thread");
    return NULL;
}

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "";
    printf("%s: %s\n", how, getenv("HOME") != NULL ? "with a home" : "without a home");
    if (strcmp(how, "child") == 0) return 5;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        execl(argv[0], argv[0], "child", (char *)NULL);
        _exit(127);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    printf("child %x, further child: %s\n", status, waitpid(-1, NULL, 0) == -1 ? strerror(errno) : "one");
    if (strcmp(how, "main-thread-leaves") == 0) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, leaves_later, NULL) != 0) return 9;
        pthread_exit(NULL);
    }
    return 3;
}
