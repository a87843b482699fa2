/* Probes that see what programs give to their TLS library and get from it. Read by ../plain/event.rs:
 * change both together.
 *
 * Only processes in the network namespaces of the map `chosen` are looked at. What a call carries is
 * told only together with the connection that it belongs to: the one TCP socket on which the same
 * thread, inside that call, sent or got a TLS record. Linux 6.6 (links of many probes) with BTF. */
#include "probe.h"

#if defined(__TARGET_ARCH_x86)
#define NR_READ 0
#define NR_WRITE 1
#define NR_SENDTO 44
#define NR_RECVFROM 45
#define NR_SENDMSG 46
#elif defined(__TARGET_ARCH_arm64)
#define NR_READ 63
#define NR_WRITE 64
#define NR_SENDTO 206
#define NR_RECVFROM 207
#define NR_SENDMSG 211
#endif

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define S_IFMT 0170000
#define S_IFSOCK 0140000

enum kind {
	SENT = 1,
	RECEIVED = 2,
	END = 3,     /* the object is used no more, or for another connection */
	NOWHERE = 4, /* no socket is used inside the object's calls */
};

/* Both ends of a connection, as the process's own socket has them. */
struct ends {
	u8 local[16];
	u8 remote[16];
	u16 local_port;
	u16 remote_port;
	u32 family;
	u64 sock; /* which socket, for as long as it is there; 0: not known */
};

/* Before the bytes. */
struct piece {
	u64 time;     /* CLOCK_MONOTONIC, nanoseconds */
	u64 began;    /* when the object was first seen with this connection: no two have the same */
	u64 position; /* bytes of this direction before it */
	u32 netns;
	u32 pid;
	u32 kind;
	u32 len;
	struct ends ends;
};

/* The same object of the same program: after fork or exec it is another one. */
struct object {
	u64 at;
	u64 mm;
	u64 started;
	u32 pid;
	u32 padding;
};

struct state {
	u64 began;
	u64 positions[2];
	struct ends ends;
};

/* A call that has not returned. */
struct call {
	u64 object;
	u64 buffer;
	u64 len_at; /* where the number of bytes will stand; 0: it is returned */
	u32 netns;
	u32 kind;
	u64 tried;  /* the socket that may turn out to be the connection's, once a record is there: */
	u64 record;
	u32 several; /* more than one had records */
	u32 padding;
	struct ends ends;
};

enum counter {
	PIECES,    /* sent */
	BYTES,     /* in them */
	LOST,      /* bytes that found no room in the ring, or could not be read */
	UNPLACED,  /* bytes of which it is not known which connection they belong to */
	ELSEWHERE, /* calls in a namespace that is not chosen */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, u32);
} chosen SEC(".maps");

/* By thread. One that is killed inside a call leaves its entry: the oldest give way. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct call);
} calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct object);
	__type(value, struct state);
} objects SEC(".maps");

/* probes --pieces--> reader; when full: counted as LOST. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} pieces SEC(".maps");

/* The network namespace of the current thread if it is chosen, else 0. */
static __always_inline u32 netns_if_chosen(void)
{
	u32 netns = netns_of_current();
	return bpf_map_lookup_elem(&chosen, &netns) ? netns : 0;
}

static __always_inline struct object object_at(u64 at)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	return (struct object){
		.at = at,
		.mm = (u64)BPF_CORE_READ(task, mm),
		.started = BPF_CORE_READ(task, group_leader, start_time),
		.pid = bpf_get_current_pid_tgid() >> 32,
	};
}

static __always_inline void describe(struct piece *piece, const struct state *state, u32 netns, u32 kind)
{
	piece->time = bpf_ktime_get_ns();
	piece->began = state->began;
	piece->position = 0;
	piece->netns = netns;
	piece->pid = bpf_get_current_pid_tgid() >> 32;
	piece->kind = kind;
	piece->len = 0;
	piece->ends = state->ends;
}

/* Something happened that has no bytes. */
static __always_inline void tell(const struct state *state, u32 netns, u32 kind)
{
	struct piece *piece = bpf_ringbuf_reserve(&pieces, sizeof(*piece), 0);
	if (!piece)
		return;
	describe(piece, state, netns, kind);
	bpf_ringbuf_submit(piece, 0);
}

/* ---- the library's functions ---- */

static __always_inline int entered(u64 object, u64 buffer, u64 len_at, u32 kind)
{
	u32 netns = netns_if_chosen();
	if (!netns) {
		add(ELSEWHERE, 1);
		return 0;
	}
	u64 thread = bpf_get_current_pid_tgid();
	struct call call = {
		.object = object,
		.buffer = buffer,
		.len_at = len_at,
		.netns = netns,
		.kind = kind,
	};
	bpf_map_update_elem(&calls, &thread, &call, BPF_ANY);
	return 0;
}

/* int SSL_read(SSL *, void *, int), SSL_write(SSL *, const void *, int)
 * ssize_t gnutls_record_recv(gnutls_session_t, void *, size_t), gnutls_record_send likewise
 * int SSL_read_ex(SSL *, void *, size_t, size_t *), SSL_write_ex likewise */
