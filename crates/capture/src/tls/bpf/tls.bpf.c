/* Probes that see TLS secrets as libraries derive them. Read by ../event.rs: change both together.
 *
 * Only processes in the network namespaces of the map `targets` are looked at; of others nothing is
 * read and nothing leaves the kernel. Linux 5.8 (ring buffer) with BTF. */
#include "probe.h"

#ifdef MULTI
#define UPROBE SEC("uprobe.multi.s")
#define LIGHT_UPROBE SEC("uprobe.multi")
#elif defined SLEEPABLE
#define UPROBE SEC("uprobe.s")
#define LIGHT_UPROBE SEC("uprobe")
#else
#define UPROBE SEC("uprobe")
#define LIGHT_UPROBE SEC("uprobe")
#endif

/* What a secret event holds. */
enum kind {
	DERIVATION = 1, /* TLS 1.3: HKDF-Expand-Label(key, label, data) */
	EXPANSION = 2,  /* TLS 1.2: key is the main secret, data the client's random */
	KEY_LOG = 3,    /* key is the secret with this label, data the client's random */
	C_KEY_LOG = 4,  /* the same, from a library in C */
	IN_OBJECT = 5,  /* key is the secret with this label, the client's random is in the object */
	RUST_KEY_LOG = 6,   /* as C_KEY_LOG, with TLS 1.3's own labels */
	RUST_IN_OBJECT = 7, /* as IN_OBJECT, with TLS 1.3's own labels; the object is the stack */
	RUST_EXPANSION = 8, /* as EXPANSION */
};

#define LABEL 40
#define BYTES 64

struct secret {
	u64 time; /* CLOCK_MONOTONIC, nanoseconds */
	u32 netns;
	u32 pid;
	u32 tid;
	u32 kind;
	u32 label_len;
	u32 key_len;
	u32 data_len;
	u32 file; /* whose code, as the reader numbers files; 0 where it does not matter */
	u8 label[LABEL];
	u8 key[BYTES];
	u8 data[BYTES];
};

#define OWN 1024
#define POINTERS 64
#define BEHIND 256

/* A secret, and the object that its function was given; what could not be read is zero. */
struct in_object {
	struct secret secret;
	u8 own[OWN];
	u8 behind[POINTERS][BEHIND]; /* what its first words point to */
};

/* A process that may have mapped something new. */
struct hint {
	u32 pid;
	u32 netns;
};

enum counter {
	SECRETS,    /* sent */
	ELSEWHERE,  /* calls in a namespace that is not recorded */
	LOST,       /* secrets that found no room in the ring, or came with too many objects */
	UNREADABLE, /* calls whose arguments could not be read */
	HINTS_LOST, /* hints that found no room; a regular look makes up for them */
	REFUSED,    /* secrets beyond what one namespace may send in a moment */
};

/* A moment of so many nanoseconds, and what a namespace may send in it: a fifth of the ring's room; 4,000
 * handshakes of TLS 1.3 a second, both ends. */
#define MOMENT 100000000ull
#define SECRETS_OF_ONE 4000

/* A recorded namespace, and what it sent in the moment. */
struct target {
	u64 moment;
	u32 secrets;
	u32 objects;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, struct target);
} targets SEC(".maps");

/* probes --secrets--> reader; when full: counted as LOST. 20,000 secrets. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} secrets SEC(".maps");

/* probes --hints--> reader; when full: counted, and found by the next look. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 10);
} hints SEC(".maps");

static __always_inline void count(u32 which)
{
	add(which, 1);
}

/* The network namespace of the current thread if it is recorded, else 0. */
static __always_inline u32 recorded(void)
{
	u32 netns = netns_of_current();
	return bpf_map_lookup_elem(&targets, &netns) ? netns : 0;
}

static __always_inline long read(void *to, u32 len, u64 from)
{
	long failed = bpf_probe_read_user(to, len, (void *)from);
#ifdef SLEEPABLE
	/* A library's constants may not have been touched by this process before. */
	if (failed)
		failed = bpf_copy_from_user(to, len, (void *)from);
#endif
	return failed;
}

