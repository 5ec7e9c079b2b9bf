//! Asking for mails, taking them back, and forgetting them.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::sync::Notify;
use uuid::Uuid;

use super::domain::{Kind, Letter, Mail};
use super::store;
use crate::accounts::UserId;
use crate::notices::settings::{MailSettings, Settings, TransportKind};
use crate::platform::db::{Conn, Db};
use crate::platform::error::Problem;

/// Who knows what a mail says, and to whom.
pub trait Writer: fmt::Debug + Send + Sync {
    /// The letter; none where it is no longer true, or there is nobody to tell.
    fn write(&self, mail: Mail) -> BoxFuture<'_, Result<Option<Letter>, Problem>>;
}

/// The mails of an installation. Clones share them.
#[derive(Clone, Debug)]
pub struct Mails(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: Db,
    wake: Notify,
    is_on: bool,
    keep_hours: u32,
    dead_keep_hours: u32,
}

impl Mails {
    /// The mails in this database.
    #[must_use]
    pub fn new(db: Db, settings: &Settings, mail: &MailSettings) -> Self {
        let Settings { keep_hours, dead_keep_hours, .. } = *settings;
        let is_on = mail.transport != TransportKind::None;
        Self(Arc::new(Inner { db, wake: Notify::new(), is_on, keep_hours, dead_keep_hours }))
    }

    /// Whether mails leave at all: none is asked for otherwise.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_on
    }

    pub(super) fn db(&self) -> &Db {
        &self.0.db
    }

    /// Resolves when mails were asked for here.
    pub(super) async fn woken(&self) {
        self.0.wake.notified().await;
    }

    /// Something may be due. Call it after the commit; missing a call only delays the mail.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Asks for a mail in the transaction of its cause. The same letter about the same thing is asked for once.
    ///
    /// # Errors
    /// Where the statement fails.
    pub async fn post(&self, conn: &mut Conn, kind: Kind, user: UserId, reference: Uuid) -> Result<(), Problem> {
        if !self.0.is_on {
            return Ok(());
        }
        store::insert(conn, &[(kind, user, reference)]).await
    }

    /// Asks for several, in a transaction of their own. Repeatable.
    ///
    /// # Errors
    /// Where MySQL does not answer; then none is asked for.
    pub async fn post_all(&self, mails: Vec<(Kind, UserId, Uuid)>) -> Result<(), Problem> {
        if !self.0.is_on || mails.is_empty() {
            return Ok(());
        }
        self.0.db.in_tx("mails.post", mails, |conn, mails| Box::pin(store::insert(conn, mails))).await?;
        self.wake();
        Ok(())
    }

    /// Takes back what has not been sent to a user, in the transaction that erases them.
    ///
    /// # Errors
    /// Where the statement fails.
    pub async fn forget(&self, conn: &mut Conn, user: UserId) -> Result<(), Problem> {
        store::forget(conn, user).await
    }

    /// Forgets mails that were sent, or given up, long ago; at most `limit` of each kind. Returns the most of one kind.
    ///
    /// # Errors
    /// Where MySQL does not answer.
    pub async fn tidy(&self, limit: u32) -> Result<u64, Problem> {
        let (keep, dead) = (self.0.keep_hours, self.0.dead_keep_hours);
        let mut most = 0;
        for (state, hours) in [(store::SENT, keep), (store::VOID, keep), (store::DEAD, dead)] {
            let delete = self.0.db.in_tx("mails.tidy", (state, hours, limit), |conn, (state, hours, limit)| {
                Box::pin(store::delete_old(conn, *state, *hours, *limit))
            });
            most = most.max(delete.await?);
        }
        Ok(most)
    }
}
