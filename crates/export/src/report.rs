//! What is in the file and what is not, said so that it is understood at three in the morning.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use kuberewind_packet::{Gap, GapCause, Loss, LossAt, LossCause, Span, Timestamp, WindowAccount};
use serde::{Deserialize, Serialize};

use crate::{Format, figures};

/// So many lines of one kind per node are shown; all are in the JSON.
const SHOWN: usize = 20;

/// Of the table of nodes.
const COLUMNS: usize = 7;
const LEFT_OUT: usize = 3;
const CLOCK: usize = 5;
const LAST: usize = COLUMNS - 1;

/// An export's completeness report. As JSON it is `--report FILE`; as text it is shown on the screen
/// and kept in pcapng files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The file; none for standard output.
    pub file: Option<PathBuf>,
    /// Its format.
    pub format: Format,
    /// The window asked for.
    pub window: Span,
    /// Packets in the file.
    pub packets: u64,
    /// Their captured bytes.
    pub bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Whether nothing is missing that was, or should have been, recorded.
    pub complete: bool,
    /// Each node's word.
    pub nodes: Vec<NodeReport>,
    /// What of TLS is in the file; none where nothing was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsReport>,
    /// What was seen at more than one place; none where every view is in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vantage: Option<VantageReport>,
    /// What else the user should know.
    pub notes: Vec<String>,
}

/// Packets that are not in the file, because the file has what they say as somebody else saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// How many.
    pub packets: u64,
    /// Their captured bytes.
    pub bytes: u64,
}

impl LeftOut {
    /// Whether there are none.
    pub const fn is_nothing(&self) -> bool {
        self.packets == 0
    }
}

/// What became of connections that were recorded at more than one place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VantageReport {
    /// How many such connections there are.
    pub connections: u64,
    /// The same packets seen at the other end: recorded, and not in the file a second time.
    pub left_out: LeftOut,
    /// Connections that were not seen the same everywhere.
    pub differing: u64,
    /// Those that differ most.
    pub flows: Vec<DifferingFlow>,
    /// Packets of connections beyond those that there was room for; all of them are in the file.
    pub not_compared: u64,
}

/// A connection that was not seen the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DifferingFlow {
    /// `10.0.0.1:40000 > 10.0.0.2:80 TCP`, from the client.
    pub flow: String,
    /// The view that is in the file.
    pub shown: Sight,
    /// The others.
    pub others: Vec<Sight>,
    /// Why they could not be compared, so that all of them are in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// One connection as one interface saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sight {
    /// The node.
    pub node: String,
    /// The interface, as pcapng names it.
    pub interface: String,
    /// Packets that it saw.
    pub packets: u64,
    /// Bytes that they carried.
    pub bytes: u64,
    /// Those of the packets that are in the file.
    pub in_file: u64,
}

/// `n1 shop/cart-7/eth0: 812 packets with 1.2MB`
impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, interface, packets, bytes, .. } = self;
        let (packets, bytes) = (figures::packets(*packets), figures::bytes(*bytes));
        write!(f, "{node} {interface}: {packets} with {bytes}")
    }
}

impl fmt::Display for DifferingFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: shown as seen by {}", self.flow, self.shown)?;
        for other in &self.others {
            write!(f, "; seen by {other}")?;
            match other.in_file {
                0 => {}
                all if all == other.packets => f.write_str(", which are in the file, too")?,
                some => write!(f, ", of which {} that nobody else saw", figures::count(some))?,
            }
        }
        self.why.iter().try_for_each(|why| write!(f, " ({why})"))
    }
}

impl VantageReport {
    /// What a reader of the report should know.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.differing > 0 {
            let count = figures::count(self.differing);
            let were = if self.differing == 1 { "connection was" } else { "connections were" };
            lines.push(format!("note: {count} {were} not seen the same everywhere:"));
            let flows = self.flows.iter().map(|flow| format!("  {flow}"));
            push_shown(&mut lines, flows.collect());
        }
        if self.not_compared > 0 {
            lines.push(format!(
                "note: {} of connections beyond the first were not compared: they are in the file as \
                 often as they were seen",
                figures::packets(self.not_compared)
            ));
        }
        lines
    }
}

