/* What all probes have in common. */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

/* bpf_probe_read_user and others are for GPL-compatible programs only. */
char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Each object numbers its own, from 0. */
#define COUNTERS 8

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

static __always_inline void add(u32 which, u64 number)
{
	u64 *value = bpf_map_lookup_elem(&counters, &which);
	if (value)
		__sync_fetch_and_add(value, number);
}

/* In a way that the verifier of old kernels follows. */
static __always_inline u64 at_most(u64 len, u64 most)
{
	barrier_var(len);
	return len > most ? most : len;
}

static __always_inline u32 netns_of_current(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	return BPF_CORE_READ(task, nsproxy, net_ns, ns.inum);
}
