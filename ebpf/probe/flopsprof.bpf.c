/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The probes: processes that begin, change and end, and calls of the CUDA driver's entry points, counted by process.
 *
 * They count and tell, and nothing else; whose process it is and what follows is the reader's. Raw tracepoints, because these need no tracefs and their
 * arguments stay as they are from kernel to kernel. Calls are counted per CPU and exactly: threads share a key, so the addition is atomic and the first one
 * adds like the others. What finds no room is counted as lost. */
#include "record.h"

struct {
    UINT(type, BPF_MAP_TYPE_RINGBUF);
    UINT(max_entries, 1 << 20);
} EVENTS SEC(".maps");

struct {
    UINT(type, BPF_MAP_TYPE_PERCPU_HASH);
    UINT(max_entries, 8192);
    TYPE(key, struct caller);
    TYPE(value, u64);
} CALLS SEC(".maps");

struct {
    UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    UINT(max_entries, LOST_KINDS);
    TYPE(key, u32);
    TYPE(value, u64);
} LOST SEC(".maps");

/* Whether launches are counted at the moment: probes that are attached one after the other begin and end together. */
struct {
    UINT(type, BPF_MAP_TYPE_ARRAY);
    UINT(max_entries, 1);
    TYPE(key, u32);
    TYPE(value, u64);
} LAUNCHES_ON SEC(".maps");

static __attribute__((always_inline)) void lose(u32 what) {
    u64 *lost = bpf_map_lookup_elem(&LOST, &what);
    if (lost)
        __sync_fetch_and_add(lost, 1);
}

static __attribute__((always_inline)) void tell(struct task_struct *task, u32 kind, u32 entry, u64 flags) {
    struct event *event = bpf_ringbuf_reserve(&EVENTS, sizeof *event, 0);
    if (!event) {
        lose(LOST_EVENTS);
        return;
    }
    struct task_struct *leader = READ(task, group_leader);
    struct task_struct *parent = READ(task, real_parent);
    event->ns = bpf_ktime_get_ns();
    event->started_ns = READ(leader, start_boottime);
    event->cgroup = bpf_get_current_cgroup_id();
    event->pid = READ(task, tgid);
    event->parent = READ(parent, tgid);
    event->uid = bpf_get_current_uid_gid();
    event->kind = kind;
    event->entry = entry;
    event->status = kind == ENDED ? READ(task, exit_code) : 0;
    bpf_probe_read_kernel(event->comm, sizeof event->comm, &leader->comm);
    bpf_ringbuf_submit(event, flags);
}

SEC("raw_tp/sched_process_fork")
int forked(struct bpf_raw_tracepoint_args *context) {
    struct task_struct *child = (void *)context->args[1];
    /* A new thread is no new process. */
    if (READ(child, pid) == READ(child, tgid))
        tell(child, FORKED, 0, BPF_RB_NO_WAKEUP);
    return 0;
}

SEC("raw_tp/sched_process_exec")
int executed(struct bpf_raw_tracepoint_args *context) {
    tell((void *)context->args[0], EXECUTED, 0, BPF_RB_NO_WAKEUP);
    return 0;
}

SEC("raw_tp/sched_process_exit")
int ended(struct bpf_raw_tracepoint_args *context) {
    struct task_struct *task = (void *)context->args[0];
    struct signal_struct *signal = READ(task, signal);
    /* With its last thread. */
    if (READ(signal, live.counter) == 0)
        tell(task, ENDED, 0, BPF_RB_NO_WAKEUP);
    return 0;
}

SEC("uprobe")
int called(void *context) {
    u64 cookie = bpf_get_attach_cookie(context);
    if (cookie & COOKIE_LAUNCH) {
        u32 zero = 0;
        u64 *on = bpf_map_lookup_elem(&LAUNCHES_ON, &zero);
        if (!on || !*on)
            return 0;
    }
    struct task_struct *task = (void *)bpf_get_current_task();
    struct task_struct *leader = READ(task, group_leader);
    struct caller caller = {
        .started_ns = READ(leader, start_boottime), .pid = bpf_get_current_pid_tgid() >> 32, .entry = cookie & COOKIE_ENTRY};
    u64 *calls = bpf_map_lookup_elem(&CALLS, &caller);
    if (!calls) {
        u64 none = 0;
        /* Another thread may come first: both add then. */
        long made = bpf_map_update_elem(&CALLS, &caller, &none, BPF_NOEXIST);
        calls = bpf_map_lookup_elem(&CALLS, &caller);
        if (!calls) {
            lose(LOST_CALLS);
            return 0;
        }
        if (made == 0)
            tell(task, CALLED, caller.entry, BPF_RB_FORCE_WAKEUP);
    }
    __sync_fetch_and_add(calls, 1);
    return 0;
}

/* The kernel hands some helpers to programs under its own licence only. */
char LICENSE[] SEC("license") = "GPL";