/// What of TLS is in a file beside the packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsReport {
    /// Connections of which secrets are known.
    pub connections_with_secrets: u64,
    /// Whether the secrets are in the file.
    #[serde(default)]
    pub secrets_in_file: bool,
    /// Connections that began before the window, in a file with secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older: Option<OlderReport>,
    /// What could be decrypted; none where there was nothing of TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plaintext: Option<PlaintextReport>,
}

/// Connections that began before the window and whose handshakes are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OlderReport {
    /// Those with packets in the file.
    pub connections: u64,
    /// Those into which readers are led by packets that were made.
    pub readable: u64,
    /// These packets; [`Report::packets`] does not count them.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// `2 began before the window, 1 readable from its start (9 packets added on tls-pinned, tls-filler)`
impl fmt::Display for OlderReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [connections, readable] = [self.connections, self.readable].map(figures::count);
        write!(f, "{connections} began before the window")?;
        if self.readable > 0 {
            let packets = figures::packets(self.packets);
            write!(
                f,
                ", {readable} readable from its start ({packets} added on tls-pinned and tls-filler)"
            )?;
        }
        Ok(())
    }
}

/// What was decrypted, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaintextReport {
    /// Conversations decrypted whole.
    pub decrypted: u64,
    /// In part, by what is in the way of the rest.
    pub partly: BTreeMap<String, u64>,
    /// Not at all, by reason.
    pub not: BTreeMap<String, u64>,
    /// Conversations that have a second one, in which they are readable: all that were decrypted, or, in a
    /// file with the secrets alone, those of which readers could not decrypt all.
    #[serde(default)]
    pub shown: u64,
    /// The packets of these; [`Report::packets`] does not count them.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Conversations over HTTP/2 of which something is missing: their header fields were written anew.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub http2_cut: u64,
    /// Of these, those in which a direction could not be followed to its end.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub http2_given_up: u64,
    /// Header fields in them that refer to what was said before, named `unknown-hpack-N`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unknown_fields: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// `12 TLS conversations decrypted; 3 not: no secret 2, …; 12 shown as second conversations (…)`
impl fmt::Display for PlaintextReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decrypted = self.decrypted + self.partly.values().sum::<u64>();
        let plural = if decrypted == 1 { "" } else { "s" };
        write!(f, "{} TLS conversation{plural} decrypted", figures::count(decrypted))?;
        write_reasons(f, "in part", &self.partly)?;
        write_reasons(f, "not", &self.not)?;
        if self.shown > 0 {
            let shown = figures::count(self.shown);
            let (second, them) = if self.shown == 1 {
                ("a second conversation", "it")
            } else {
                ("second conversations", "them")
            };
            write!(
                f,
                "; {shown} shown as {second} (eth.src 02:54:4c:53…; --tls none leaves {them} out)"
            )?;
        }
        if self.http2_cut > 0 {
            let [cut, fields] = [self.http2_cut, self.unknown_fields].map(figures::count);
            write!(f, "; HTTP/2 not from its start: {cut}, header fields unknown in it: {fields}")?;
        }
        if self.http2_given_up > 0 {
            write!(f, ", not followed to the end: {}", figures::count(self.http2_given_up))?;
        }
        Ok(())
    }
}

fn write_reasons(
    f: &mut fmt::Formatter<'_>,
    what: &str,
    reasons: &BTreeMap<String, u64>,
) -> fmt::Result {
    if reasons.is_empty() {
        return Ok(());
    }
    let all: u64 = reasons.values().sum();
    let each = reasons.iter().map(|(reason, count)| format!("{reason} {}", figures::count(*count)));
    write!(f, "; {} {what}: {}", figures::count(all), each.collect::<Vec<_>>().join(", "))
}

impl TlsReport {
    fn says_something(&self) -> bool {
        self.connections_with_secrets > 0
            || self.plaintext.as_ref().is_some_and(|p| *p != PlaintextReport::default())
    }
}

