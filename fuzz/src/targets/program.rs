//! Programs and libraries: of anybody's making, since recorded pods bring them.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;

use kuberewind_capture::fuzz::look_into;
use rustix::fs::{MemfdFlags, memfd_create};

/// Names that are looked for.
pub(super) const WORDS: &[&str] = &[
    "EVP_KDF_derive\0",
    "_dl_debug_state\0",
    "crypto/tls.(*Config).writeKeyLog\0",
    "_rt0_amd64_linux\0",
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET\0",
    "CLIENT_RANDOM\0",
    "SSL_get_client_random\0",
    "gnutls_session_get_random\0",
    "12expand_block",
    "10for_secret",
    ".gopclntab\0",
    ".go.module\0",
    "OpenSSL 3.0.17 ",
    "\u{7f}ELF\u{2}\u{1}",
];

/// What a compiler makes of a library that exports what is looked for, of one that has it in its
/// symbols only, and of a program without it.
pub(super) fn libraries() -> Vec<Vec<u8>> {
    const EXPORTED: &str = "int EVP_KDF_derive(int a, int b) { return a * b; }\n\
        const char text[] = \"OpenSSL 3.0.17 1 Jul 2025\";\n";
    const INSIDE: &str = "static __attribute__((used, noinline)) int EVP_KDF_derive(int a) {\n\
        return a * 3; }\n\
        const char text[] = \"CLIENT_HANDSHAKE_TRAFFIC_SECRET\"; int main(void) { return 0; }\n";
    vec![
        compile(EXPORTED, &["-shared", "-fPIC", "-s"]),
        compile(EXPORTED, &["-shared", "-fPIC", "-Wl,--build-id"]),
        compile(INSIDE, &[]),
        compile(INSIDE, &["-s"]),
    ]
}

/// A library with a key log whose function is found by its labels, and with one that hands out clients'
/// randoms; the same as a program; and one with functions that are called like those of rustls.
pub(super) fn key_logs() -> Vec<Vec<u8>> {
    const KEY_LOG: &str = "#include <string.h>\n\
        struct inner { long a[6]; char random[32]; };\n\
        struct object { long a[6]; struct inner *inner; };\n\
        static __attribute__((noinline)) long say(struct object *o, const char *label,\n\
        const char *secret, long len) { return o->a[2] + label[1] * len + secret[0]; }\n\
        long SSL_get_client_random(struct object *o, char *out, long len) {\n\
        if (!len) return 32; if (len > 32) len = 32;\n\
        memcpy(out, o->inner->random, len); return len; }\n\
        long derive(struct object *o, const char *s) { return\n\
        say(o, \"CLIENT_RANDOM\", s, 48) + say(o, \"EXPORTER_SECRET\", s + 1, 32) +\n\
        say(o, \"CLIENT_TRAFFIC_SECRET_0\", s + 2, 32); }\n\
        int main(int c, char **v) { return derive((void *)v, v[0]); }\n";
    const RUST: &str = "#include <string.h>\n\
        struct block { char bytes[64]; long used; };\n\
        struct block expand(void *self, void **info, long len)\n\
        __asm__(\"_ZN8Expander_as_HkdfExpander12expand_block17h0E\");\n\
        struct block expand(void *self, void **info, long len) { struct block b;\n\
        memcpy(b.bytes, self, 64); b.used = len + (long)info[0]; return b; }\n\
        void prf(void *self, char *out, long len, char *secret)\n\
        __asm__(\"_RNvXNtC_6PrfTls_NtC_3Prf10for_secret\");\n\
        void prf(void *self, char *out, long len, char *secret) { memcpy(out, secret, len); }\n\
        int main(int c, char **v) { struct block b = expand(v, (void **)v, c);\n\
        prf(v, b.bytes, c, v[0]); return b.bytes[3]; }\n";
    vec![
        compile(KEY_LOG, &["-shared", "-fPIC", "-s"]),
        compile(KEY_LOG, &["-no-pie"]),
        compile(RUST, &[]),
    ]
}

