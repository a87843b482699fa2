//! What the recorder asks of its opener, and what it is answered: numbers, and names that can lead to
//! nothing but a network namespace. Descriptors travel beside an answer.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use kuberewind_packet::NetnsId;

/// Processes that are asked about at once.
pub(crate) const MOST_PROCESSES: usize = 1024;
/// Packet sockets that are opened at once: one that takes the first packets, and one with a ring.
pub(crate) const MOST_PACKET_SOCKETS: u8 = 2;
/// The longest name of a file.
const MOST_NAME: usize = 255;
/// Longest message either way.
pub(crate) const MOST_BYTES: usize = 16 + 8 * MOST_PROCESSES;

/// A file through which a network namespace can be entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// `PROC/PID/ns/net`
    Process(u32),
    /// `/run/netns/NAME`
    Named(Name),
    /// One of those that the opener was started with.
    File(u16),
}

/// A file's name, and no path: it can only lead into its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    pub(crate) fn new(name: &[u8]) -> Option<Self> {
        let path = matches!(name, b"" | b"." | b"..") || name.iter().any(|b| matches!(b, b'/' | 0));
        (!path && name.len() <= MOST_NAME).then(|| Self(name.to_vec()))
    }

    pub(crate) fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

/// What the opener does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Unbound sockets of a network namespace, if the door still leads to this one.
    Sockets { door: Door, netns: NetnsId, wanted: Wanted },
    /// Which network namespace a door leads to.
    Which(Door),
    /// The network namespaces of processes.
    NetnsOf(Vec<u32>),
    /// A process's list of mappings.
    Maps(u32),
    /// The file that a process has mapped there.
    Mapped { pid: u32, start: u64, end: u64 },
    /// A probe at this place of the file beside the request.
    Probe { offset: u64 },
}

/// Which sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// So many packet sockets.
    pub(crate) packets: u8,
    /// And a netlink socket, which tells of interfaces.
    pub(crate) links: bool,
}

/// How far the opener came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Done,
    /// The file is another than it was.
    Another,
    /// The file could not be opened.
    Open,
    /// The namespace could not be entered.
    Enter,
    /// No packet socket.
    Packets,
    /// No netlink socket.
    Links,
}

const STAGES: [Stage; 6] =
    [Stage::Done, Stage::Another, Stage::Open, Stage::Enter, Stage::Packets, Stage::Links];

/// What the opener says. Of [`Stage::Done`] the error is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) stage: Stage,
    /// What the kernel said.
    pub(crate) errno: i32,
    /// Numbers of namespaces; where a process has none that can be seen, an error below zero.
    pub(crate) numbers: Vec<i64>,
}

impl Answer {
    pub(crate) const fn done(numbers: Vec<i64>) -> Self {
        Self { stage: Stage::Done, errno: 0, numbers }
    }

    pub(crate) const fn failed(stage: Stage, errno: i32) -> Self {
        Self { stage, errno, numbers: Vec::new() }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let stage = STAGES.iter().position(|stage| *stage == self.stage);
        let mut bytes = vec![stage.and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX)];
        bytes.extend(self.errno.to_ne_bytes());
        bytes.extend(self.numbers.iter().flat_map(|number| number.to_ne_bytes()));
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let stage = *STAGES.get(usize::from(reader.u8()?))?;
        let errno = i32::from_ne_bytes(reader.take()?);
        let (numbers, rest) = reader.0.as_chunks();
        let numbers = numbers.iter().copied().map(i64::from_ne_bytes).collect();
        rest.is_empty().then_some(Self { stage, errno, numbers })
    }
}

const SOCKETS: u8 = 1;
const WHICH: u8 = 2;
const NETNS_OF: u8 = 3;
const MAPS: u8 = 4;
const MAPPED: u8 = 5;
const PROBE: u8 = 6;

const PROCESS: u8 = 1;
const NAMED: u8 = 2;
const FILE: u8 = 3;

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Sockets { door, netns, wanted } => {
                bytes.extend([SOCKETS, wanted.packets, wanted.links.into()]);
                bytes.extend(netns.0.to_ne_bytes());
                door.encode(&mut bytes);
            }
            Self::Which(door) => {
                bytes.push(WHICH);
                door.encode(&mut bytes);
            }
            Self::NetnsOf(pids) => {
                bytes.push(NETNS_OF);
                bytes.extend(pids.iter().flat_map(|pid| pid.to_ne_bytes()));
            }
            Self::Maps(pid) => {
                bytes.push(MAPS);
                bytes.extend(pid.to_ne_bytes());
            }
            Self::Mapped { pid, start, end } => {
                bytes.push(MAPPED);
                bytes.extend(pid.to_ne_bytes());
                bytes.extend(start.to_ne_bytes());
                bytes.extend(end.to_ne_bytes());
            }
            Self::Probe { offset } => {
                bytes.push(PROBE);
                bytes.extend(offset.to_ne_bytes());
            }
        }
        bytes
    }

    /// None: no request, whoever sent it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let request = match reader.u8()? {
            SOCKETS => {
                let (packets, links) = (reader.u8()?, reader.u8()?);
                let wanted = Wanted { packets, links: links == 1 };
                let netns = NetnsId(u64::from_ne_bytes(reader.take()?));
                let sound = packets <= MOST_PACKET_SOCKETS && links <= 1;
                sound.then_some(Self::Sockets { door: reader.door()?, netns, wanted })?
            }
            WHICH => Self::Which(reader.door()?),
            NETNS_OF => Self::NetnsOf(reader.processes()?),
            MAPS => Self::Maps(reader.u32()?),
            MAPPED => {
                let pid = reader.u32()?;
                let start = u64::from_ne_bytes(reader.take()?);
                Self::Mapped { pid, start, end: u64::from_ne_bytes(reader.take()?) }
            }
            PROBE => Self::Probe { offset: u64::from_ne_bytes(reader.take()?) },
            _ => return None,
        };
        reader.0.is_empty().then_some(request)
    }
}

