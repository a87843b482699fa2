//! Decryption as far as it is: which conversations get twins, and which are led into.

use std::collections::HashSet;

use kuberewind_packet::Timestamp;
use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_tls::{
    Content, Conversation, Decision, Decryptor, Entrances, Event, KeyLog, KeyLogLine, Limits,
    Moves, Outcome, Pin, Place, PortsTaken, Twins, Way,
};

use crate::TlsParts;
use crate::contents::heard::Heard;
use crate::report::PlaintextReport;

/// Decryption and what comes of it.
pub(super) struct Plaintext {
    parts: TlsParts,
    /// None after the end.
    decryptor: Option<Decryptor>,
    entrances: Entrances,
    told: Told,
}

/// Whom events are told to.
struct Told {
    /// All conversations have twins, not only those that need them.
    all: bool,
    twins: Twins,
    /// Twins' frames that were not taken yet.
    made: Vec<(Timestamp, Vec<u8>)>,
    /// What was said in conversations that are undecided.
    undecided: Vec<Heard>,
    /// Conversations with a gap: readers that decrypt by themselves stop there, so what follows is shown.
    torn: HashSet<u64>,
    report: PlaintextReport,
}

/// What a packet gave rise to.
#[derive(Default)]
pub(super) struct Gave {
    /// By which clients' randoms a connection may go that is older than the packets and has its first
    /// one now.
    pub(super) begun: Vec<[u8; 32]>,
    pub(super) decisions: Vec<Decision>,
    pub(super) twins: Vec<(Timestamp, Vec<u8>)>,
}

impl Plaintext {
    pub(super) fn new(parts: TlsParts) -> Self {
        let told = Told {
            all: parts.plaintext,
            twins: Twins::new(PortsTaken::default()),
            made: Vec::new(),
            undecided: Vec::new(),
            torn: HashSet::new(),
            report: PlaintextReport::default(),
        };
        let decryptor = Some(Decryptor::new(KeyLog::default(), Limits::default()));
        Self { parts, decryptor, entrances: Entrances::default(), told }
    }

    pub(super) fn learn(&mut self, lines: Vec<KeyLogLine>, pins: Vec<(Place, Pin)>) {
        let Some(decryptor) = &mut self.decryptor else { return };
        decryptor.learn(lines);
        for (place, pin) in pins {
            decryptor.pin(place, &pin);
            self.entrances.pin(place, pin);
        }
    }

    /// Whether packets must wait for what stands before them.
    pub(super) fn holds(&self) -> bool {
        self.parts.secrets && self.entrances.are_waiting()
    }

    /// Takes a packet. `at_once`: nothing may wait.
    pub(super) fn see(&mut self, place: Place, packet: &PacketBlock<'_>, at_once: bool) -> Gave {
        let Self { parts, decryptor, entrances, told } = self;
        let PacketBlock { timestamp, original_len, data, .. } = *packet;
        let Some(decryptor) = decryptor else { return Gave::default() };
        told.twins.avoid(original_len, data);
        let begun = entrances.see(place, timestamp, original_len, data);
        decryptor.see(place, timestamp, original_len, data, &mut |event| {
            told.hear(&event, entrances);
        });
        let begun = begun.unwrap_or_default();
        let decisions = entrances.decide(decryptor, timestamp, at_once || !parts.secrets);
        told.settle(entrances, !decisions.is_empty());
        Gave { begun, decisions, twins: std::mem::take(&mut told.made) }
    }

    /// Nothing more comes, and nothing waits.
    pub(super) fn finish(&mut self) -> Gave {
        let Self { decryptor, entrances, told, .. } = self;
        let Some(mut decryptor) = decryptor.take() else { return Gave::default() };
        let decisions = entrances.decide(&mut decryptor, Timestamp::MAX, true);
        decryptor.finish(&mut |event| told.hear(&event, entrances));
        told.settle(entrances, true);
        Gave { begun: Vec::new(), decisions, twins: std::mem::take(&mut told.made) }
    }

    /// Which twins must move, once there are no more packets.
    pub(super) fn moves(&mut self) -> Moves {
        self.told.twins.moves()
    }

    /// What became of it; nothing where there was nothing to say.
    pub(super) fn report(self) -> Option<PlaintextReport> {
        let counts = self.told.twins.counts();
        let report = self.told.report;
        let report = PlaintextReport {
            shown: counts.conversations,
            packets: counts.frames,
            bytes: counts.bytes,
            http2_cut: counts.http2_cut,
            http2_given_up: counts.http2_given_up,
            unknown_fields: counts.unknown_fields,
            ..report
        };
        let says_something = self.parts.plaintext || report != PlaintextReport::default();
        says_something.then_some(report)
    }
}

impl Told {
    fn hear(&mut self, event: &Event<'_>, entrances: &mut Entrances) {
        let conversation = conversation(event);
        if conversation.resumed
            && let Event::Data { from, content, .. } = event
        {
            entrances.hear(conversation, *from, content.bytes);
        }
        match self.way(conversation, entrances) {
            Way::Undecided => self.undecided.push(Heard::of(event)),
            way => self.tell(way, event),
        }
    }

    fn way(&self, conversation: &Conversation, entrances: &Entrances) -> Way {
        match conversation.resumed {
            _ if self.all => Way::Twin,
            true => entrances.way(conversation),
            false => Way::Led,
        }
    }

    /// Some conversations were decided on.
    fn settle(&mut self, entrances: &Entrances, some: bool) {
        if !some || self.undecided.is_empty() {
            return;
        }
        for heard in std::mem::take(&mut self.undecided) {
            match self.way(heard.conversation(), entrances) {
                Way::Undecided => self.undecided.push(heard),
                way => heard.tell(&mut |event| self.tell(way, event)),
            }
        }
    }

    /// Tells of what is shown in this way.
    fn tell(&mut self, way: Way, event: &Event<'_>) {
        let Self { twins, made, report, torn, .. } = self;
        let number = conversation(event).number;
        if let Event::Data { content: Content { lost: 1.., .. }, .. } = event
            && way == Way::Led
        {
            torn.insert(number);
        }
        if way == Way::Twin || torn.contains(&number) {
            twins.hear(event, &mut |time, frame| made.push((time, frame.to_vec())));
        }
        if let Event::Report { report: of, .. } = event {
            torn.remove(&number);
            match of.outcome {
                Outcome::Opened => report.decrypted += 1,
                Outcome::Partly(reason) => {
                    *report.partly.entry(reason.to_string()).or_default() += 1;
                }
                Outcome::Sealed(reason) => *report.not.entry(reason.to_string()).or_default() += 1,
            }
        }
    }
}

fn conversation<'a>(event: &Event<'a>) -> &'a Conversation {
    match event {
        Event::Data { conversation, .. }
        | Event::End { conversation, .. }
        | Event::Report { conversation, .. } => conversation,
    }
}
