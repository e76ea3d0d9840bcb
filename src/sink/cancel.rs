//! Asks servers to give up the statements that they are at. Each request is a connection of its own, of which rust-postgres bounds no more
//! than the TCP connect: a server that takes it and says nothing is waited for no longer than everybody else. Whether a statement was
//! cancelled its own connection tells.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use postgres::{CancelToken, Client, NoTls};
use postgres_openssl::MakeTlsConnector;

use crate::cpus;
use crate::sink::watch::Mark;

/// How long all requests that are made together may take.
const CANCEL_WITHIN: Duration = Duration::from_secs(1);

/// How to cancel what one connection is at.
pub struct Cancel {
    token: CancelToken,
    tls: Option<MakeTlsConnector>,
    /// Of the connection, which bears it no more: the request is found by it.
    mark: Mark,
}

impl Cancel {
    pub fn new(client: &Client, tls: Option<MakeTlsConnector>, mark: Mark) -> Cancel {
        Cancel { token: client.cancel_token(), tls, mark }
    }

    /// It runs in a thread of its own, whose end the channel tells.
    fn begin(self: Arc<Cancel>) -> Receiver<()> {
        let (over, ended) = sync_channel(1);
        let attempt = move || {
            let sent = match &self.tls {
                Some(tls) => self.token.cancel_query(tls.clone()),
                None => self.token.cancel_query(NoTls),
            };
            if let Err(error) = sent {
                tracing::debug!("a statement could not be cancelled: {error}");
            }
            // Nobody waits any more.
            let _ = over.send(());
        };
        if let Err(error) = cpus::spawn("pg-cancel", attempt) {
            tracing::warn!("cannot start a thread to cancel a statement: {error}");
        }
        ended
    }
}

/// Sends all requests at the same time, and ends those that nobody answers in time.
pub fn send(all: Vec<Arc<Cancel>>) {
    let until = Instant::now() + CANCEL_WITHIN;
    let begun: Vec<(Mark, Receiver<()>)> = all.into_iter().map(|cancel| (cancel.mark, cancel.begin())).collect();
    for (mark, ended) in begun {
        if ended.recv_timeout(until.saturating_duration_since(Instant::now())).is_err()
            && let Some(socket) = mark.find()
        {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}