impl Door {
    fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Process(pid) => {
                bytes.push(PROCESS);
                bytes.extend(pid.to_ne_bytes());
            }
            Self::Named(name) => {
                bytes.push(NAMED);
                bytes.extend(&name.0);
            }
            Self::File(index) => {
                bytes.push(FILE);
                bytes.extend(index.to_ne_bytes());
            }
        }
    }
}

/// What of a message is not read yet.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    /// A name reaches to the end.
    fn door(&mut self) -> Option<Door> {
        Some(match self.u8()? {
            PROCESS => Door::Process(self.u32()?),
            NAMED => Door::Named(Name::new(std::mem::take(&mut self.0))?),
            FILE => Door::File(u16::from_ne_bytes(self.take()?)),
            _ => return None,
        })
    }

    fn processes(&mut self) -> Option<Vec<u32>> {
        let (pids, rest) = std::mem::take(&mut self.0).as_chunks();
        let sound = rest.is_empty() && pids.len() <= MOST_PROCESSES;
        sound.then(|| pids.iter().copied().map(u32::from_ne_bytes).collect())
    }
}

/// Takes bytes for a request, then for an answer: what is taken for one must be written as those bytes.
#[doc(hidden)]
pub fn look_at_message(bytes: &[u8]) -> String {
    let request = Request::decode(bytes);
    if let Some(request) = &request {
        assert_eq!(request.encode(), bytes, "{request:?}");
    }
    let answer = Answer::decode(bytes);
    if let Some(answer) = &answer {
        assert_eq!(answer.encode(), bytes, "{answer:?}");
    }
    let kind = request.as_ref().map(std::mem::discriminant);
    format!("{kind:?} {:?}", answer.map(|answer| answer.stage))
}

/// One message of each kind.
#[doc(hidden)]
pub fn messages() -> Vec<Vec<u8>> {
    let wanted = Wanted { packets: 2, links: true };
    let (door, netns) = (Door::Process(7), NetnsId(4_026_531_840));
    let named = Name::new(b"cni-7").map(Door::Named);
    let requests = [
        Request::Sockets { door, netns, wanted },
        Request::Which(named.unwrap_or(Door::File(1))),
        Request::NetnsOf(vec![1, 2, 3]),
        Request::Maps(7),
        Request::Mapped { pid: 7, start: 0x1000, end: 0x2000 },
        Request::Probe { offset: 0x2060 },
    ];
    let answers = [Answer::done(vec![4_026_531_840, -13]), Answer::failed(Stage::Enter, 1)];
    requests.iter().map(Request::encode).chain(answers.iter().map(Answer::encode)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn doors() -> impl Strategy<Value = Door> {
        let name = "[a-z.-]{1,40}".prop_filter_map("a path", |name| Name::new(name.as_bytes()));
        prop_oneof![
            any::<u32>().prop_map(Door::Process),
            name.prop_map(Door::Named),
            any::<u16>().prop_map(Door::File),
        ]
    }

    fn requests() -> impl Strategy<Value = Request> {
        let sockets = (doors(), any::<u64>(), 0..=MOST_PACKET_SOCKETS, any::<bool>());
        prop_oneof![
            sockets.prop_map(|(door, netns, packets, links)| Request::Sockets {
                door,
                netns: NetnsId(netns),
                wanted: Wanted { packets, links }
            }),
            doors().prop_map(Request::Which),
            any::<u64>().prop_map(|offset| Request::Probe { offset }),
            prop::collection::vec(any::<u32>(), 0..MOST_PROCESSES).prop_map(Request::NetnsOf),
            any::<u32>().prop_map(Request::Maps),
            any::<(u32, u64, u64)>().prop_map(|(pid, start, end)| Request::Mapped {
                pid,
                start,
                end
            }),
        ]
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        for path in ["", ".", "..", "a/b", "/", "../../etc/passwd", "a\0b", &"a".repeat(256)] {
            assert_eq!(Name::new(path.as_bytes()), None, "{path}");
        }
        assert_eq!(Name::new(b"cni-7").unwrap().as_os_str(), "cni-7");
    }

    #[test]
    fn what_asks_for_too_much_is_no_request() {
        let sockets = |packets| {
            let wanted = Wanted { packets, links: true };
            let request = Request::Sockets { door: Door::File(0), netns: NetnsId(1), wanted };
            Request::decode(&request.encode())
        };
        assert!(sockets(MOST_PACKET_SOCKETS).is_some());
        assert_eq!(sockets(MOST_PACKET_SOCKETS + 1), None);
        let many = Request::NetnsOf(vec![1; MOST_PROCESSES + 1]);
        assert_eq!(Request::decode(&many.encode()), None);
        assert!(many.encode().len() <= MOST_BYTES);
    }

    proptest! {
        #[test]
        fn what_is_asked_arrives(request in requests()) {
            prop_assert_eq!(Request::decode(&request.encode()), Some(request));
        }

        #[test]
        fn any_bytes_are_one_message_or_none(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            look_at_message(&bytes);
        }
    }
}