fn compile(source: &str, options: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (from, to) = (dir.path().join("source.c"), dir.path().join("program"));
    fs::write(&from, source).expect("a source");
    let mut cc = Command::new("cc");
    let done = cc.arg("-O1").args(options).arg("-o").arg(&to).arg(&from).status();
    assert!(done.is_ok_and(|status| status.success()), "cc; run `cargo xtask setup`");
    fs::read(to).expect("what was compiled")
}

/// Where the text of a Go program starts, in the file and when it runs.
const TEXT: u64 = 0x100;
const BASE: u64 = 0x40_0000;

fn numbers(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Go programs of three functions, of which the third is wanted: of Go 1.18, and of 1.16.
pub(super) fn go_programs() -> Vec<Vec<u8>> {
    let names = b"\0_rt0_amd64_linux\0other\0crypto/tls.(*Config).writeKeyLog\0";
    let header = 72 + names.len() as u64;
    let mut recent = words(&[0xffff_fff1, 0x0801_0000]);
    recent.extend(numbers(&[3, 0, BASE + TEXT, 72, 0, 0, 0, header]));
    recent.extend(names);
    // Where each starts and where its data are; then these: where it starts and its name.
    recent.extend(words(&[0, 28, 16, 36, 32, 44, 48]));
    recent.extend(words(&[0, 1, 16, 18, 32, 24]));
    let mut old = words(&[0xffff_fffa, 0x0801_0000]);
    old.extend(numbers(&[3, 0, 64, 0, 0, 0, 64 + names.len() as u64]));
    old.extend(names);
    let text = BASE + TEXT;
    old.extend(numbers(&[text, 56, text + 16, 68, text + 32, 80, text + 48]));
    for (start, name) in [(text, 1), (text + 16, 18), (text + 32, 24)] {
        old.extend(numbers(&[start]));
        old.extend(words(&[name]));
    }
    vec![go_program(&recent), go_program(&old)]
}

fn go_program(table: &[u8]) -> Vec<u8> {
    let mut text = vec![0x90; 64];
    // cmp rsp, [r14+16]; jbe
    text[32..38].copy_from_slice(&[0x49, 0x3b, 0x66, 0x10, 0x76, 0x10]);
    let section_names = b"\0.text\0.gopclntab\0.shstrtab\0";
    let table_at = TEXT + text.len() as u64;
    let names_at = table_at + table.len() as u64;
    let sections_at = (names_at + section_names.len() as u64).next_multiple_of(8);
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    bytes.extend(numbers(&[BASE + TEXT, 64, sections_at]));
    bytes.extend(words(&[0, 0x0038_0040, 0x0040_0001, 0x0003_0004]));
    bytes.extend(words(&[1, 5]));
    bytes.extend(numbers(&[0, BASE, BASE, sections_at, sections_at, 0x1000]));
    bytes.resize(usize::try_from(TEXT).unwrap_or(0), 0);
    for part in [&text, table, section_names] {
        bytes.extend(part);
    }
    bytes.resize(usize::try_from(sections_at).unwrap_or(0), 0);
    let parts = [
        (0, 0, 0, 0),
        (1, BASE + TEXT, TEXT, 64),
        (7, BASE + table_at, table_at, table.len() as u64),
        (18, 0, names_at, section_names.len() as u64),
    ];
    for (name, address, offset, len) in parts {
        bytes.extend(words(&[name, 1]));
        bytes.extend(numbers(&[0, address, offset, len, 0, 0, 0]));
    }
    bytes
}

/// Looks into it as into what a process runs; a probe must lie within.
pub(super) fn read(input: &[u8]) -> String {
    let file = memfd_create("program", MemfdFlags::CLOEXEC).expect("a file in memory");
    let mut file = File::from(file);
    file.write_all(input).expect("room in memory");
    match look_into(file) {
        Err(error) => error,
        Ok((places, said)) => {
            let within = |place: &u64| *place < input.len() as u64;
            assert!(places.iter().all(within), "a probe beyond the end: {said}");
            format!("{} {said}", places.len())
        }
    }
}
