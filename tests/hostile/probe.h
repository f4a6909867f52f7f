/* What a process looks like at a moment: descriptors, threads, signals, limits, identity. Every line goes to stdout, so that a run with the meter and one
 * without can be compared. Left out is what the meter is known by: its threads' names, its variables. */
#ifndef PROBE_H
#define PROBE_H

#include "../zoo/zoo.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

extern char **environ;

/* Says what must not have failed, and ends with 9. */
#define MUST(call)                                                                                                                                \
    do {                                                                                                                                          \
        if (!(call)) {                                                                                                                            \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, strerror(errno));                                                       \
            exit(9);                                                                                                                              \
        }                                                                                                                                         \
    } while (0)

static void probe_descriptors(void) {
    printf(" fds");
    for (int fd = 0; fd < 1024; fd++) {
        struct stat at;
        if (fstat(fd, &at) != 0) continue;
        printf(" %d:%o:%x:%x", fd, at.st_mode & S_IFMT, fcntl(fd, F_GETFL), fcntl(fd, F_GETFD));
        if (S_ISREG(at.st_mode)) printf("@%lld", (long long)lseek(fd, 0, SEEK_CUR));
    }
    printf("\n");
}

/* The program's own threads. Without /proc nobody can count them. */
static void probe_threads(void) {
    DIR *tasks = opendir("/proc/self/task");
    if (tasks == NULL) {
        printf(" threads unknown\n");
        return;
    }
    int threads = 0;
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        char path[300], name[64] = "";
        if (task->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
        FILE *comm = fopen(path, "r");
        if (comm == NULL) continue;
        if (fgets(name, sizeof name, comm) != NULL && strncmp(name, "flopsprof", 9) != 0) threads++;
        fclose(comm);
    }
    closedir(tasks);
    printf(" threads %d\n", threads);
}

static void probe_signals(void) {
    unsigned long mask = 0, pending = 0;
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, sizeof mask);
    syscall(SYS_rt_sigpending, &pending, sizeof pending);
    printf(" mask %lx pending %lx handlers", mask, pending);
    for (int number = 1; number <= 64; number++) {
        struct sigaction action;
        if (sigaction(number, NULL, &action) != 0 || action.sa_handler == SIG_DFL) continue;
        printf(" %d:%s:%x", number, action.sa_handler == SIG_IGN ? "ignored" : "handled", action.sa_flags);
    }
    stack_t alternate = {0};
    sigaltstack(NULL, &alternate);
    printf(" altstack %d\n", alternate.ss_flags);
}

static void probe_limits(void) {
    printf(" limits");
    for (int which = 0; which < RLIM_NLIMITS; which++) {
        struct rlimit limit;
        if (getrlimit(which, &limit) == 0) printf(" %llx/%llx", (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
    }
    printf("\n timers");
    for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++) {
        struct itimerval timer;
        if (getitimer(which, &timer) == 0) printf(" %ld.%06ld", (long)timer.it_interval.tv_sec, (long)timer.it_interval.tv_usec);
    }
    printf("\n");
}

static void probe_identity(void) {
    char cwd[4096];
    mode_t mask = umask(0);
    umask(mask);
    printf(" ids %d %d %d %d umask %o cwd %s", getuid(), geteuid(), getgid(), getegid(), mask, getcwd(cwd, sizeof cwd) != NULL ? cwd : strerror(errno));
    printf(" dumpable %d nnp %d seccomp %d nice %d leader %d\n", prctl(PR_GET_DUMPABLE), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_GET_SECCOMP),
           getpriority(PRIO_PROCESS, 0), getsid(0) == getpid());
    int variables = 0;
    for (char **variable = environ; variable != NULL && *variable != NULL; variable++) {
        if (strncmp(*variable, "FLOPSPROF_", 10) == 0 || strncmp(*variable, "LD_PRELOAD=", 11) == 0) continue;
        if (strncmp(*variable, "CUDA_INJECTION64_PATH=", 22) == 0) continue;
        variables++;
    }
    printf(" environment %d\n", variables);
}

/* Prints everything at a moment. */
__attribute__((unused)) static void probe(const char *moment) {
    printf("%s:\n", moment);
    probe_descriptors();
    probe_threads();
    probe_signals();
    probe_limits();
    probe_identity();
    fflush(stdout);
}

/* CUDA is started, and what is there works for a while: long enough that a window or two are in the evidence. */
__attribute__((unused)) static struct zoo begin(void) {
    zoo_open();
    struct zoo zoo = zoo_primary(0);
    zoo_work(&zoo, BF16, 250, 1000);
    return zoo;
}

/* Works on, looks at itself, and says what was executed. */
__attribute__((unused)) static void finish(struct zoo *zoo) {
    zoo_work(zoo, BF16, 150, 1000);
    probe("working");
    zoo_truth();
}

/* Whether the program's argument is this. */
static const char *wanted;
__attribute__((unused)) static int is(const char *name) { return strcmp(wanted, name) == 0; }

#endif
