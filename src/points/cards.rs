//! Points that are charged by card: what payments must know of them.

use super::domain::{Balance, ChargeId, Kind, charged, check_charge};
use super::service::ChargeBody;
use super::{ledger, store};
use crate::payments::payable::{Ask, Attempt, Delivery, Payable, Step, Told};
use crate::payments::{PaymentStatus, Subject};
use crate::platform::db::Conn;
use crate::platform::error::Problem;
use crate::platform::http::keyed::{ACCEPTED, Answer, CREATED};
use crate::platform::money::Money;

/// Why a charge that came late goes back.
const OVER_LIMIT: &str = "balance_limit";

/// Charges that are paid by card.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChargesByCard;

impl Payable for ChargesByCard {
    fn quote<'c>(&'c self, conn: &'c mut Conn, ask: &'c Ask) -> Step<'c, Result<Money, Problem>> {
        Box::pin(async move {
            // Locked first: charges of one buyer come one after the other, and a repeat finds what was answered.
            let before = store::get_balance_for_update(conn, ask.user).await?;
            let amount = ask.amount.unwrap_or(Money::ZERO);
            Ok(check_charge(amount).and_then(|()| charged(before.amount, amount)).map(|_| amount))
        })
    }

    fn lock<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, ()> {
        Box::pin(async move { store::get_balance_for_update(conn, attempt.user).await.map(drop) })
    }

    fn deliver<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, Delivery> {
        Box::pin(async move {
            let before = store::get_balance_for_update(conn, attempt.user).await?;
            let Ok(sum) = charged(before.amount, attempt.amount) else {
                ledger::card_paid(conn, attempt.amount, attempt.id.0).await?;
                let answer = answer(attempt, before.amount, PaymentStatus::Refunding)?;
                return Ok(Delivery::Impossible(OVER_LIMIT, Told::only(answer)));
            };
            let (id, after) = (charge_of(attempt)?, Balance { amount: sum, entries: before.entries + 1 });
            let balance = ledger::credit(conn, Kind::Charge, id.0, attempt.user, attempt.amount, after).await?;
            Ok(Delivery::Delivered(Told::only(answer(attempt, balance, PaymentStatus::Succeeded)?)))
        })
    }

    fn pend<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, Answer> {
        Box::pin(async move {
            let balance = store::get_balance_for_update(conn, attempt.user).await?;
            answer(attempt, balance.amount, PaymentStatus::Pending)
        })
    }

    fn withdraw<'c>(&'c self, _: &'c mut Conn, _: &'c Attempt) -> Step<'c, ()> {
        // Nothing was shown but the answer.
        Box::pin(async { Ok(()) })
    }

    fn refunded<'c>(&'c self, conn: &'c mut Conn, attempt: &'c Attempt) -> Step<'c, ()> {
        Box::pin(ledger::card_refunded(conn, attempt.amount, attempt.id.0))
    }
}

fn charge_of(attempt: &Attempt) -> Result<ChargeId, Problem> {
    match attempt.subject {
        Subject::Charge(id) => Ok(ChargeId(id)),
        other @ Subject::Hold(_) => Err(Problem::internal(anyhow::anyhow!("{other:?} is no charge"))),
    }
}

fn answer(attempt: &Attempt, balance: Money, status: PaymentStatus) -> Result<Answer, Problem> {
    let code = if status == PaymentStatus::Succeeded { CREATED } else { ACCEPTED };
    Answer::json(code, &ChargeBody::new(charge_of(attempt)?, status, attempt.amount, balance))
}