/* Up to seven characters and the zeroes after them, as a number. */
static __always_inline u64 read_word(u64 from)
{
	u64 word = 0;
	if (bpf_probe_read_user_str(&word, sizeof(word), (void *)from) < 0) {
#ifdef SLEEPABLE
		u8 touched;
		if (bpf_copy_from_user(&touched, 1, (void *)from))
			return 0;
		word = 0;
		bpf_probe_read_user_str(&word, sizeof(word), (void *)from);
#endif
	}
	return word;
}

static __always_inline u64 eight(const u8 *bytes)
{
	u64 word;
	__builtin_memcpy(&word, bytes, sizeof(word));
	return word;
}

/* The first letters of a string as a little-endian number. */
#define WORD(a, b, c, d, e, f, g, h)                                                       \
	((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 |     \
	 (u64)(f) << 40 | (u64)(g) << 48 | (u64)(h) << 56)

static __always_inline void begin(struct secret *secret, u32 netns)
{
	u64 id = bpf_get_current_pid_tgid();
	__builtin_memset(secret, 0, sizeof(*secret));
	secret->time = bpf_ktime_get_ns();
	secret->netns = netns;
	secret->pid = id >> 32;
	secret->tid = (u32)id;
}

/* Up to 39 characters and a zero. */
static __always_inline long read_label(u8 *to, u64 from)
{
	long len = bpf_probe_read_user_str(to, LABEL, (void *)from);
#ifdef SLEEPABLE
	if (len < 0) {
		u8 touched;
		if (bpf_copy_from_user(&touched, 1, (void *)from))
			return len;
		len = bpf_probe_read_user_str(to, LABEL, (void *)from);
	}
#endif
	return len;
}

/* The secret's namespace as it stands in the secret's moment; 0 when it was just forgotten. Two processors
 * may begin a moment together, and send a few more. */
static __always_inline struct target *target_of(const struct secret *secret)
{
	u32 netns = secret->netns;
	u64 moment = secret->time / MOMENT;
	struct target *target = bpf_map_lookup_elem(&targets, &netns);
	if (target && target->moment != moment) {
		target->moment = moment;
		target->secrets = 0;
		target->objects = 0;
	}
	return target;
}

static __always_inline void send(struct secret *secret)
{
	struct target *target = target_of(secret);
	if (!target)
		return;
	if (target->secrets >= SECRETS_OF_ONE) {
		count(REFUSED);
		return;
	}
	__sync_fetch_and_add(&target->secrets, 1);
	if (bpf_ringbuf_output(&secrets, secret, sizeof(*secret), 0))
		count(LOST);
	else
		count(SECRETS);
}

/* openssl/core.h */
struct ossl_param {
	u64 key;
	u32 data_type;
	u32 padding;
	u64 data;
	u64 size;
	u64 returned;
};

/* Whether a label of TLS 1.3 names a secret of the connection: `c hs traffic`, `s ap traffic`,
 * `c e traffic`, `exp master`. The reader looks closer. */
static __always_inline int wanted(const u8 *label)
{
	u64 behind_first = eight(label + 1);
	return behind_first == WORD(' ', 'h', 's', ' ', 't', 'r', 'a', 'f') ||
	       behind_first == WORD(' ', 'a', 'p', ' ', 't', 'r', 'a', 'f') ||
	       behind_first == WORD(' ', 'e', ' ', 't', 'r', 'a', 'f', 'f') ||
	       eight(label) == WORD('e', 'x', 'p', ' ', 'm', 'a', 's', 't');
}

/* Bytes of the process. */
struct slice {
	u64 at;
	u64 size;
};

/* What EVP_KDF_derive was given. */
struct arguments {
	struct slice label;
	struct slice key;
	struct slice data;
	u32 is_prf;
};

/* Only notes where things are: whatever is read between two turns of the loop multiplies the states
 * that the verifier looks at. Nonzero when something could not be read. */
static __always_inline int find_arguments(u64 params, struct arguments *found)
{
	u32 seeds = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 16; i++) {
		struct ossl_param param;
		if (read(&param, sizeof(param), params + i * sizeof(param)))
			return 1;
		if (!param.key)
			return 0;
		struct slice value = { .at = param.data, .size = param.size };
		switch (read_word(param.key)) {
		case 0:
			return 1;
		case WORD('l', 'a', 'b', 'e', 'l', 0, 0, 0):
			found->label = value;
			break;
		case WORD('k', 'e', 'y', 0, 0, 0, 0, 0):
		case WORD('s', 'e', 'c', 'r', 'e', 't', 0, 0):
			found->key = value;
			break;
		case WORD('d', 'a', 't', 'a', 0, 0, 0, 0):
			found->data = value;
			break;
		case WORD('s', 'e', 'e', 'd', 0, 0, 0, 0):
			/* `key expansion`, the server's random, the client's; then empty ones. */
			if (seeds == 0)
				found->label = value;
			if (seeds == 2)
				found->data = value;
			if (seeds < 3)
				seeds++;
			found->is_prf = 1;
			break;
		}
	}
	return 0;
}