/// One line.
impl fmt::Display for TlsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(plaintext) = &self.plaintext
            && (!self.secrets_in_file || self.connections_with_secrets == 0)
            && self.older.is_none()
        {
            return plaintext.fmt(f);
        }
        let plural = if self.connections_with_secrets == 1 { "" } else { "s" };
        let count = figures::count(self.connections_with_secrets);
        write!(f, "secrets of {count} connection{plural}")?;
        if let Some(older) = &self.older {
            write!(f, "; {older}")?;
        }
        match &self.plaintext {
            Some(plaintext) => write!(f, "; {plaintext}"),
            None => Ok(()),
        }
    }
}

/// What one node gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// Its account; the counts are those of its packets in the file.
    #[serde(flatten)]
    pub account: WindowAccount,
    /// The same packets seen at the other end.
    #[serde(default, skip_serializing_if = "LeftOut::is_nothing")]
    pub left_out: LeftOut,
    /// Why it did not answer, or not to the end: what it holds and lost is then unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// How its packets were fetched; none where they did not travel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Fetch>,
}

/// How a node's packets came over the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fetch {
    /// Its clock against those of the other nodes; none where there are no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockOffset>,
    /// How often its stream broke and it was asked again.
    pub retries: u32,
}

/// A clock against the cluster's: the middle one of all nodes' clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClockOffset {
    /// How far it is ahead; below zero, how far it is behind.
    pub nanos: i64,
    /// It may be off by so much more or less: half the time that asking it took.
    pub bound_nanos: u64,
}

impl ClockOffset {
    /// The distance, ahead or behind.
    pub const fn distance(self) -> Duration {
        Duration::from_nanos(self.nanos.unsigned_abs())
    }
}

/// `+1.250s ±3ms`
impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.nanos < 0 { '-' } else { '+' };
        let bound = Duration::from_nanos(self.bound_nanos);
        write!(f, "{sign}{} ±{}", figures::duration(self.distance()), figures::duration(bound))
    }
}

impl NodeReport {
    /// A node that gave nothing.
    pub fn failed(node: String, asked: Span, failure: String) -> Self {
        let (account, left_out) = (WindowAccount::new(node, asked), LeftOut::default());
        Self { account, left_out, failure: Some(failure), fetch: None }
    }

    /// Whether everything that was, or should have been, recorded is there.
    pub fn is_complete(&self) -> bool {
        self.failure.is_none() && self.account.is_complete()
    }

