//! A first look at a stream: which connections it has, and what of each every interface saw.

use std::path::PathBuf;

use kuberewind_packet::pcapng::PacketBlock;
use kuberewind_packet::{Interface, LossAt, PacketStream, WindowAccount};

use super::agree::Entry;
use super::headers::{ByKey, Fragments, Headers, Key};
use super::seen::{Opening, Seen};
use super::track::{Steps, Track};

/// Stands for packets that are never left out. There are fewer views.
const NO_VIEW: u32 = u32::MAX;

/// How much is kept in memory of all streams of an export together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SurveyLimits {
    /// Connections, counted once for each interface that saw them: some 300 bytes each. Of what comes
    /// later all views stay in the file.
    pub views: usize,
    /// Packets without sequence numbers (UDP, ICMP …): 16 bytes each. Where later ones are not the same
    /// in all views, all of them stay in the file.
    pub datagrams: usize,
}

impl Default for SurveyLimits {
    fn default() -> Self {
        Self { views: 2_000_000, datagrams: 4_000_000 }
    }
}

impl SurveyLimits {
    /// Each one's share when there are so many streams: the same however fast each of them is.
    #[must_use]
    pub fn shared_by(self, streams: usize) -> Self {
        let share = |all: usize| all / streams.max(1);
        Self { views: share(self.views), datagrams: share(self.datagrams) }
    }
}

/// What there is in one stream.
#[derive(Debug)]
pub struct Survey {
    views_left: usize,
    datagrams_left: usize,
    /// The newest view of each flow.
    flows: ByKey<u32>,
    views: Vec<View>,
    /// Packets come in bursts of one flow.
    latest: Option<(Key, u32)>,
    fragments: Fragments,
    /// Of each packet, its place in `views`.
    track: Track,
    /// Packets of connections that there was no room for.
    pub(super) unseen: u64,
    pub(super) interfaces: Vec<Interface>,
    /// What was lost while recording; none where the stream broke off, so that nobody knows.
    pub(super) losses: Option<Vec<LossAt>>,
}

#[derive(Debug)]
struct View {
    seen: Seen,
    /// The one before it of the same flow.
    older: Option<u32>,
}

impl Survey {
    /// Nothing yet. A note of 4 bytes for each packet is kept in a nameless file in `dir`.
    pub fn new(limits: SurveyLimits, dir: impl Into<PathBuf>) -> Self {
        Self {
            views_left: limits.views,
            datagrams_left: limits.datagrams,
            flows: ByKey::default(),
            views: Vec::new(),
            latest: None,
            fragments: Fragments::default(),
            track: Track::new(dir.into()),
            unseen: 0,
            interfaces: Vec::new(),
            losses: None,
        }
    }

    /// Reads a stream to its end, or to where it fails.
    pub fn of<S: PacketStream>(
        stream: &mut S,
        limits: SurveyLimits,
        dir: impl Into<PathBuf>,
    ) -> Result<Self, S::Error> {
        let mut survey = Self::new(limits, dir);
        while stream.advance()? {
            survey.see(&stream.packet());
        }
        survey.end(stream.interfaces(), Some(stream.account()));
        Ok(survey)
    }

    /// Takes note of the next packet.
    pub fn see(&mut self, packet: &PacketBlock<'_>) {
        let view = self.find_view(packet);
        self.track.push(view.unwrap_or(NO_VIEW));
    }

    /// Whose packet it is; nobody's where it is never left out.
    fn find_view(&mut self, packet: &PacketBlock<'_>) -> Option<u32> {
        let mut headers = Headers::read(packet.data, packet.original_len)?;
        self.fragments.resolve(&mut headers);
        let segment = headers.segment();
        let opening = segment.and_then(|segment| Opening::of(&segment, headers.direction));
        let newest = self.newest(&headers.key);
        let known = newest.and_then(|newest| self.find(newest, packet.interface));
        let same = |seen: &Seen| opening.is_none() || seen.opening == opening;
        let at = match known.filter(|at| same(&self.views[*at as usize].seen)) {
            Some(at) => at,
            None if self.views_left == 0 => {
                self.unseen += 1;
                return None;
            }
            None => {
                let seen = Seen::new(packet.interface, packet.timestamp, opening);
                self.add(headers.key, seen, newest)
            }
        };
        let seen = &mut self.views[at as usize].seen;
        seen.take(&headers, segment.as_ref(), packet.timestamp, &mut self.datagrams_left);
        Some(at)
    }

    /// There are no more. `account` is none where the stream broke off.
    pub fn end(&mut self, interfaces: &[Interface], account: Option<&WindowAccount>) {
        self.interfaces = interfaces.to_vec();
        self.losses = account.map(|account| account.losses.clone());
    }

    fn newest(&mut self, key: &Key) -> Option<u32> {
        if let Some((latest, newest)) = &self.latest
            && latest == key
        {
            return Some(*newest);
        }
        let newest = *self.flows.get(key)?;
        self.latest = Some((*key, newest));
        Some(newest)
    }

    fn find(&self, newest: u32, interface: u32) -> Option<u32> {
        let mut at = Some(newest);
        while let Some(here) = at {
            let view = &self.views[here as usize];
            if view.seen.interface == interface {
                return at;
            }
            at = view.older;
        }
        None
    }

    #[expect(clippy::cast_possible_truncation, reason = "there are at most as many as the limit")]
    fn add(&mut self, key: Key, seen: Seen, older: Option<u32>) -> u32 {
        let at = self.views.len() as u32;
        self.views.push(View { seen, older });
        self.views_left -= 1;
        self.flows.insert(key, at);
        self.latest = Some((key, at));
        at
    }

    /// The flows, in no order.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&Key, Sole)> {
        self.flows.iter().map(|(key, newest)| {
            let interface = self.views[*newest as usize].seen.interface;
            let mut at = self.views[*newest as usize].older;
            while let Some(here) = at {
                let View { seen, older } = &self.views[here as usize];
                if seen.interface != interface {
                    return (key, Sole::No);
                }
                at = *older;
            }
            (key, Sole::Interface(interface))
        })
    }

    /// How many packets there were.
    pub(super) fn packets(&self) -> u64 {
        self.track.count
    }

    /// How many views of connections there are.
    pub(super) fn views(&self) -> usize {
        self.views.len()
    }

    /// Hands over what was seen of the flows in a table, and which packet is of which view; nothing
    /// where that could not be kept.
    pub(super) fn give(mut self, lane: u32, to: &mut ByKey<Vec<Entry>>) -> Option<Steps> {
        let steps = self.track.rewind()?;
        for (key, newest) in &self.flows {
            let Some(entries) = to.get_mut(key) else { continue };
            let mut at = Some(*newest);
            while let Some(here) = at {
                let View { seen, older } = &mut self.views[here as usize];
                if (seen.interface as usize) < self.interfaces.len() {
                    entries.push(Entry { lane, number: here, seen: std::mem::take(seen) });
                }
                at = *older;
            }
        }
        Some(steps)
    }
}

/// Whether all of a flow was seen on one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sole {
    Interface(u32),
    No,
}