/* OpenSSL 3 and later:
 * int EVP_KDF_derive(EVP_KDF_CTX *, unsigned char *key, size_t keylen, const OSSL_PARAM params[]) */
UPROBE int openssl_kdf_derive(struct pt_regs *ctx)
{
	u32 netns = recorded();
	if (!netns) {
		count(ELSEWHERE);
		return 0;
	}
	u64 params = PT_REGS_PARM4(ctx);
	if (!params)
		return 0;
	struct arguments given = {};
	struct secret secret;
	begin(&secret, netns);
	if (find_arguments(params, &given))
		goto unreadable;
	secret.label_len = at_most(given.label.size, LABEL);
	if (!given.label.at)
		return 0;
	if (read(secret.label, at_most(given.label.size, LABEL), given.label.at))
		goto unreadable;
	if (given.is_prf ? eight(secret.label) != WORD('k', 'e', 'y', ' ', 'e', 'x', 'p', 'a')
			 : !wanted(secret.label))
		return 0;
	secret.kind = given.is_prf ? EXPANSION : DERIVATION;
	secret.key_len = at_most(given.key.size, BYTES);
	secret.data_len = at_most(given.data.size, BYTES);
	if (read(secret.key, at_most(given.key.size, BYTES), given.key.at) ||
	    read(secret.data, at_most(given.data.size, BYTES), given.data.at))
		goto unreadable;
	send(&secret);
	return 0;
unreadable:
	count(UNREADABLE);
	return 0;
}

/* What the reader says of a file when it attaches to it. Linux 5.15; where there is none the reader
 * does not attach. */
struct told {
	u32 number;
	u32 depth;   /* 0: not known where the random is; 1: in the object; 2: behind a pointer there */
	u64 pointer; /* where the pointer is */
	u64 offset;
};

static __always_inline struct told file_of(struct pt_regs *ctx)
{
	u64 cookie = 0;
	if (bpf_core_enum_value_exists(enum bpf_func_id, BPF_FUNC_get_attach_cookie))
		cookie = bpf_get_attach_cookie(ctx);
	return (struct told){
		.number = cookie >> 34,
		.depth = cookie >> 32 & 3,
		.pointer = cookie >> 16 & 0xffff,
		.offset = cookie & 0xffff,
	};
}

/* How many objects may be sent in a moment, and how many of one namespace. Whoever reads them is busy with
 * 480 in a second for some 10 % of it. */
#define OBJECTS 48
#define OBJECTS_OF_ONE 32

struct moment {
	u64 number;
	u64 objects;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct moment);
} moments SEC(".maps");

/* Two processors may begin a moment together, and send a few more. */
static __always_inline int may_send_object(u64 now)
{
	u32 only = 0;
	struct moment *moment = bpf_map_lookup_elem(&moments, &only);
	if (!moment)
		return 0;
	if (moment->number != now / MOMENT) {
		moment->number = now / MOMENT;
		moment->objects = 0;
	}
	if (moment->objects >= OBJECTS)
		return 0;
	__sync_fetch_and_add(&moment->objects, 1);
	return 1;
}

