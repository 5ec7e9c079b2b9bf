//! Charging points, and reading balance and entries.

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::domain::{Balance, ChargeId, Entry, Kind, Month, Statement, charged, check_charge};
use super::{ledger, store};
use crate::accounts::UserId;
use crate::payments::payable::{Ask, Attempt};
use crate::payments::{self, Attempts, PaymentStatus, Reason, Subject};
use crate::platform::config::Secret;
use crate::platform::db::{self, Conn, Db};
use crate::platform::error::Problem;
use crate::platform::http::keyed::{Answer, CREATED, RequestKey};
use crate::platform::http::{Page, PageParams};
use crate::platform::idempotency::Idempotency;
use crate::platform::money::{CURRENCY, Money};

/// `[points]`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[expect(missing_docs, reason = "each field is documented in config/default.toml")]
pub struct Settings {
    pub charge_without_card: bool,
}

/// What a buyer asks to be charged.
#[derive(Clone, Debug)]
pub struct Charge {
    /// How much.
    pub amount: Money,
    /// The provider's payment method, if one was named.
    pub card_token: Option<Secret>,
}

/// A charge.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChargeBody {
    /// The charge; the `reference` of its entry.
    id: ChargeId,
    /// `refunding`, and `refunded` once the provider has confirmed it, where it would have led past the balance limit when the
    /// money came.
    status: PaymentStatus,
    /// Why the card was refused, in the provider's words; only where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "insufficient_funds")]
    decline_code: Option<String>,
    amount: Money,
    /// The balance after it; the present one where it has not succeeded.
    balance: Money,
    #[schema(example = "KRW")]
    currency: &'static str,
}

impl ChargeBody {
    /// Of these parts.
    pub(super) const fn new(id: ChargeId, status: PaymentStatus, amount: Money, balance: Money) -> Self {
        Self { id, status, decline_code: None, amount, balance, currency: CURRENCY }
    }

    fn of_attempt(id: ChargeId, attempt: &Attempt, balance: Money) -> Self {
        let decline_code = match attempt.failure() {
            Some(Reason::Declined(code)) => Some(code),
            _ => None,
        };
        Self { decline_code, ..Self::new(id, attempt.status, attempt.amount, balance) }
    }
}

/// The points of an installation.
#[derive(Clone, Debug)]
pub struct Points {
    db: Db,
    idempotency: Idempotency,
    attempts: Attempts,
    settings: Settings,
}

struct ChargeInput {
    user: UserId,
    charge: Charge,
    settings: Settings,
}

impl Points {
    /// The points in this database.
    #[must_use]
    pub fn new(db: Db, idempotency: Idempotency, attempts: Attempts, settings: Settings) -> Self {
        Self { db, idempotency, attempts, settings }
    }

    /// The buyer's balance.
    ///
    /// # Errors
    /// What the database fails with.
    pub async fn find_balance(&self, user: UserId) -> Result<Money, Problem> {
        let found = self.db.read("points.find_balance", user, |conn, user| Box::pin(store::find_balance(conn, *user)));
        Ok(found.await?.amount)
    }

    /// Puts points on the buyer's account, once per key: 201, or 202 while the provider decides.
    ///
    /// # Errors
    /// 422 `amount_out_of_range`, `payment_method_unavailable` or `invalid_body`, 409 `balance_limit_exceeded`, 402
    /// `card_declined`, 503 `payment_unavailable`, and those of the key.
    pub async fn charge(&self, user: UserId, key: RequestKey, charge: Charge) -> Result<Answer, Problem> {
        if let Some(card_token) = charge.card_token {
            let subject = Subject::Charge(ChargeId::new().0);
            let ask = Ask { user, subject, amount: Some(charge.amount), card_token };
            return self.attempts.pay(ask, key).await;
        }
        let input = ChargeInput { user, charge, settings: self.settings };
        self.idempotency.once("points.charge", user.0, key, input, run_charge).await
    }