SEC("uprobe.multi") int ssl_read(struct pt_regs *ctx)
{
	return entered(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), 0, RECEIVED);
}

SEC("uprobe.multi") int ssl_write(struct pt_regs *ctx)
{
	return entered(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), 0, SENT);
}

SEC("uprobe.multi") int ssl_read_ex(struct pt_regs *ctx)
{
	return entered(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM4(ctx), RECEIVED);
}

SEC("uprobe.multi") int ssl_write_ex(struct pt_regs *ctx)
{
	return entered(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM4(ctx), SENT);
}

/* The header of a TLS record (RFC 8446 section 5.1): its type, and 3 as the version's first byte. */
static __always_inline int is_record(u64 at)
{
	u8 header[5] = {};
	if (bpf_probe_read_user(header, sizeof(header), (void *)at))
		return 0;
	u32 len = (u32)header[3] << 8 | header[4];
	/* In numbers, not in branches: the verifier follows each of those to the end. */
	u32 wrong = (u32)(u8)(header[0] - 20) >> 2 | (header[1] ^ 3) | header[2] >> 3 | len >> 15;
	return !wrong;
}

/* Both ends of a TCP socket; its family is 0 for anything else. */
static __always_inline void read_ends(struct sock *sock, struct ends *ends)
{
	ends->sock = (u64)sock;
	ends->family = BPF_CORE_READ(sock, __sk_common.skc_family);
	ends->local_port = BPF_CORE_READ(sock, __sk_common.skc_num);
	ends->remote_port = __builtin_bswap16(BPF_CORE_READ(sock, __sk_common.skc_dport));
	if (ends->family == AF_INET) {
		u32 local = BPF_CORE_READ(sock, __sk_common.skc_rcv_saddr);
		u32 remote = BPF_CORE_READ(sock, __sk_common.skc_daddr);
		__builtin_memcpy(ends->local, &local, sizeof(local));
		__builtin_memcpy(ends->remote, &remote, sizeof(remote));
	} else if (ends->family == AF_INET6) {
		BPF_CORE_READ_INTO(&ends->local, sock, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&ends->remote, sock, __sk_common.skc_v6_daddr);
	} else {
		ends->family = 0;
	}
	if (!ends->remote_port || !ends->local_port)
		ends->family = 0;
}

/* A record was on this socket. */
static __always_inline void prove(struct call *call, u64 sock)
{
	struct ends ends = {};
	read_ends((struct sock *)sock, &ends);
	if (!ends.family)
		return;
	if (call->ends.sock && call->ends.sock != sock)
		call->several = 1;
	call->ends = ends;
}

/* What was read into the buffer of an earlier system call stands there now. */
static __always_inline void look_back(struct call *call)
{
	if (call->tried && is_record(call->record))
		prove(call, call->tried);
	call->tried = 0;
}

/* Where the first bytes of a message stand (struct user_msghdr, whose parts are struct iovec). */
static __always_inline u64 first_part(u64 message)
{
	u64 parts = 0, base = 0;
	if (bpf_probe_read_user(&parts, sizeof(parts), (void *)(message + 16)))
		return 0;
	if (bpf_probe_read_user(&base, sizeof(base), (void *)parts))
		return 0;
	return base;
}

