/* Processes that make others: processes HOW. What is said of a child is its wait status. */
#include "probe.h"

#include <sched.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/ptrace.h>

static char **self;
static volatile sig_atomic_t children_told;

static void on_child(int number) {
    (void)number;
    children_told++;
}

static void ended(pid_t pid) {
    int status = -1;
    pid_t got = waitpid(pid, &status, 0);
    printf("child %s status %x\n", got == pid ? "ended" : strerror(errno), status);
    fflush(stdout);
}

/* Whether there is a child that nobody here knows of, and stays. What starts the report is one, without a signal of its end, for the moment that takes: only who asks for all
 * kinds of children (__WALL) at that moment sees it, and a busy machine makes it long. */
static void no_other_child(void) {
    int status;
    pid_t got = 0;
    for (int look = 0; look < 100 && (got = waitpid(-1, &status, WNOHANG | __WALL)) == 0; look++) zoo_sleep_ms(20);
    printf("further child: %s\n", got > 0 ? "one" : got == 0 ? "one that runs" : strerror(errno));
}

static pid_t child_works(int how) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        struct zoo zoo = begin();
        finish(&zoo);
        if (how == 1) _exit(11);
        exit(11);
    }
    return pid;
}

/* A child of a process with CUDA can do everything but CUDA. */
static pid_t child_idles(int how) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        void *library = dlopen("libm.so.6", RTLD_NOW);
        printf("in the child: cuInit %d, libm %s\n", cuInit(0), library != NULL ? "there" : "missing");
        probe("child");
        if (how == 1) _exit(12);
        if (how == 2) abort();
        if (how == 3) execl("/bin/sh", "sh", "-c", "ls /proc/self/fd | wc -l; exit 13", (char *)NULL);
        exit(12);
    }
    return pid;
}

static int raw_child(void *unused) {
    (void)unused;
    _exit(14);
}

static void daemonise(void) {
    fflush(stdout);
    pid_t pid = fork();
    if (pid > 0) {
        ended(pid);
        _exit(0);
    }
    setsid();
    if (fork() > 0) _exit(15);
    MUST(chdir("/") == 0);
    umask(0);
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    wanted = argv[1];
    self = argv;
    if (is("works")) {
        struct zoo zoo = begin();
        finish(&zoo);
        return 16;
    }
    char *works[] = {argv[0], "works", NULL}, *nothing[] = {NULL}, path[64];
    pid_t pid = 0;
    struct zoo zoo;
    if (is("fork-before")) {
        for (int how = 0; how < 2; how++) ended(child_works(how));
        zoo = begin();
        finish(&zoo);
        no_other_child();
        return 0;
    }
    if (is("double-fork")) {
        daemonise();
        zoo = begin();
        finish(&zoo);
        return 0;
    }
    if (is("traced")) {
        /* As a debugger does: the child stops, is looked at, and goes on. */
        pid = fork();
        if (pid == 0) {
            MUST(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
            raise(SIGSTOP);
            zoo = begin();
            finish(&zoo);
            exit(17);
        }
        for (int status; waitpid(pid, &status, 0) == pid;) {
            if (!WIFSTOPPED(status)) {
                printf("child status %x\n", status);
                break;
            }
            int number = WSTOPSIG(status);
            printf("child stopped by %d\n", number);
            fflush(stdout);
            ptrace(PTRACE_CONT, pid, NULL, (void *)(intptr_t)(number == SIGSTOP ? 0 : number));
        }
        return 0;
    }
    if (is("exec-without-environment")) execve(argv[0], works, nothing);
    if (is("subreaper")) MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    if (is("sigchld-ignored")) signal(SIGCHLD, SIG_IGN);
    if (is("sigchld-handled")) signal(SIGCHLD, on_child);

    zoo = begin();
    if (is("fork-after")) {
        for (int how = 0; how < 4; how++) ended(child_idles(how));
    } else if (is("fork-after-many")) {
        for (int i = 0; i < 40; i++) {
            fflush(stdout);
            if ((pid = fork()) == 0) _exit(3);
            zoo_work(&zoo, BF16, 5, 1000);
            ended(pid);
        }
    } else if (is("exec")) {
        finish(&zoo);
        execv(argv[0], works);
    } else if (is("exec-memory")) {
        int memory = memfd_create("program", 0), file = open("/proc/self/exe", O_RDONLY);
        char block[65536];
        for (ssize_t n; (n = read(file, block, sizeof block)) > 0;) MUST(write(memory, block, (size_t)n) == n);
        close(file);
        finish(&zoo);
        snprintf(path, sizeof path, "/proc/self/fd/%d", memory);
        execv(path, works);
    } else if (is("vfork")) {
        if ((pid = vfork()) == 0) _exit(19);
        ended(pid);
        if ((pid = vfork()) == 0) {
            execl("/bin/sh", "sh", "-c", "exit 18", (char *)NULL);
            _exit(127);
        }
        ended(pid);
    } else if (is("posix_spawn")) {
        MUST(posix_spawn(&pid, argv[0], NULL, NULL, works, environ) == 0);
        ended(pid);
        MUST(posix_spawn(&pid, argv[0], NULL, NULL, works, nothing) == 0);
        ended(pid);
    } else if (is("raw-clone")) {
        static char stack[65536] __attribute__((aligned(16)));
        ended(clone(raw_child, stack + sizeof stack, SIGCHLD, NULL));
        pid = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
        if (pid == 0) _exit(20);
        ended(pid);
    } else if (is("shells")) {
        printf("system %x\n", system("exit 21"));
        FILE *pipe = popen("echo from a pipe; exit 22", "r");
        char line[64] = "";
        MUST(fgets(line, sizeof line, pipe) != NULL);
        printf("%s", line);
        printf("pclose %x\n", pclose(pipe));
    } else if (is("sigchld-ignored")) {
        child_idles(0);
        printf("wait: %s\n", wait(NULL) == -1 ? strerror(errno) : "a child");
    } else if (is("sigchld-handled")) {
        pid = child_idles(0);
        while (children_told == 0) zoo_sleep_ms(1);
        ended(pid);
        zoo_work(&zoo, BF16, 100, 1000);
        printf("told of %d\n", (int)children_told);
    } else if (is("wait-any") || is("subreaper")) {
        /* Every child that there is, and there is one. */
        child_idles(0);
        int count = 0;
        while (wait(NULL) > 0) count++;
        zoo_work(&zoo, BF16, 100, 1000);
        while (waitpid(-1, NULL, WNOHANG | __WALL) > 0) count++;
        printf("waited for %d\n", count);
    } else if (is("session")) {
        pid = fork();
        if (pid == 0) _exit(setsid() == getpid() ? 23 : 24);
        ended(pid);
        printf("own session: %s\n", setsid() == -1 ? strerror(errno) : "yes");
    } else {
        return 2;
    }
    no_other_child();
    finish(&zoo);
    return 0;
}
