//! An event that is kept until it is known what comes of it.

use kuberewind_packet::Timestamp;
use kuberewind_tls::{Content, Conversation, Event, Report, Sender};

/// An event with what it borrowed.
pub(super) struct Heard {
    conversation: Conversation,
    time: Timestamp,
    what: What,
}

enum What {
    Data { from: Sender, lost: u64, bytes: Vec<u8> },
    End { from: Sender, reset: bool },
    Report(Report),
}

impl Heard {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let (conversation, time, what) = match event {
            Event::Data { conversation, from, time, content } => {
                let bytes = content.bytes.to_vec();
                (conversation, time, What::Data { from: *from, lost: content.lost, bytes })
            }
            Event::End { conversation, from, time, reset } => {
                (conversation, time, What::End { from: *from, reset: *reset })
            }
            Event::Report { conversation, time, report } => {
                (conversation, time, What::Report(*report))
            }
        };
        Self { conversation: **conversation, time: *time, what }
    }

    pub(super) fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    pub(super) fn tell(&self, listener: &mut dyn FnMut(&Event<'_>)) {
        let Self { conversation, time, what } = self;
        let time = *time;
        match what {
            What::Data { from, lost, bytes } => {
                let content = Content { lost: *lost, bytes };
                listener(&Event::Data { conversation, from: *from, time, content });
            }
            What::End { from, reset } => {
                listener(&Event::End { conversation, from: *from, time, reset: *reset });
            }
            What::Report(report) => {
                listener(&Event::Report { conversation, time, report: *report });
            }
        }
    }
}
