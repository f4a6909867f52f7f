/* Works, and ends in a way of its own: exit_kinds return|exit|_exit|_Exit|quick_exit|abort|SIGTERM|SIGINT|SIGKILL|SIGSEGV|thread|handler [status]. */
#include "zoo.h"

#include <pthread.h>
#include <signal.h>

static int status = 5;

static void on_exit_handler(void) {
    printf("the program's own exit handler\n");
    fflush(stdout);
}

static void on_term(int signal) {
    (void)signal;
    _exit(status);
}

static void *leave(void *unused) {
    (void)unused;
    exit(status);
}

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "return";
    if (argc > 2) status = atoi(argv[2]);
    atexit(on_exit_handler);
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    zoo_work(&zoo, BF16, 700, 1000);
    zoo_truth();

    if (strcmp(how, "return") == 0) return status;
    if (strcmp(how, "exit") == 0) exit(status);
    if (strcmp(how, "_exit") == 0) _exit(status);
    if (strcmp(how, "_Exit") == 0) _Exit(status);
    if (strcmp(how, "quick_exit") == 0) quick_exit(status);
    if (strcmp(how, "abort") == 0) abort();
    if (strcmp(how, "SIGTERM") == 0) raise(SIGTERM);
    if (strcmp(how, "SIGINT") == 0) raise(SIGINT);
    if (strcmp(how, "SIGKILL") == 0) raise(SIGKILL);
    if (strcmp(how, "SIGSEGV") == 0) raise(SIGSEGV);
    if (strcmp(how, "handler") == 0) {
        signal(SIGTERM, on_term);
        raise(SIGTERM);
    }
    if (strcmp(how, "thread") == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, leave, NULL);
        pthread_join(thread, NULL);
    }
    return 2;
}