    /// Whether the node recorded nothing in the window, or has it no more.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.recorded() == 0 && covers(&self.account.gaps, self.account.asked)
    }

    /// Packets in the window, in the file or left out.
    fn recorded(&self) -> u64 {
        self.account.packets + self.left_out.packets
    }

    /// What the node holds and why it is not what was asked for.
    pub(crate) fn instead(&self) -> String {
        let WindowAccount { node, held, gaps, .. } = &self.account;
        let held = held.map_or("no packets".to_owned(), figures::span);
        let causes = gaps.iter().map(|gap| gap.cause).collect::<BTreeSet<_>>();
        let causes: Vec<_> = causes.iter().map(GapCause::to_string).collect();
        let why =
            if causes.is_empty() { String::new() } else { format!(" ({})", causes.join(", ")) };
        format!("{node} holds {held}{why}")
    }

    /// What is missing, in a few words.
    fn missing(&self) -> Vec<String> {
        let WindowAccount { node, losses, gaps, damaged, .. } = &self.account;
        let mut missing = Vec::new();
        if self.failure.is_some() {
            missing.push(format!("{node} failed"));
        }
        let lost: u64 = losses.iter().map(|at| at.loss.packets).sum();
        if !losses.is_empty() {
            missing.push(format!("{node} lost {} while recording", figures::packets(lost)));
        }
        let gone = gaps.iter().filter(|gap| gap.cause.is_missing());
        let gone: Duration = gone.map(|gap| gap.span.duration()).sum();
        if !gone.is_zero() {
            missing.push(format!("{node} lacks {}", figures::duration(gone)));
        }
        if !damaged.is_empty() {
            missing.push(format!("{node} has {} damaged segment(s)", damaged.len()));
        }
        missing
    }

    fn clock(&self) -> Option<ClockOffset> {
        self.fetch?.clock
    }

    fn row(&self) -> [String; COLUMNS] {
        let WindowAccount { node, held, packets, bytes, losses, .. } = &self.account;
        let unknown = self.failure.is_some();
        let lost: u64 = losses.iter().map(|at| at.loss.packets).sum();
        [
            printable(node),
            figures::count(*packets),
            figures::bytes(*bytes),
            figures::count(self.left_out.packets),
            if unknown { "?".to_owned() } else { figures::count(lost) },
            self.clock().map_or("?".to_owned(), |clock| clock.to_string()),
            match held {
                Some(held) => figures::span(*held),
                None if unknown => "?".to_owned(),
                None => "nothing".to_owned(),
            },
        ]
    }

    fn details(&self) -> Vec<String> {
        let WindowAccount { node, losses, gaps, damaged, .. } = &self.account;
        let mut lines = Vec::new();
        if let Some(failure) = &self.failure {
            let so_far = match self.recorded() {
                0 => "none of its packets are in the file".to_owned(),
                first => format!("its first {} are in the file", figures::packets(first)),
            };
            lines.push(format!("{node} FAILED: {failure} ({so_far})"));
        }
        match self.fetch {
            Some(Fetch { retries: retries @ 1.., .. }) if self.failure.is_none() => {
                let times =
                    if retries == 1 { "once".to_owned() } else { format!("{retries} times") };
                lines.push(format!("{node} note: its stream broke {times}, then came whole"));
            }
            _ => {}
        }
        let losses = sum_losses(losses);
        push_shown(&mut lines, losses.iter().map(|at| loss_line(node, at)).collect());
        push_shown(&mut lines, gaps.iter().map(|gap| gap_line(node, gap)).collect());
        let damage = |damage: &kuberewind_packet::Damage| {
            format!("{node} DAMAGED: segment {}: {}", damage.segment, damage.reason)
        };
        push_shown(&mut lines, damaged.iter().map(damage).collect());
        let steps = self.account.clock_steps.iter().map(|step| format!("{node} {step}"));
        push_shown(&mut lines, steps.collect());
        lines
    }
}

impl Report {
    /// The report of a file that is not written yet.
    pub(crate) fn new(
        format: Format,
        window: Span,
        nodes: Vec<NodeReport>,
        remarks: &[String],
    ) -> Self {
        // A stream that is followed goes on after the window that was asked for.
        let to = nodes.iter().map(|node| node.account.asked.to).fold(window.to, Timestamp::max);
        Self {
            file: None,
            format,
            window: Span::new(window.from, to),
            packets: nodes.iter().map(|node| node.account.packets).sum(),
            bytes: nodes.iter().map(|node| node.account.bytes).sum(),
            file_bytes: 0,
            complete: nodes.iter().all(NodeReport::is_complete),
            nodes,
            tls: None,
            vantage: None,
            notes: remarks.to_vec(),
        }
    }

    /// Whether nothing is missing that was, or should have been, recorded.
    pub fn is_complete(&self) -> bool {
        self.nodes.iter().all(NodeReport::is_complete)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            writeln!(f, "file     {} ({})", file.display(), figures::bytes(self.file_bytes))?;
        }
        writeln!(f, "window   {}", figures::span(self.window))?;
        writeln!(f, "packets  {} ({})", figures::count(self.packets), figures::bytes(self.bytes))?;
        if let Some(VantageReport { left_out, .. }) = self.vantage.as_ref()
            && !left_out.is_nothing()
        {
            let (packets, bytes) =
                (figures::count(left_out.packets), figures::bytes(left_out.bytes));
            writeln!(f, "left out {packets} ({bytes}): the same packets seen at the other end")?;
        }
        if let Some(tls) = self.tls.as_ref().filter(|tls| tls.says_something()) {
            writeln!(f, "tls      {tls}")?;
        }
        writeln!(f)?;
        f.write_str(&table(&self.nodes))?;
        let mut details: Vec<_> = self.nodes.iter().flat_map(NodeReport::details).collect();
        details.extend(self.vantage.iter().flat_map(VantageReport::lines));
        if !details.is_empty() || !self.notes.is_empty() {
            writeln!(f)?;
        }
        for line in &details {
            writeln!(f, "{}", printable(line))?;
        }
        for note in &self.notes {
            writeln!(f, "note: {}", printable(note))?;
        }
        writeln!(f)?;
        if self.is_complete() {
            return f.write_str("complete");
        }
        let missing: Vec<_> = self.nodes.iter().flat_map(NodeReport::missing).collect();
        let more = match missing.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        let shown = &missing[..missing.len().min(SHOWN)];
        write!(f, "incomplete: {}{more}", printable(&shown.join("; ")))
    }
}

