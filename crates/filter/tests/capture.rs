//! What can go wrong with a filter for the kernel, and what it says then.
//!
//! Needs root and iproute2, and fails without.

use std::fs::File;
use std::process::Command;
use std::thread;

use kuberewind_filter::{CaptureFilter, FilterError, StoredFilter};
use rustix::thread::{CapabilitySet, LinkNameSpaceType};

/// A network namespace that goes with the test.
struct Netns(String);

impl Netns {
    fn create(name: &str) -> Self {
        let name = format!("filter-{}-{name}", std::process::id());
        ip(&["netns", "add", &name]);
        Self(name)
    }

    fn ip(&self, arguments: &[&str]) {
        ip(&[&["-n", &self.0], arguments].concat());
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
        in_thread(move || {
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&file),
                Some(LinkNameSpaceType::Network),
            )
            .unwrap();
            work()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.0]);
    }
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
}

/// Namespaces and capabilities belong to a thread.
fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    thread::spawn(work).join().unwrap()
}

fn message(expression: &str) -> String {
    CaptureFilter::compile(expression, 100).unwrap_err().to_string()
}

#[test]
fn without_the_right_the_error_names_it() {
    let answer = in_thread(|| {
        let mut held = rustix::thread::capabilities(None).unwrap();
        held.effective.remove(CapabilitySet::NET_RAW);
        rustix::thread::set_capabilities(None, held).unwrap();
        (CaptureFilter::compile("tcp", 100), CaptureFilter::check("tcp"))
    });
    let (Err(error @ FilterError::NotPermitted { .. }), Ok(())) = answer else {
        panic!("{answer:?}");
    };
    let expected = "open a capture handle to compile a filter: Operation not permitted (os error 1) \
                    (needs CAP_NET_RAW)";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn only_the_right_to_capture_is_needed() {
    let filter = in_thread(|| {
        let mut held = rustix::thread::capabilities(None).unwrap();
        held.effective = CapabilitySet::NET_RAW;
        rustix::thread::set_capabilities(None, held).unwrap();
        CaptureFilter::compile("tcp", 100)
    });
    assert_eq!(filter.unwrap(), CaptureFilter::compile("tcp", 100).unwrap());
}

#[test]
fn another_ethernet_interface_will_do_when_lo_is_down() {
    let netns = Netns::create("down");
    let error = netns.run(|| CaptureFilter::compile("vlan", 100)).unwrap_err();
    assert!(matches!(error, FilterError::NoHandle { .. }), "{error:?}");
    assert!(error.to_string().contains("`ip link set lo up` mends it"), "{error}");

    netns.ip(&["link", "add", "veth0", "up", "type", "veth", "peer", "name", "veth1"]);
    netns.ip(&["link", "set", "veth1", "up"]);
    let filter = netns.run(|| CaptureFilter::compile("vlan", 100)).unwrap();
    assert_eq!(filter, CaptureFilter::compile("vlan", 100).unwrap());
}

#[test]
fn errors_hold_the_expression_and_what_libpcap_says() {
    let error = message("tcp prot 80");
    assert!(error.starts_with("filter `tcp prot 80`: "), "{error}");
    assert!(error.contains("syntax error"), "{error}");
    assert_eq!(message("tcp and udp"), "filter `tcp and udp`: expression rejects all packets");
}

#[test]
fn what_the_kernel_would_refuse_is_refused_at_once() {
    let hosts = |count: u32| {
        let hosts = (0..count).map(|n| format!("host 10.1.{}.{}", n / 250, n % 250));
        hosts.collect::<Vec<_>>().join(" or ")
    };
    let many = (0..1000).map(|n| format!("ether host 2:0:0:0:{:x}:{:x}", n / 200, n % 200));
    let many = many.collect::<Vec<_>>().join(" or ");
    let error = CaptureFilter::compile(&many, 100).unwrap_err();
    assert!(
        matches!(error, FilterError::TooLong { instructions: 4097.., max: 4096, .. }),
        "{error}"
    );
    assert!(matches!(CaptureFilter::check(&many), Err(FilterError::TooLong { .. })));
    for count in [700, 5000] {
        assert!(matches!(CaptureFilter::check(&hosts(count)), Err(FilterError::TooMuch { .. })));
        assert!(matches!(StoredFilter::compile(&hosts(count)), Err(FilterError::TooMuch { .. })));
    }
    assert!(message("ip6 protochain 6").contains("the kernel takes no loops"));
}

#[test]
fn what_raw_ip_cannot_say_is_noted() {
    let notes = |expression| CaptureFilter::compile(expression, 100).unwrap().notes().to_vec();
    assert_eq!(notes("tcp"), Vec::<String>::new());
    assert_eq!(notes("arp"), Vec::<String>::new());
    let [note] = &*notes("vlan 5 and ip") else { panic!("one note") };
    assert!(note.starts_with("raw devices: filter not applicable, nothing is taken ("), "{note}");
}

#[test]
fn a_filter_takes_no_more_than_snaplen() {
    let taken = |filter: &CaptureFilter| -> Vec<u32> {
        filter
            .program()
            .iter()
            .filter(|line| line.code == 6 && line.k > 0)
            .map(|line| line.k)
            .collect()
    };
    let compiled = taken(&CaptureFilter::compile("tcp", 96).unwrap());
    assert!(!compiled.is_empty() && compiled.iter().all(|k| *k == 96), "{compiled:?}");
    assert_eq!(taken(&CaptureFilter::everything_on_ip(96)), [96, 96]);
    assert_eq!(taken(&CaptureFilter::everything_on_ip(0)), [1, 1]);
    assert_eq!(taken(&CaptureFilter::everything_on_ip(u32::MAX)), [262_144, 262_144]);
    assert_eq!(CaptureFilter::everything_on_ip(96).expression(), None);
}
