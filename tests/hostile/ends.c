/* Ends of a process: ends HOW. Each works first. */
#include "probe.h"

static struct zoo zoo;
static int status = 42;

static void says(const char *what) {
    /* Not through stdio: some of these ends do not flush. */
    if (write(1, what, strlen(what)) < 0) _exit(8);
}

static void at_exit(void) { says("exit handler\n"); }
static void at_quick(void) { says("quick exit handler\n"); }
static void exits_again(void) { _exit(43); }
static void leaves_quietly(int number) { (void)number; _exit(status); }
static void leaves_by_exit(int number) { (void)number; exit(status); }
static void reports(int number) {
    says("signal handler\n");
    signal(number, SIG_DFL);
    raise(number);
}

static void *exits(void *unused) {
    (void)unused;
    exit(status);
}

static void *works_and_returns(void *unused) {
    (void)unused;
    ZOO_CHECK(cuCtxSetCurrent(zoo.context));
    zoo_work(&zoo, BF16, 200, 1000);
    zoo_truth();
    return NULL;
}

static void *launches(void *unused) {
    (void)unused;
    ZOO_CHECK(cuCtxSetCurrent(zoo.context));
    for (;;) {
        zoo_launch(&zoo, IDLE, 132, 100, NULL);
        usleep(200);
    }
    return NULL;
}

static void *kills_soon(void *unused) {
    (void)unused;
    zoo_sleep_ms(150);
    kill(getpid(), SIGTERM);
    return NULL;
}

/* Launches without a pause until a signal's handler ends the process, wherever it comes: at a gate too. */
static void until_a_signal(void (*handler)(int)) {
    pthread_t thread;
    signal(SIGTERM, handler);
    MUST(pthread_create(&thread, NULL, kills_soon, NULL) == 0);
    for (;;) {
        zoo_launch(&zoo, IDLE, 132, 100, NULL);
        usleep(100);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    wanted = argv[1];
    atexit(at_exit);
    at_quick_exit(at_quick);
    if (is("exit-in-handler")) atexit(exits_again);
    zoo = begin();
    pthread_t thread;
    if (is("main-thread-leaves") || is("nameless-main-thread-leaves")) {
        /* A name is any bytes. */
        if (is("nameless-main-thread-leaves")) MUST(prctl(PR_SET_NAME, "\xff\xfe) Q \x80", 0, 0, 0) == 0);
        /* The process ends with its last thread, with status 0. */
        MUST(pthread_create(&thread, NULL, works_and_returns, NULL) == 0);
        pthread_exit(NULL);
    }
    finish(&zoo);

    if (is("return")) return status;
    if (is("exit") || is("exit-in-handler")) exit(status);
    if (is("_exit")) _exit(status);
    if (is("_Exit")) _Exit(status);
    if (is("syscall")) syscall(SYS_exit_group, status);
    if (is("quick_exit")) quick_exit(status);
    if (is("abort")) abort();
    if (is("segv")) *(volatile int *)8 = 1;
    if (is("segv-handled")) {
        signal(SIGSEGV, reports);
        *(volatile int *)8 = 1;
    }
    if (is("fpe")) raise(SIGFPE);
    if (is("sigterm")) kill(getpid(), SIGTERM);
    if (is("sigkill")) kill(getpid(), SIGKILL);
    if (is("sigterm-handled")) {
        signal(SIGTERM, reports);
        kill(getpid(), SIGTERM);
    }
    if (is("sigterm-exits")) until_a_signal(leaves_by_exit);
    if (is("sigterm-_exits")) until_a_signal(leaves_quietly);
    if (is("exit-in-thread")) {
        MUST(pthread_create(&thread, NULL, exits, NULL) == 0);
        pause();
    }
    if (is("exit-amid-launches")) {
        for (int i = 0; i < 4; i++) MUST(pthread_create(&thread, NULL, launches, NULL) == 0);
        zoo_sleep_ms(100);
        exit(status);
    }
    if (is("closed-streams")) {
        fclose(stdout);
        fclose(stderr);
        exit(status);
    }
    return 7;
}