/// Names and reasons come from other machines: they shall not steer the terminal or forge a line.
pub(crate) fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// Columns as wide as their widest cell; counts to the right, the rest to the left. Clocks only where
/// some were compared, and what was left out only where something was.
fn table(nodes: &[NodeReport]) -> String {
    let head =
        ["node", "packets", "bytes", "left out", "lost", "clock", "holds"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(nodes.iter().map(NodeReport::row)).collect();
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let clocks = nodes.iter().any(|node| node.clock().is_some());
    let left_out = nodes.iter().any(|node| !node.left_out.is_nothing());
    rows.iter().fold(String::new(), |mut out, cells| {
        for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
            let _ = match column {
                CLOCK if !clocks => Ok(()),
                LEFT_OUT if !left_out => Ok(()),
                0 => write!(out, "{cell:width$}  "),
                LAST => writeln!(out, "{cell}"),
                _ => write!(out, "{cell:>width$}  "),
            };
        }
        out
    })
}

/// The first lines of many, and how many more there are.
fn push_shown(out: &mut Vec<String>, lines: Vec<String>) {
    let more = lines.len().saturating_sub(SHOWN);
    out.extend(lines.into_iter().take(SHOWN));
    if more > 0 {
        out.push(format!("… and {more} more like these"));
    }
}

/// One loss for each owner and cause, from the first to the last of them; the worst first.
pub(crate) fn sum_losses(losses: &[LossAt]) -> Vec<LossAt> {
    let mut sums: BTreeMap<(&str, LossCause), Loss> = BTreeMap::new();
    for LossAt { owner, loss } in losses {
        let none = Loss { packets: 0, ..*loss };
        let sum = sums.entry((owner, loss.cause)).or_insert(none);
        sum.packets += loss.packets;
        sum.from = sum.from.min(loss.from);
        sum.to = sum.to.max(loss.to);
    }
    let whose = |((owner, _), loss): ((&str, _), _)| LossAt { owner: owner.to_owned(), loss };
    let mut sums: Vec<_> = sums.into_iter().map(whose).collect();
    sums.sort_by_key(|at| std::cmp::Reverse(at.loss.packets));
    sums
}

fn loss_line(node: &str, LossAt { owner, loss }: &LossAt) -> String {
    let Loss { cause, packets, from, to } = *loss;
    let (packets, span) = (figures::packets(packets), figures::span(Span::new(from, to)));
    format!("{node} LOST {packets} of {owner}, {span}: {cause}: {}", reason(cause))
}

/// What happened, and the setting that mends it where there is one.
const fn reason(cause: LossCause) -> &'static str {
    match cause {
        LossCause::Ring => "packets came faster than they were read",
        LossCause::RingMemory => {
            "packets came faster than they were read, and tap.ringMemory was used up: raise it"
        }
        LossCause::Undecided => {
            "whether they were to be recorded was not known in time, nor of which pod they were"
        }
        LossCause::Buffer => "the disk was slower than the packets",
        LossCause::Disk => "the disk refused to write",
    }
}

fn gap_line(node: &str, gap: &Gap) -> String {
    let word = if gap.cause.is_missing() { "MISSING" } else { "note: not recorded" };
    format!("{node} {word}: {}: {}", figures::span(gap.span), gap.cause)
}

