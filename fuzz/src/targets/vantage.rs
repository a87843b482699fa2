//! Packets that pods sent, as both ends saw them: which are left out of a file.

use std::convert::Infallible;
use std::ops::ControlFlow;

use kuberewind_export::{
    Export, Format, Input, Liveness, Survey, SurveyLimits, TlsParts, write_stream,
};
use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{Interface, NetnsId, Owner, PacketStream, Span, Timestamp, WindowAccount};

use super::expression;

/// Where, and the length.
const HEAD_LEN: usize = 3;

/// Each frame as both ends saw it: where, its length, its bytes.
pub(super) fn both_ends() -> Vec<Vec<u8>> {
    let frames = expression::packets();
    let of = |end: u8| {
        frames.iter().flat_map(move |frame| {
            let len = u16::try_from(frame.len()).unwrap_or_default().to_le_bytes();
            [&[end][..], &len, frame].concat()
        })
    };
    let ends = |ends: &[u8]| ends.iter().flat_map(|end| of(*end)).collect::<Vec<_>>();
    vec![ends(&[0, 1]), ends(&[0, 2, 1, 3]), ends(&[4, 1])]
}

/// Some of the frames: bit 0 of where is the stream, bit 1 the interface, the others pass time.
#[derive(Clone)]
struct Frames {
    taken: Vec<(u32, Timestamp, Vec<u8>)>,
    next: usize,
    interfaces: Vec<Interface>,
    account: WindowAccount,
}

impl Frames {
    fn new(input: &[u8], stream: u8) -> Self {
        let (mut rest, mut frames, mut now) = (input, Vec::new(), 1_000_000_000);
        while let Some((&[place, low, high], after)) = rest.split_first_chunk::<HEAD_LEN>() {
            let len = usize::from(u16::from_le_bytes([low, high])).min(after.len());
            now += u64::from(place >> 2) * 100_000_000;
            if place & 1 == stream {
                let interface = u32::from(place >> 1 & 1);
                frames.push((interface, Timestamp::from_nanos(now), after[..len].to_vec()));
            }
            rest = &after[len..];
        }
        let (node, owner) = (format!("n{stream}"), Owner::Netns("blue".to_owned()));
        let interface = |name: &str| Interface {
            node: node.clone(),
            owner: owner.clone(),
            netns: NetnsId(1),
            name: name.to_owned(),
        };
        let interfaces = vec![interface("eth0"), interface("eth1")];
        Self { taken: frames, next: 0, interfaces, account: WindowAccount::new(node, Span::ALL) }
    }
}

impl PacketStream for Frames {
    type Error = Infallible;

    fn advance(&mut self) -> Result<bool, Infallible> {
        self.next += 1;
        Ok(self.next <= self.taken.len())
    }

    fn packet(&self) -> PacketBlock<'_> {
        let (interface, timestamp, data) = &self.taken[self.next - 1];
        let original_len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        PacketBlock { interface: *interface, timestamp: *timestamp, original_len, data }
    }

    fn interfaces(&self) -> &[Interface] {
        &self.interfaces
    }

    fn account(&self) -> &WindowAccount {
        &self.account
    }
}

/// Every packet is in the file or counted, and what is left out stands in it.
pub(super) fn read(input: &[u8]) -> String {
    let streams = [0, 1].map(|stream| Frames::new(input, stream));
    let recorded: usize = streams.iter().map(|stream| stream.taken.len()).sum();
    let limits = SurveyLimits { views: 64, datagrams: 16 };
    let inputs = streams.into_iter().map(|stream| {
        let survey = Survey::of(&mut stream.clone(), limits, std::env::temp_dir()).ok();
        Input { node: stream.account.node.clone(), stream, fetch: None, survey }
    });
    let export = Export {
        window: Span::ALL,
        id: String::new(),
        program: String::new(),
        owner: None,
        tls: TlsParts::default(),
        unreachable: Vec::new(),
        notes: Vec::new(),
    };
    let go_on = |_| ControlFlow::Continue(());
    let written =
        write_stream(&export, inputs, Format::Pcap, Liveness::Live, std::io::sink(), go_on);
    let report = written.expect("nothing fails");
    let vantage = report.vantage.clone().unwrap_or_default();
    let left_out = vantage.left_out.packets;
    assert_eq!(report.packets + left_out, recorded as u64, "a packet is not accounted for");
    assert!(left_out == 0 || report.packets > 0, "nobody shows what was left out");
    let _ = report.to_string();
    format!("{} {} {}", vantage.connections, vantage.differing, left_out.min(8))
}