/* The secret with all that may hold the client's random. */
static __always_inline void send_in_object(const struct secret *secret, u64 object)
{
	struct target *target = target_of(secret);
	if (!target)
		return;
	if (target->objects >= OBJECTS_OF_ONE) {
		count(REFUSED);
		return;
	}
	if (!may_send_object(secret->time)) {
		count(LOST);
		return;
	}
	__sync_fetch_and_add(&target->objects, 1);
	struct in_object *event = bpf_ringbuf_reserve(&secrets, sizeof(*event), 0);
	if (!event) {
		count(LOST);
		return;
	}
	event->secret = *secret;
	for (u32 at = 0; at < OWN; at += BEHIND)
		/* Whatever it cannot read it zeroes. */
		bpf_probe_read_user(event->own + at, BEHIND, (void *)(object + at));
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < POINTERS; i++) {
		u64 pointer = 0;
		bpf_probe_read_user(&pointer, sizeof(pointer), (void *)(object + i * sizeof(u64)));
		bpf_probe_read_user(event->behind[i], BEHIND, (void *)pointer);
	}
	bpf_ringbuf_submit(event, 0);
	count(SECRETS);
}

/* The secret with the client's random, which this object holds. */
static __always_inline void send_with_random(struct secret *secret, const struct told *file, u64 object)
{
	secret->file = file->number;
	if (!file->depth) {
		send_in_object(secret, object);
		return;
	}
	secret->data_len = 32;
	if ((file->depth == 2 && read(&object, sizeof(object), object + file->pointer)) ||
	    read(secret->data, 32, object + file->offset))
		count(UNREADABLE);
	else
		send(secret);
}

/* OpenSSL and BoringSSL: ssl_log_secret(SSL *, const char *label, const uint8_t *secret, size_t len)
 * GnuTLS: _gnutls_call_keylog_func(gnutls_session_t, const char *label, const uint8_t *secret,
 *                                  unsigned len)
 * They are called whether or not there is a key log. */
UPROBE int c_key_log(struct pt_regs *ctx)
{
	u32 netns = recorded();
	if (!netns) {
		count(ELSEWHERE);
		return 0;
	}
	struct told file = file_of(ctx);
	struct secret secret;
	begin(&secret, netns);
	secret.kind = file.depth ? C_KEY_LOG : IN_OBJECT;
	u64 object = PT_REGS_PARM1(ctx), len = (u32)PT_REGS_PARM4(ctx);
	long label = read_label(secret.label, PT_REGS_PARM2(ctx));
	if (label <= 1)
		goto unreadable;
	secret.label_len = label - 1;
	secret.key_len = at_most(len, BYTES);
	if (read(secret.key, at_most(len, BYTES), PT_REGS_PARM3(ctx)))
		goto unreadable;
	send_with_random(&secret, &file, object);
	return 0;
unreadable:
	count(UNREADABLE);
	return 0;
}

#if defined(__TARGET_ARCH_x86)
/* Go 1.17 and later, whose calling convention passes nine words in registers:
 * func (c *Config) writeKeyLog(label string, clientRandom, secret []byte) error
 * It is called whether or not there is a key log. */
UPROBE int go_write_key_log(struct pt_regs *ctx)
{
	u32 netns = recorded();
	if (!netns) {
		count(ELSEWHERE);
		return 0;
	}
	struct secret secret;
	begin(&secret, netns);
	secret.kind = KEY_LOG;
	secret.label_len = at_most(ctx->cx, LABEL);
	secret.data_len = at_most(ctx->si, BYTES);
	secret.key_len = at_most(ctx->r10, BYTES);
	if (read(secret.label, at_most(ctx->cx, LABEL), ctx->bx) ||
	    read(secret.data, at_most(ctx->si, BYTES), ctx->di) ||
	    read(secret.key, at_most(ctx->r10, BYTES), ctx->r9)) {
		count(UNREADABLE);
		return 0;
	}
	send(&secret);
	return 0;
}

/* A Rust slice. */
struct rust_slice {
	u64 at;
	u64 len;
};

