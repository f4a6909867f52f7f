/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* What the probes need of the kernel: helpers by their numbers in its user interface, and the fields that are read, whose places the loader takes from the
 * running kernel's BTF (CO-RE). No kernel header is needed, so the object depends on this folder and the compiler alone. */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;

#define SEC(name) __attribute__((section(name), used))
#define UINT(name, value) int (*name)[value]
#define TYPE(name, type) type *name

enum { BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_HASH = 5, BPF_MAP_TYPE_PERCPU_ARRAY = 6, BPF_MAP_TYPE_RINGBUF = 27 };
enum { BPF_NOEXIST = 1 };
enum { BPF_RB_NO_WAKEUP = 1, BPF_RB_FORCE_WAKEUP = 2 };

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;
static u64 (*const bpf_get_current_uid_gid)(void) = (void *)15;
static u64 (*const bpf_get_current_task)(void) = (void *)35;
static u64 (*const bpf_get_current_cgroup_id)(void) = (void *)80;
static long (*const bpf_probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static void *(*const bpf_ringbuf_reserve)(void *map, u64 size, u64 flags) = (void *)131;
static void (*const bpf_ringbuf_submit)(void *record, u64 flags) = (void *)132;
static u64 (*const bpf_get_attach_cookie)(void *context) = (void *)174;

#define RELOCATED __attribute__((preserve_access_index))

typedef struct {
    int counter;
} atomic_t;

struct signal_struct {
    atomic_t live;
} RELOCATED;

struct task_struct {
    s32 pid;
    s32 tgid;
    int exit_code;
    u64 start_boottime;
    struct task_struct *real_parent;
    struct task_struct *group_leader;
    struct signal_struct *signal;
    char comm[16];
} RELOCATED;

struct bpf_raw_tracepoint_args {
    u64 args[3];
};

/* Reads a field whose place is the running kernel's; zero where it cannot be read. */
#define READ(from, field)                                                                     \
    ({                                                                                        \
        __typeof__((from)->field) value_ = 0;                                                 \
        bpf_probe_read_kernel(&value_, sizeof value_, &(from)->field);                        \
        value_;                                                                               \
    })
