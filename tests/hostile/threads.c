/* Threads, signals and timers that a program may have: threads HOW. */
#include "probe.h"

#include <setjmp.h>

static struct zoo zoo;
static volatile sig_atomic_t alarms;
static volatile int done;

static void on_alarm(int number) {
    (void)number;
    alarms++;
}

static void leaves(int number) {
    (void)number;
    _exit(44);
}

static pthread_t started(void *(*run)(void *), size_t stack) {
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    if (stack != 0) MUST(pthread_attr_setstacksize(&attributes, stack) == 0);
    MUST(pthread_create(&thread, &attributes, run, NULL) == 0);
    pthread_attr_destroy(&attributes);
    return thread;
}

static void *launches(void *unused) {
    (void)unused;
    ZOO_CHECK(cuCtxSetCurrent(zoo.context));
    for (int i = 0; i < 3; i++) {
        zoo_launch(&zoo, BF16, 132, 100, NULL);
        usleep(100);
    }
    return NULL;
}

static void *starts_cuda(void *unused) {
    (void)unused;
    zoo = begin();
    probe_signals();
    return NULL;
}

static void *launches_until_cancelled(void *unused) {
    (void)unused;
    ZOO_CHECK(cuCtxSetCurrent(zoo.context));
    for (;;) {
        zoo_launch(&zoo, IDLE, 1, 1, NULL);
        pthread_testcancel();
    }
    return NULL;
}

static void *starts_cancelled(void *unused) {
    (void)unused;
    zoo_libcuda = dlopen("libcuda.so.1", RTLD_NOW);
    *(void **)&cuInit = dlsym(zoo_libcuda, "cuInit");
    /* To be cancelled at the next chance, which comes while CUDA starts or after it. */
    pthread_cancel(pthread_self());
    cuInit(0);
    pthread_testcancel();
    return NULL;
}

static void *changes_the_environment(void *unused) {
    (void)unused;
    for (int i = 0; !done; i++) {
        char name[32];
        snprintf(name, sizeof name, "HOST_%d", i % 500);
        if (i / 500 % 2 == 0) {
            setenv(name, "a value of some length that has to be kept somewhere", 1);
        } else {
            unsetenv(name);
        }
    }
    return NULL;
}

static void *waits_for_signals(void *unused) {
    (void)unused;
    sigset_t all;
    int number;
    sigfillset(&all);
    while (sigwait(&all, &number) == 0 && number != SIGTERM) alarms++;
    return NULL;
}

static void every_millisecond(int which, long us) {
    struct itimerval timer = {{0, us}, {0, us}};
    MUST(setitimer(which, &timer, NULL) == 0);
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    wanted = argv[1];
    if (is("small-stacks")) {
        /* The least that the C library allows, for everything: the start of CUDA too. */
        pthread_join(started(starts_cuda, 16384), NULL);
        for (int i = 0; i < 20; i++) pthread_join(started(launches, 16384), NULL);
        ZOO_CHECK(cuCtxSetCurrent(zoo.context));
    } else if (is("churn")) {
        zoo = begin();
        for (int round = 0; round < 60; round++) {
            pthread_t threads[16];
            for (int i = 0; i < 16; i++) threads[i] = started(launches, 65536);
            for (int i = 0; i < 16; i++) pthread_join(threads[i], NULL);
        }
    } else if (is("cancelled")) {
        zoo = begin();
        for (int round = 0; round < 30; round++) {
            pthread_t thread = started(launches_until_cancelled, 0);
            usleep(7000);
            void *result;
            MUST(pthread_cancel(thread) == 0 && pthread_join(thread, &result) == 0);
            MUST(result == PTHREAD_CANCELED);
        }
        puts("30 threads were cancelled");
    } else if (is("cancelled-at-start")) {
        void *result;
        pthread_join(started(starts_cancelled, 0), &result);
        puts(result == PTHREAD_CANCELED ? "cancelled" : "not cancelled");
        fflush(stdout);
        /* What a start that was broken off leaves of the stand-in is no place to go on. */
        _exit(0);
    } else if (is("environment-changes")) {
        pthread_t thread = started(changes_the_environment, 0);
        zoo = begin();
        zoo_work(&zoo, BF16, 200, 1000);
        done = 1;
        pthread_join(thread, NULL);
        for (int i = 0; i < 500; i++) {
            char name[32];
            snprintf(name, sizeof name, "HOST_%d", i);
            unsetenv(name);
        }
    } else if (is("alternate-stack")) {
        static char stack[8192];
        stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
        struct sigaction action = {.sa_handler = leaves, .sa_flags = SA_ONSTACK};
        MUST(sigaltstack(&alternate, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
        zoo = begin();
        finish(&zoo);
        raise(SIGUSR1);
    } else if (is("timers")) {
        /* A timer that interrupts every call that can be, and one that only counts the program's work. */
        struct sigaction action = {.sa_handler = on_alarm};
        MUST(sigaction(SIGALRM, &action, NULL) == 0 && sigaction(SIGPROF, &action, NULL) == 0);
        every_millisecond(ITIMER_REAL, 2000);
        every_millisecond(ITIMER_PROF, 4000);
        zoo = begin();
        int interrupted = 0;
        for (int i = 0; i < 100; i++) {
            struct timespec t = {0, 50000000};
            interrupted += nanosleep(&t, NULL) == -1 && errno == EINTR;
        }
        finish(&zoo);
        every_millisecond(ITIMER_REAL, 0);
        every_millisecond(ITIMER_PROF, 0);
        printf("interrupted %d times; alarms came: %d\n", interrupted, alarms > 100);
        return 0;
    } else if (is("one-thread-takes-signals")) {
        /* Everything is blocked everywhere but in the thread that waits: each signal must reach it. */
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, NULL);
        pthread_t thread = started(waits_for_signals, 0);
        zoo = begin();
        for (int i = 0; i < 50; i++) {
            int before = alarms;
            kill(getpid(), i % 2 == 0 ? SIGUSR1 : SIGCHLD);
            while (alarms == before) usleep(100);
        }
        printf("%d signals\n", (int)alarms);
        finish(&zoo);
        kill(getpid(), SIGTERM);
        pthread_join(thread, NULL);
        return 0;
    } else if (is("stopped")) {
        zoo = begin();
        pid_t pid = fork();
        if (pid == 0) {
            for (int i = 0; i < 5; i++) {
                kill(getppid(), SIGSTOP);
                zoo_sleep_ms(60);
                kill(getppid(), SIGCONT);
                zoo_sleep_ms(20);
            }
            _exit(0);
        }
        zoo_work(&zoo, BF16, 200, 1000);
        waitpid(pid, NULL, 0);
    } else {
        return 2;
    }
    finish(&zoo);
    return 0;
}
