/* Programs under limits that they set themselves: limits HOW. */
#include "probe.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>

static __thread volatile sig_atomic_t trapped;

static void limit(int which, unsigned long long value) {
    struct rlimit limit = {value, value};
    MUST(setrlimit(which, &limit) == 0);
}

/* Answers one system call with an error, or with SIGSYS; on all threads, if asked. */
static void refuse(int number, unsigned action, unsigned flags) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, action),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) == 0);
}

static void on_trap(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)info;
    /* As sandboxes do: the call has failed. */
#ifdef __aarch64__
    ((ucontext_t *)context)->uc_mcontext.regs[0] = (unsigned long long)-EPERM;
#else
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = -EPERM;
#endif
    trapped++;
}

/* Takes all memory that the limit leaves, and lives with that for a while. */
static void exhausts_memory(struct zoo *zoo) {
    enum { MOST = 4096 };
    static void *taken[MOST];
    int count = 0;
    for (size_t size = 1 << 20; size >= 4096; size /= 2) {
        while (count < MOST) {
            void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory == MAP_FAILED) break;
            /* With its size at its head, which also makes it real. */
            *(size_t *)memory = size;
            taken[count++] = memory;
        }
    }
    /* And what the heap has left. */
    static void *small[1 << 16];
    int smalls = 0;
    while (smalls < 1 << 16 && (small[smalls] = malloc(512)) != NULL) smalls++;
    for (int i = 0; i < 300; i++) {
        ZOO_CHECK(cuCtxSynchronize());
        usleep(1000);
    }
    while (smalls > 0) free(small[--smalls]);
    for (; count > 0; count--) munmap(taken[count - 1], *(size_t *)taken[count - 1]);
    zoo_work(zoo, BF16, 150, 1000);
    puts("all memory was taken and given back");
}

static void *never(void *unused) { return unused; }

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    wanted = argv[1];
    struct zoo zoo;
    if (is("address-space")) {
        limit(RLIMIT_AS, 400ull << 20);
    } else if (is("no-memory")) {
        limit(RLIMIT_AS, 400ull << 20);
        zoo = begin();
        exhausts_memory(&zoo);
    } else if (is("file-size")) {
        limit(RLIMIT_FSIZE, 0);
    } else if (is("file-size-handled")) {
        signal(SIGXFSZ, SIG_DFL);
        limit(RLIMIT_FSIZE, 10000);
        zoo = begin();
        zoo_work(&zoo, BF16, 1000, 1000);
    } else if (is("stack")) {
        limit(RLIMIT_STACK, 256 << 10);
    } else if (is("memory-locked")) {
        MUST(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
    } else if (is("no-core")) {
        limit(RLIMIT_CORE, 0);
    } else if (is("no-processes")) {
        /* Root is not held by this limit. */
        MUST(setgid(65534) == 0 && setuid(65534) == 0);
        limit(RLIMIT_NPROC, 0);
    } else if (is("no-threads")) {
        refuse(SYS_clone3, SECCOMP_RET_ERRNO | ENOSYS, 0);
        refuse(SYS_clone, SECCOMP_RET_ERRNO | EPERM, 0);
        pthread_t thread;
        printf("a thread: %s\n", strerror(pthread_create(&thread, NULL, never, NULL)));
    } else if (is("no-unsharing")) {
        /* As container runtimes have it: there is another way. */
        refuse(SYS_unshare, SECCOMP_RET_ERRNO | EPERM, 0);
    } else if (is("no-table-of-its-own")) {
        /* Neither: then the meter's files lie among the program's, which closes them again and again. */
        refuse(SYS_unshare, SECCOMP_RET_ERRNO | EPERM, 0);
        refuse(SYS_close_range, SECCOMP_RET_ERRNO | EPERM, 0);
        zoo = begin();
        for (int round = 0; round < 20; round++) {
            for (int fd = 3; fd < 64; fd++) close(fd);
            int data = open("data", O_RDWR | O_CREAT | O_TRUNC, 0600);
            for (int fd = 3; fd < 64; fd++) {
                if (fd != data) MUST(dup2(data, fd) == fd);
            }
            zoo_work(&zoo, BF16, 20, 1000);
            struct stat at;
            MUST(fstat(data, &at) == 0);
            printf("the program's file has %lld bytes\n", (long long)at.st_size);
        }
        zoo_truth();
        return 0;
    } else if (is("sandboxed-late")) {
        /* Every thread of the process is sandboxed when it works already, and its handler stands for what is refused. */
        struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER};
        MUST(sigaction(SIGSYS, &action, NULL) == 0);
        zoo = begin();
        refuse(SYS_openat, SECCOMP_RET_TRAP, SECCOMP_FILTER_FLAG_TSYNC);
        errno = 0;
        int file = open("/dev/null", O_RDONLY);
        printf("a file: %d %s\n", file, strerror(errno));
        printf("truth %s %llu\n", kernel_metric[BF16], zoo_flop[BF16] / 250 * 650);
        fflush(stdout);
        refuse(SYS_write, SECCOMP_RET_TRAP, 0);
        zoo_work(&zoo, BF16, 400, 1000);
        /* What was written before the sandbox was closed is all that is said. */
        int before = trapped;
        ssize_t n = write(1, "lost\n", 5);
        _exit(n == -1 && trapped == before + 1 ? 31 : 32);
    } else if (is("no-permissions-by-default")) {
        umask(0777);
    } else if (is("all-permissions-by-default")) {
        umask(0);
    } else if (is("folder-is-gone")) {
        MUST(mkdir("gone", 0700) == 0 && chdir("gone") == 0 && rmdir("../gone") == 0);
    } else if (is("large-environment")) {
        static char name[32], value[100000];
        memset(value, 'x', sizeof value - 1);
        for (int i = 0; i < 12; i++) {
            snprintf(name, sizeof name, "LARGE_%d", i);
            setenv(name, value, 1);
        }
        if (getenv("AGAIN") == NULL) {
            setenv("AGAIN", "1", 1);
            execv(argv[0], argv);
        }
    } else if (is("no-environment")) {
        clearenv();
        setenv("LD_LIBRARY_PATH", "/nowhere", 1);
    } else {
        return 2;
    }
    zoo = begin();
    finish(&zoo);
    return 0;
}
