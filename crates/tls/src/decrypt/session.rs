//! What both directions of a connection must know of its handshake.

use std::net::SocketAddr;

use kuberewind_packet::Timestamp;

use crate::Pin;
use crate::decrypt::Reason;
use crate::hello::{ClientHello, ServerHello};
use crate::suite::{Suite, Version};

/// Whether the client's early data is a part of the conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum EarlyData {
    /// Not offered, or turned down: what is there will be sent again.
    #[default]
    None,
    /// Not known before the server's `EncryptedExtensions`.
    Offered,
    /// The server took it, or its word on it cannot be read.
    Accepted,
}

/// A handshake that was done before the first packet.
#[derive(Clone, Debug)]
pub(super) struct Pinned {
    pub(super) hello: Timestamp,
    pub(super) client: SocketAddr,
    pub(super) session: Session,
}

impl Pinned {
    pub(super) fn new(pin: &Pin) -> Option<Self> {
        let mut session = Session::default();
        let client = ClientHello::read(&pin.client_hello)?;
        session.see_client(ClientHello { early_data: false, ..client });
        session.see_server(ServerHello::read(&pin.server_hello)?);
        let client = SocketAddr::new(pin.client.ip(), pin.client.port());
        Some(Self { hello: pin.hello, client, session })
    }
}

/// The handshake so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    pub(super) client_random: Option<[u8; 32]>,
    pub(super) server: Option<ServerHello>,
    pub(super) suite: Option<Suite>,
    pub(super) early: EarlyData,
    /// The first `ClientHello` said that early data may follow.
    offered: bool,
    /// The server asked for another `ClientHello`.
    pub(super) retried: bool,
    /// `ClientHello`s that the server has not answered.
    unanswered: u32,
    /// Why what follows the `ServerHello` cannot be read.
    pub(super) refused: Option<Reason>,
    /// How many handshakes came to a `ServerHello`: TLS 1.2 may negotiate again.
    pub(super) generation: u32,
    /// Of a connection that is older than the packets: what it may be instead.
    pub(super) rivals: Vec<Session>,
}

impl Session {
    /// A record opened with the keys of the handshake whose client's random is this.
    pub(super) fn settle(&mut self, origin: &[u8; 32]) {
        let rivals = std::mem::take(&mut self.rivals);
        if self.client_random.as_ref() != Some(origin) {
            let is_it = |session: &Self| session.client_random.as_ref() == Some(origin);
            *self = rivals.into_iter().find(is_it).unwrap_or_else(|| std::mem::take(self));
        }
    }

    pub(super) fn version(&self) -> Option<Version> {
        self.server.map(|hello| hello.version)
    }

    /// Whether records of early data may stand before the client's `Finished`, taken or not.
    pub(super) fn early_data_offered(&self) -> bool {
        self.offered && !self.retried
    }

    pub(super) fn see_client(&mut self, hello: ClientHello) {
        self.client_random = Some(hello.random);
        self.unanswered += 1;
        if hello.early_data {
            self.offered = true;
            self.early = EarlyData::Offered;
        }
    }

    /// Whether a `ServerHello`, or the request for another `ClientHello`, is due.
    pub(super) fn awaits_answer(&self) -> bool {
        self.unanswered > 0
    }

    /// Takes the server's answer.
    pub(super) fn see_server(&mut self, hello: ServerHello) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if hello.retry {
            self.retried = true;
            self.early = EarlyData::None;
            return;
        }
        if !hello.resumes {
            self.early = EarlyData::None;
        }
        self.server = Some(hello);
        self.suite = Suite::find(hello.version, hello.cipher);
        if !matches!(hello.version, Version::TLS12 | Version::TLS13) {
            self.refused = Some(Reason::Version(hello.version));
        } else if self.suite.is_none() {
            self.refused = Some(Reason::Cipher(hello.cipher));
        } else {
            self.generation += 1;
        }
    }

    /// The server's word on early data, from its `EncryptedExtensions`.
    pub(super) fn settle_early_data(&mut self, accepted: bool) {
        if self.early == EarlyData::Offered {
            self.early = if accepted { EarlyData::Accepted } else { EarlyData::None };
        }
    }
}
