//! What connects mails and webhooks to the features that have something to tell: who asks for a mail, what it says, and where it
//! is written down what operators do.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::Value;
use uuid::Uuid;

use super::state::State;
use crate::accounts::{Accounts, Letterbox, Request, User, UserId, actions};
use crate::booking::reservations::checkout::CONFIRMED;
use crate::booking::reservations::domain::ReservationStatus;
use crate::booking::reservations::{Checkout, ReservationId};
use crate::catalog::{self, ConcertId, Reader};
use crate::notices::mail::letters::{self, Confirmation};
use crate::notices::mail::mailer::Bounds;
use crate::notices::mail::{Kind, Letter, Mail, Mailer, Mails, Recipient, Writer, transport};
use crate::notices::webhooks::ActionLog;
use crate::platform::clock::Clock;
use crate::platform::config::ConfigError;
use crate::platform::db::Conn;
use crate::platform::error::{Problem, codes};
use crate::platform::outbox::Event;

/// A mail about a reset that waited for longer than this would surprise whoever asked for it.
const RESET_FRESH: Duration = Duration::from_hours(1);

/// Takes the mails that accounts ask for.
#[derive(Debug)]
pub(super) struct Postbox(pub Mails);

impl Letterbox for Postbox {
    fn post<'c>(
        &'c self,
        conn: &'c mut Conn,
        request: Request,
        user: UserId,
        reference: Uuid,
    ) -> BoxFuture<'c, Result<(), Problem>> {
        let kind = match request {
            Request::Verification => Kind::Verification,
            Request::PasswordReset => Kind::PasswordReset,
        };
        Box::pin(self.0.post(conn, kind, user, reference))
    }

    fn forget<'c>(&'c self, conn: &'c mut Conn, user: UserId) -> BoxFuture<'c, Result<(), Problem>> {
        Box::pin(self.0.forget(conn, user))
    }

    fn wake(&self) {
        self.0.wake();
    }
}

/// Writes down what operators do with webhooks and caches.
#[derive(Debug)]
pub(super) struct OperatorLog;

impl ActionLog for OperatorLog {
    fn record<'c>(
        &'c self,
        conn: &'c mut Conn,
        operator: UserId,
        action: &'static str,
        details: &'c Value,
    ) -> BoxFuture<'c, Result<(), Problem>> {
        Box::pin(actions::record(conn, operator, action, None, details))
    }
}

impl catalog::ActionLog for OperatorLog {
    fn record<'c>(
        &'c self,
        conn: &'c mut Conn,
        operator: UserId,
        action: &'static str,
        concert: ConcertId,
        details: &'c Value,
    ) -> BoxFuture<'c, Result<(), Problem>> {
        Box::pin(actions::record(conn, operator, action, Some(concert), details))
    }
}

/// The confirmations that follow from these events.
pub(super) fn confirmations(events: &[Event]) -> Result<Vec<(Kind, UserId, Uuid)>, Problem> {
    let confirmed = events.iter().filter(|event| event.topic == CONFIRMED);
    let mails = confirmed.map(|event| {
        let user = event.payload["user_id"].as_str().and_then(|text| text.parse().ok());
        let user: UserId = user.ok_or_else(|| Problem::internal(anyhow::anyhow!("event {} has no user", event.id)))?;
        Ok((Kind::Confirmation, user, event.aggregate_id))
    });
    mails.collect()
}

/// The mailer, as it is set; none where mails do not leave.
///
/// # Errors
/// Where a setting makes no sense.
pub fn mailer(state: &State) -> Result<Option<Mailer>, ConfigError> {
    let settings = &state.config.mail;
    let Some(transport) = transport::of(settings)? else { return Ok(None) };
    let desk = Desk {
        accounts: state.accounts.clone(),
        checkout: state.checkout.clone(),
        catalog: state.catalog.reader().clone(),
        clock: state.clock.clone(),
        base_url: settings.base_url.clone(),
        verification_hours: state.config.accounts.verification_hours,
        reset_minutes: state.config.accounts.reset_minutes,
    };
    let bounds = Bounds {
        parallel: settings.connections_max,
        limit: Duration::from_millis(settings.timeout_ms),
        pause: Duration::from_millis(state.config.notices.poll_ms),
    };
    Ok(Some(Mailer::new(state.mails.clone(), Arc::new(desk), transport, state.clock.clone(), bounds)))
}

/// Writes letters from what is true when they are sent.
#[derive(Debug)]
struct Desk {
    accounts: Arc<Accounts>,
    checkout: Checkout,
    catalog: Reader,
    clock: Clock,
    base_url: String,
    verification_hours: u32,
    reset_minutes: u32,
}

impl Writer for Desk {
    fn write(&self, mail: Mail) -> BoxFuture<'_, Result<Option<Letter>, Problem>> {
        Box::pin(async move {
            match mail.kind {
                Kind::Confirmation => self.confirmation(&mail).await,
                Kind::Verification => self.verification(&mail).await,
                Kind::PasswordReset => self.password_reset(&mail).await,
            }
        })
    }
}

impl Desk {
    async fn confirmation(&self, mail: &Mail) -> Result<Option<Letter>, Problem> {
        let Some(user) = self.accounts.find_recipient(mail.user).await? else { return Ok(None) };
        let reservation = match self.checkout.get(mail.user, ReservationId(mail.reference)).await {
            Err(problem) if problem.code() == &codes::NOT_FOUND => return Ok(None),
            found => found?,
        };
        // Given back before it was told of.
        if reservation.status != ReservationStatus::Confirmed {
            return Ok(None);
        }
        let concert = self.catalog.get_concert(reservation.concert.id).await?;
        let performance = concert.performances.iter().find(|one| one.id == reservation.performance_id);
        let performance = performance.ok_or_else(|| Problem::internal(anyhow::anyhow!("no such performance")))?;
        let facts = Confirmation {
            reservation: reservation.id.to_string(),
            concert: reservation.concert.title,
            starts_at: performance.starts_at,
            tickets: reservation.seats.into_iter().filter_map(|seat| Some((seat.id, seat.ticket_code?))).collect(),
            amount: reservation.amount,
            currency: reservation.currency,
        };
        Ok(Some(letters::confirmation(recipient(user), &facts)))
    }

    async fn verification(&self, mail: &Mail) -> Result<Option<Letter>, Problem> {
        let proof = self.accounts.issue_proof(mail.user, Request::Verification).await?;
        Ok(proof.map(|proof| {
            letters::verification(recipient(proof.user), &proof.token, &self.base_url, self.verification_hours)
        }))
    }

    async fn password_reset(&self, mail: &Mail) -> Result<Option<Letter>, Problem> {
        if self.clock.now().since(mail.created_at) > RESET_FRESH {
            return Ok(None);
        }
        let proof = self.accounts.issue_proof(mail.user, Request::PasswordReset).await?;
        Ok(proof.map(|proof| {
            letters::password_reset(recipient(proof.user), &proof.token, &self.base_url, self.reset_minutes)
        }))
    }
}

fn recipient(user: User) -> Recipient {
    Recipient { email: user.email, name: user.name }
}