/* Labels that threads derive secrets for just now; an entry for each such thread. */
struct derived {
	u32 len;
	u8 label[LABEL];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u64);
	__type(value, struct derived);
} deriving SEC(".maps");

/* rustls 0.22 and later: fn expand_block(&self, info: &[&[u8]]) -> OkmBlock
 * The result is written where the first register says; `info` has the parts of an HkdfLabel (RFC 8446
 * section 7.1): length, the label's length, "tls13 ", label, the context's length, context. */
UPROBE int rustls_expand(struct pt_regs *ctx)
{
	struct rust_slice label;
	if (ctx->cx != 6)
		return 0;
	if (!recorded()) {
		count(ELSEWHERE);
		return 0;
	}
	if (read(&label, sizeof(label), ctx->dx + 3 * sizeof(label)))
		return 0;
	struct derived derived = {};
	derived.len = at_most(label.len, LABEL);
	if (read(derived.label, at_most(label.len, LABEL), label.at) || !wanted(derived.label))
		return 0;
	u64 thread = bpf_get_current_pid_tgid();
	bpf_map_update_elem(&deriving, &thread, &derived, 0);
	return 0;
}

/* Where it returns: struct OkmBlock { buf: [u8; 64], used: usize } */
UPROBE int rustls_expanded(struct pt_regs *ctx)
{
	u64 thread = bpf_get_current_pid_tgid(), used = 0;
	struct derived *derived = bpf_map_lookup_elem(&deriving, &thread);
	if (!derived)
		return 0;
	struct secret secret;
	begin(&secret, recorded());
	secret.label_len = derived->len;
	__builtin_memcpy(secret.label, derived->label, LABEL);
	bpf_map_delete_elem(&deriving, &thread);
	if (read(&used, sizeof(used), ctx->ax + BYTES) || read(secret.key, BYTES, ctx->ax)) {
		count(UNREADABLE);
		return 0;
	}
	secret.key_len = at_most(used, BYTES);
	struct told file = file_of(ctx);
	secret.kind = file.depth ? RUST_KEY_LOG : RUST_IN_OBJECT;
	send_with_random(&secret, &file, ctx->sp);
	return 0;
}

/* fn for_secret(&self, output: &mut [u8], secret: &[u8], label: &[u8], seed: &[u8])
 * For "key expansion" the seed is the server's random and then the client's. */
UPROBE int rustls_prf(struct pt_regs *ctx)
{
	u32 netns = recorded();
	if (!netns) {
		count(ELSEWHERE);
		return 0;
	}
	/* Behind the address to return to: the label's length, and the seed. */
	u64 stack[3];
	struct secret secret;
	begin(&secret, netns);
	if (read(stack, sizeof(stack), ctx->sp + 8) ||
	    read(secret.label, at_most(stack[0], LABEL), ctx->r9))
		goto unreadable;
	if (eight(secret.label) != WORD('k', 'e', 'y', ' ', 'e', 'x', 'p', 'a') || stack[2] != 64)
		return 0;
	secret.kind = RUST_EXPANSION;
	secret.label_len = at_most(stack[0], LABEL);
	secret.key_len = at_most(ctx->r8, BYTES);
	secret.data_len = 32;
	if (read(secret.key, at_most(ctx->r8, BYTES), ctx->cx) ||
	    read(secret.data, 32, stack[1] + 32))
		goto unreadable;
	send(&secret);
	return 0;
unreadable:
	count(UNREADABLE);
	return 0;
}
#endif

static __always_inline void tell(void)
{
	struct hint hint = { .netns = recorded() };
	if (!hint.netns)
		return;
	hint.pid = bpf_get_current_pid_tgid() >> 32;
	if (bpf_ringbuf_output(&hints, &hint, sizeof(hint), 0))
		count(HINTS_LOST);
}

/* A process has begun to run a program. */
SEC("raw_tp/sched_process_exec") int executed(void *ctx)
{
	tell();
	return 0;
}

/* The dynamic loader has mapped libraries, or is about to: it calls an empty function of a known
 * name, for debuggers. */
LIGHT_UPROBE int loaded(struct pt_regs *ctx)
{
	tell();
	return 0;
}