/// Whether nothing of `window` lies outside the gaps.
fn covers(gaps: &[Gap], window: Span) -> bool {
    let mut gaps: Vec<_> = gaps.iter().map(|gap| gap.span).collect();
    gaps.sort_by_key(|gap| gap.from);
    let covered = gaps.iter().fold(window.from, |covered, gap| {
        if gap.from <= covered { covered.max(gap.to) } else { covered }
    });
    covered >= window.to
}

/// An error and what it comes from, on one line.
pub(crate) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kuberewind_packet::Damage;

    use super::*;

    fn at(time: &str) -> Timestamp {
        format!("2026-11-22T{time}Z").parse().unwrap()
    }

    fn span(from: &str, to: &str) -> Span {
        Span::new(at(from), at(to))
    }

    fn whole(node: &str) -> NodeReport {
        let account = WindowAccount {
            held: Some(span("20:30:00", "21:30:05")),
            packets: 1_234_567,
            bytes: 98_700_000,
            ..WindowAccount::new(node.into(), span("21:25:05", "21:30:05"))
        };
        NodeReport { account, left_out: LeftOut::default(), failure: None, fetch: None }
    }

    #[test]
    fn a_node_that_holds_nothing_says_why_where_there_is_a_why() {
        let mut node = whole("n1");
        node.account.held = None;
        assert_eq!(node.instead(), "n1 holds no packets");
        node.account.gaps =
            vec![Gap { span: span("21:25:05", "21:30:05"), cause: GapCause::NotStarted }];
        assert_eq!(node.instead(), "n1 holds no packets (recording had not begun)");
    }

    fn report(nodes: Vec<NodeReport>) -> Report {
        Report::new(Format::Pcapng, span("21:25:05", "21:30:05"), nodes, &[])
    }

    fn loss(owner: &str, cause: LossCause, packets: u64, from: &str, to: &str) -> LossAt {
        LossAt { owner: owner.into(), loss: Loss { cause, packets, from: at(from), to: at(to) } }
    }

    #[test]
    fn a_whole_window_is_called_complete() {
        let report = Report {
            file: Some("web-1-20261122T213005Z.pcapng".into()),
            file_bytes: 101_200_000,
            ..report(vec![whole("web-1")])
        };
        assert_eq!(
            report.to_string(),
            "\
file     web-1-20261122T213005Z.pcapng (101MB)
window   2026-11-22 21:25:05.000 to 21:30:05.000 UTC (5m)
packets  1,234,567 (98.7MB)

node     packets   bytes  lost  holds
web-1  1,234,567  98.7MB     0  2026-11-22 20:30:00.000 to 21:30:05.000 UTC (1h5s)

complete"
        );
        assert!(report.is_complete() && report.complete);
    }

    #[test]
    fn everything_that_is_missing_is_named_with_owner_cause_and_time() {
        let mut torn = whole("n1");
        torn.account.losses = vec![
            loss("shop/cart-7", LossCause::Ring, 10, "21:26:01.1", "21:26:02"),
            loss("host", LossCause::Disk, 1, "21:26:05", "21:26:05.2"),
            loss("shop/cart-7", LossCause::Ring, 2, "21:26:02", "21:26:02.3"),
        ];
        torn.account.gaps = vec![
            Gap { span: span("21:25:05", "21:25:41"), cause: GapCause::MaxSize },
            Gap { span: span("21:27:00", "21:28:10"), cause: GapCause::Stopped },
        ];
        torn.account.damaged =
            vec![Damage { segment: "seg-1.pcapng".into(), reason: "damaged block".into() }];
        let failed = NodeReport::failed(
            "n2".into(),
            span("21:25:05", "21:30:05"),
            "connection refused".into(),
        );
        let report = report(vec![torn, failed]);
        assert_eq!(
            report.to_string(),
            "\
window   2026-11-22 21:25:05.000 to 21:30:05.000 UTC (5m)
packets  1,234,567 (98.7MB)

node    packets   bytes  lost  holds
n1    1,234,567  98.7MB    13  2026-11-22 20:30:00.000 to 21:30:05.000 UTC (1h5s)
n2            0      0B     ?  ?

n1 LOST 12 packets of shop/cart-7, 2026-11-22 21:26:01.100 to 21:26:02.300 UTC (1.200s): \
ring: packets came faster than they were read
n1 LOST 1 packet of host, 2026-11-22 21:26:05.000 to 21:26:05.200 UTC (200ms): \
disk: the disk refused to write
n1 MISSING: 2026-11-22 21:25:05.000 to 21:25:41.000 UTC (36s): \
deleted to keep within pcapdump.maxSize
n1 note: not recorded: 2026-11-22 21:27:00.000 to 21:28:10.000 UTC (1m10s): \
recording was stopped
n1 DAMAGED: segment seg-1.pcapng: damaged block
n2 FAILED: connection refused (none of its packets are in the file)

incomplete: n1 lost 13 packets while recording; n1 lacks 36s; \
n1 has 1 damaged segment(s); n2 failed"
        );
        assert!(!report.is_complete() && !report.complete);
    }

    #[test]
    fn a_window_from_before_recording_began_is_clipped_not_incomplete() {
        let mut node = whole("n1");
        node.account.gaps =
            vec![Gap { span: span("21:25:05", "21:26:00"), cause: GapCause::NotStarted }];
        let text = report(vec![node]).to_string();
        assert!(text.contains("recording had not begun"), "{text}");
        assert!(text.ends_with("\ncomplete"), "{text}");
    }

    #[test]
    fn clocks_are_shown_where_they_were_compared() {
        let fetch = |nanos, retries| {
            let clock = Some(ClockOffset { nanos, bound_nanos: 3_000_000 });
            Some(Fetch { clock, retries })
        };
        let early = NodeReport { fetch: fetch(-12_000_000, 0), ..whole("n1") };
        let late = NodeReport { fetch: fetch(1_250_000_000, 2), ..whole("n2") };
        let text = report(vec![early, late]).to_string();
        let table = "\
node    packets   bytes  lost         clock  holds
n1    1,234,567  98.7MB     0    -12ms ±3ms  2026-11-22 20:30:00.000 to 21:30:05.000 UTC (1h5s)
n2    1,234,567  98.7MB     0  +1.250s ±3ms  2026-11-22 20:30:00.000 to 21:30:05.000 UTC (1h5s)

n2 note: its stream broke 2 times, then came whole

complete";
        assert!(text.ends_with(table), "{text}");
    }

    #[test]
    fn json_is_read_back_as_it_was_written() {
        let mut node = whole("n1");
        node.account.losses = vec![loss("host", LossCause::Buffer, 3, "21:26:00", "21:26:01")];
        node.failure = Some("cut".into());
        node.fetch = Some(Fetch { clock: None, retries: 3 });
        let report = report(vec![node, whole("n2")]);
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains(r#""fileBytes":0,"complete":false,"nodes":[{"node":"n1""#), "{json}");
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn no_node_steers_the_terminal_or_forges_the_last_line() {
        let failure = "\u{1b}[2Jcut\ncomplete".to_owned();
        let failed = NodeReport::failed("n\u{7}1".into(), Span::ALL, failure);
        let text = report(vec![failed]).to_string();
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text}");
        assert!(!text.lines().any(|line| line == "complete"), "{text}");
    }

    #[test]
    fn long_lists_are_cut_on_screen() {
        let mut node = whole("n1");
        node.account.losses = (0..500)
            .map(|n| loss(&format!("ns/{n}"), LossCause::Ring, 1, "21:26:00", "21:26:01"))
            .collect();
        let text = report(vec![node]).to_string();
        assert!(text.contains("… and 480 more like these"), "{text}");
        assert!(text.lines().count() < 40);
    }

    #[test]
    fn gaps_cover_a_window_only_together() {
        let gap = |from, to| Gap { span: span(from, to), cause: GapCause::Stopped };
        let window = span("10:00:00", "11:00:00");
        assert!(covers(&[gap("10:30:00", "12:00:00"), gap("09:00:00", "10:30:00")], window));
        assert!(!covers(&[gap("10:31:00", "12:00:00"), gap("09:00:00", "10:30:00")], window));
        assert!(!covers(&[gap("09:00:00", "10:59:00")], window));
        assert!(!covers(&[], window));
    }
}