    /// One of the buyer's charges as it is now, with the present balance.
    ///
    /// # Errors
    /// 404 where the buyer has no such charge, and what the database fails with.
    pub async fn find_charge(&self, user: UserId, id: ChargeId) -> Result<ChargeBody, Problem> {
        let read = self.db.read("points.find_charge", (user, id), |conn, (user, id)| {
            Box::pin(async move { get_charge(conn, *user, *id).await })
        });
        read.await
    }

    /// What a month did to the buyer's balance; this one where none is named.
    ///
    /// # Errors
    /// 422 `invalid_parameter`, and what the database fails with.
    pub async fn find_statement(&self, user: UserId, month: Option<&str>) -> Result<(Month, Statement), Problem> {
        let month = month.map(Month::parse).transpose()?;
        let read = self.db.read("points.find_statement", (user, month), |conn, (user, month)| {
            Box::pin(async move {
                let month = match month {
                    Some(month) => month.clone(),
                    None => Month::of(db::now(conn).await?)?,
                };
                let statement = store::sum_month(conn, *user, &month).await?;
                Ok((month, statement))
            })
        });
        let (month, statement) = read.await?;
        if !statement.is_sound() {
            return Err(Problem::internal(anyhow::anyhow!("{statement:?} of {user} does not add up")));
        }
        Ok((month, statement))
    }

    /// The buyer's entries, newest first.
    ///
    /// # Errors
    /// What the database fails with.
    pub async fn list_entries(&self, user: UserId, params: PageParams<u32>) -> Result<Page<Entry>, Problem> {
        let input = (user, params.after.unwrap_or(u32::MAX), params.fetch());
        let found = self
            .db
            .read("points.list_entries", input, |conn, (user, before, limit)| {
                Box::pin(store::list_entries(conn, *user, *before, *limit))
            })
            .await?;
        Ok(Page::of(found, &params, |entry| entry.number))
    }
}

/// Refuses inside the unit of work: the key is looked up before anything is refused.
fn run_charge<'c>(conn: &'c mut Conn, input: &'c ChargeInput) -> BoxFuture<'c, Result<Answer, Problem>> {
    Box::pin(async move {
        let ChargeInput { user, charge, settings } = input;
        check_charge(charge.amount)?;
        check_cardless(*settings)?;
        let before = store::get_balance_for_update(conn, *user).await?;
        let sum = charged(before.amount, charge.amount)?;
        let id = ChargeId::new();
        let after = Balance { amount: sum, entries: before.entries + 1 };
        let balance = ledger::credit(conn, Kind::Charge, id.0, *user, charge.amount, after).await?;
        Answer::json(CREATED, &ChargeBody::new(id, PaymentStatus::Succeeded, charge.amount, balance))
    })
}

/// The attempt is read before the balance: what is said to have succeeded is in it.
async fn get_charge(conn: &mut Conn, user: UserId, id: ChargeId) -> Result<ChargeBody, Problem> {
    let attempt = payments::find_last_of_subject(conn, Subject::Charge(id.0)).await?;
    let balance = store::find_balance(conn, user).await?.amount;
    if let Some(attempt) = attempt.filter(|attempt| attempt.user == user) {
        return Ok(ChargeBody::of_attempt(id, &attempt, balance));
    }
    // One without a card has left its entry, and nothing else.
    let amount = store::find_charged(conn, user, id).await?.ok_or_else(|| Problem::not_found("charge"))?;
    Ok(ChargeBody::new(id, PaymentStatus::Succeeded, amount, balance))
}

/// A charge that names no card comes from nowhere: only demonstrations and load tests accept it.
fn check_cardless(settings: Settings) -> Result<(), Problem> {
    if settings.charge_without_card {
        return Ok(());
    }
    Err(Problem::invalid_body("card_token", "name the card to charge"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_without_a_card_needs_the_setting() {
        let code =
            |charge_without_card| check_cardless(Settings { charge_without_card }).err().map(|it| it.code().code);
        assert_eq!(code(true), None);
        assert_eq!(code(false), Some("invalid_body"));
    }
}