static __always_inline struct sock *sock_of(u32 number)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	if (number >= BPF_CORE_READ(table, max_fds))
		return 0;
	struct file **files = BPF_CORE_READ(table, fd), *file = 0;
	if (bpf_probe_read_kernel(&file, sizeof(file), files + number) || !file)
		return 0;
	if ((BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	struct socket *socket = BPF_CORE_READ(file, private_data);
	if (BPF_CORE_READ(socket, type) != SOCK_STREAM)
		return 0;
	return BPF_CORE_READ(socket, sk);
}

/* Every system call of the machine, so what is none of ours leaves at once. */
SEC("raw_tracepoint/sys_enter") int system_call(u64 *ctx)
{
	u64 number = ctx[1];
	if (number != NR_READ && number != NR_WRITE && number != NR_SENDTO &&
	    number != NR_RECVFROM && number != NR_SENDMSG)
		return 0;
	u64 thread = bpf_get_current_pid_tgid();
	struct call *call = bpf_map_lookup_elem(&calls, &thread);
	if (!call)
		return 0;
	u64 arguments[2];
#if defined(__TARGET_ARCH_x86)
	struct pt_regs regs;
	if (bpf_probe_read_kernel(&regs, sizeof(regs), (void *)ctx[0]))
		return 0;
	arguments[0] = regs.di;
	arguments[1] = regs.si;
#else
	if (bpf_probe_read_kernel(arguments, sizeof(arguments), (void *)ctx[0]))
		return 0;
#endif
	look_back(call);
	struct sock *sock = sock_of(arguments[0]);
	if (!sock)
		return 0;
	if (number == NR_WRITE || number == NR_SENDTO) {
		if (is_record(arguments[1]))
			prove(call, (u64)sock);
	} else if (number == NR_SENDMSG) {
		if (is_record(first_part(arguments[1])))
			prove(call, (u64)sock);
	} else {
		call->tried = (u64)sock;
		call->record = arguments[1];
	}
	return 0;
}

static __always_inline int is_same(const struct ends *one, const struct ends *other)
{
	return one->sock == other->sock && one->local_port == other->local_port &&
	       one->remote_port == other->remote_port;
}

/* Where the object's bytes go, as this call has shown or an earlier one. */
static __always_inline struct state *state_of(struct call *call, const struct object *object)
{
	struct state *known = bpf_map_lookup_elem(&objects, object);
	if (call->several) {
		if (known && known->ends.family)
			tell(known, call->netns, END);
		bpf_map_delete_elem(&objects, object);
		return 0;
	}
	if (known && (!call->ends.sock || is_same(&known->ends, &call->ends)))
		return known;
	struct state fresh = { .began = bpf_ktime_get_ns(), .ends = call->ends };
	if (known && known->ends.family)
		tell(known, call->netns, END);
	if (!fresh.ends.family)
		tell(&fresh, call->netns, NOWHERE);
	bpf_map_update_elem(&objects, object, &fresh, BPF_ANY);
	return bpf_map_lookup_elem(&objects, object);
}

/* The most that one piece carries, and how many pieces one call may give. */
#define PIECE 16384
#define MOST_PIECES 16

#define SEND(SIZE)                                                                         \
	do {                                                                               \
		struct {                                                                   \
			struct piece piece;                                                \
			u8 bytes[SIZE];                                                    \
		} *event = bpf_ringbuf_reserve(&pieces, sizeof(*event), 0);                \
		if (!event) {                                                              \
			add(LOST, at_most(rest, SIZE));                                    \
			break;                                                             \
		}                                                                          \
		describe(&event->piece, state, call->netns, call->kind);                   \
		event->piece.position = position + done;                                   \
		event->piece.len = at_most(rest, SIZE);                                    \
		if (bpf_probe_read_user(event->bytes, at_most(rest, SIZE),                 \
					(void *)(call->buffer + done))) {                  \
			bpf_ringbuf_discard(event, 0);                                     \
			add(LOST, at_most(rest, SIZE));                                    \
			break;                                                             \
		}                                                                          \
		bpf_ringbuf_submit(event, 0);                                              \
		add(PIECES, 1);                                                            \
		add(BYTES, at_most(rest, SIZE));                                           \
	} while (0)

/* What each turn of the loop begins with depends on its number alone: so the verifier sees an end. */
static __always_inline void carry(struct call *call, struct state *state, u64 len)
{
	u32 way = call->kind == SENT ? 0 : 1;
	u64 position = state->positions[way];
	state->positions[way] += len;
	u64 done = 0, rest = len;
	if (len <= 512) {
		SEND(512);
		return;
	}
	if (len <= 4096) {
		SEND(4096);
		return;
	}
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MOST_PIECES; i++) {
		done = (u64)i * PIECE;
		if (done >= len)
			return;
		rest = len - done;
		SEND(PIECE);
	}
	if (len > MOST_PIECES * PIECE)
		add(LOST, len - MOST_PIECES * PIECE);
}

/* Any of them returns. */
SEC("uretprobe.multi") int returned(struct pt_regs *ctx)
{
	u64 thread = bpf_get_current_pid_tgid();
	struct call *call = bpf_map_lookup_elem(&calls, &thread);
	int result = (int)PT_REGS_RC(ctx);
	if (!call) {
		/* Another call of this thread's was made inside it: TLS within TLS. */
		if (result > 0 && netns_if_chosen())
			add(UNPLACED, result);
		return 0;
	}
	u64 len = 0;
	if (result > 0) {
		len = result;
		if (call->len_at && bpf_probe_read_user(&len, sizeof(len), (void *)call->len_at))
			len = 0;
	}
	if (len) {
		look_back(call);
		struct object object = object_at(call->object);
		struct state *state = state_of(call, &object);
		if (state && state->ends.family)
			carry(call, state, len);
		else
			add(UNPLACED, len);
	}
	bpf_map_delete_elem(&calls, &thread);
	return 0;
}

/* void SSL_free(SSL *), int SSL_clear(SSL *), void SSL_set_bio(SSL *, BIO *, BIO *),
 * void SSL_set0_rbio(SSL *, BIO *), void SSL_set0_wbio(SSL *, BIO *): from here on the object may be
 * another connection's. */
SEC("uprobe.multi") int ssl_forget(struct pt_regs *ctx)
{
	u32 netns = netns_if_chosen();
	if (!netns)
		return 0;
	struct object object = object_at(PT_REGS_PARM1(ctx));
	struct state *state = bpf_map_lookup_elem(&objects, &object);
	if (!state)
		return 0;
	if (state->ends.family)
		tell(state, netns, END);
	bpf_map_delete_elem(&objects, &object);
	return 0;
}
