//! The card provider over HTTP, as Stripe's payment intents have it.
//!
//! Every POST carries an idempotency key made from the attempt: `{attempt}:create`, `:confirm`, `:cancel`, `:refund`. The
//! provider answers a repetition with what it said the first time, which is then marked as replayed and may be out of date, or a
//! failure inside that it saved. So what was replayed is never believed: the intent is looked at again, as it is now.
//!
//! | the provider says | it means |
//! | --- | --- |
//! | 2xx | as the intent stands |
//! | 402 `card_error` | declined, with its code |
//! | 4xx with the intent in it | not done: as the intent stands |
//! | 4xx | `Refused`: it did nothing |
//! | 409: the same key is at work | `Unknown` |
//! | 429 | `NotSent`: turned away before it was looked at |
//! | 5xx, a reply that cannot be read, that breaks off, that is late | `Unknown` |
//! | no connection, no place in `wait_ms`, left alone by the breaker | `NotSent` |

use reqwest::Method;

use super::domain::PaymentId;
use super::gateway::{Gateway, GatewayError, IntentId, Order, RefundStanding, Reply, Standing};
use super::settings::Settings;
use crate::platform::config::ConfigError;
use crate::platform::money::{CURRENCY, Money};

mod transport;
mod wire;

use transport::{Answer, Call, Transport};
use wire::{AUTHENTICATION_REQUIRED, Intent, Refund, Refunds, Said};

/// More than a charge can have that is given back as a whole.
const REFUNDS_LISTED: &str = "100";

/// The provider. Clones share its bounds.
#[derive(Clone, Debug)]
pub struct Stripe {
    transport: Transport,
}

impl Stripe {
    /// As configured; nothing where there is no provider, and so no cards.
    ///
    /// # Errors
    /// Where a setting makes no sense, or the key is weak or would be sent in the clear to another machine.
    pub fn configured(settings: &Settings) -> Result<Option<Self>, ConfigError> {
        if settings.base_url.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { transport: Transport::new(settings)? }))
    }

    async fn post(
        &self,
        operation: &'static str,
        path: &[&str],
        key: Option<String>,
        parameters: Vec<(&'static str, String)>,
    ) -> Result<Answer, GatewayError> {
        self.transport.send(Call { operation, method: Method::POST, path, parameters, key }).await
    }

    async fn create_intent(&self, order: &Order) -> Result<(IntentId, Standing), GatewayError> {
        let parameters = vec![
            ("amount", order.amount.0.to_string()),
            ("currency", CURRENCY.to_lowercase()),
            ("payment_method", order.card_token.expose().to_owned()),
            ("payment_method_types[]", "card".to_owned()),
            ("metadata[attempt]", order.attempt.to_string()),
            ("confirm", "false".to_owned()),
        ];
        let answer = self.post("create", &["payment_intents"], Some(key(order.attempt, "create")), parameters).await?;
        if answer.is_replayed && answer.status >= 500 {
            // It will never say anything else under this key. Whether it made an intent or not, nobody was ever told its
            // name, so nobody can confirm it.
            return Err(GatewayError::Refused("it failed inside, and made no intent that anybody knows".to_owned()));
        }
        let made = match wire::read::<Intent>(&answer)? {
            Said::Is(intent) => intent,
            Said::Declined(code) => return Err(GatewayError::Refused(code)),
            Said::Stands(_) => return Err(GatewayError::Refused("another intent is in the way".to_owned())),
            Said::Refused(refusal, why) if refusal.is_about_the_card() => return Err(why),
            // An amount or an account that it does not take: nothing was made, and another card would not help.
            Said::Refused(_, why) => return Err(GatewayError::NotSent(why.to_string())),
        };
        let id = made.id();
        check_name(&made.id).map_err(|_| GatewayError::Unknown("the intent has an odd name".to_owned()))?;
        if made.amount != order.amount.0 || !made.currency.eq_ignore_ascii_case(CURRENCY) {
            return Err(GatewayError::Refused("the intent is of another amount".to_owned()));
        }
        let now = if answer.is_replayed { self.look(&id).await? } else { made };
        Ok((id, self.standing(now).await?))
    }

    async fn confirm_intent(&self, order: &Order, intent: &IntentId) -> Result<Standing, GatewayError> {
        check_name(&intent.0)?;
        let path = ["payment_intents", &intent.0, "confirm"];
        // A card that wants its holder to confirm is refused: there is no page here to do that on.
        let parameters = vec![("error_on_requires_action", "true".to_owned())];
        let answer = self.post("confirm", &path, Some(key(order.attempt, "confirm")), parameters).await?;
        if answer.is_replayed {
            return self.find_intent(intent).await;
        }
        match wire::read::<Intent>(&answer)? {
            Said::Is(stands) | Said::Stands(stands) => self.standing(same(stands, intent)?).await,
            Said::Declined(code) => Ok(Standing::Declined(code)),
            Said::Refused(_, why) => Err(why),
        }
    }

    async fn find_intent(&self, intent: &IntentId) -> Result<Standing, GatewayError> {
        let now = self.look(intent).await?;
        self.standing(now).await
    }

    async fn cancel_intent(&self, attempt: PaymentId, intent: &IntentId) -> Result<Standing, GatewayError> {
        let now = self.call_off(&attempt.to_string(), intent).await?;
        now.standing()?.ok_or_else(|| GatewayError::Unknown("it waits for the card's holder still".to_owned()))
    }

    /// The intent after it was cancelled, or as it is where it cannot be any more.
    async fn call_off(&self, attempt: &str, intent: &IntentId) -> Result<Intent, GatewayError> {
        check_name(&intent.0)?;
        let path = ["payment_intents", &intent.0, "cancel"];
        let mut key = Some(format!("{attempt}:cancel"));
        loop {
            let is_last = key.is_none();
            let parameters = vec![("cancellation_reason", "abandoned".to_owned())];
            let answer = self.post("cancel", &path, key.take(), parameters).await?;
            if answer.is_replayed {
                let now = self.look(intent).await?;
                let is_open = matches!(now.standing()?, None | Some(Standing::Unconfirmed | Standing::Declined(_)));
                if !is_open || is_last {
                    return Ok(now);
                }
                // What is saved under the key is a failure, and would be said for ever. To cancel twice is to cancel once,
                // so it needs no key.
                continue;
            }
            return match wire::read::<Intent>(&answer)? {
                Said::Is(stands) | Said::Stands(stands) => same(stands, intent),
                Said::Declined(code) => Err(GatewayError::Refused(code)),
                Said::Refused(_, why) => Err(why),
            };
        }
    }

    /// The intent as it is now.
    async fn look(&self, intent: &IntentId) -> Result<Intent, GatewayError> {
        check_name(&intent.0)?;
        let path = ["payment_intents", &intent.0];
        let call = Call { operation: "find", method: Method::GET, path: &path, parameters: Vec::new(), key: None };
        let answer = self.transport.send(call).await?;
        match wire::read::<Intent>(&answer)? {
            Said::Is(stands) | Said::Stands(stands) => same(stands, intent),
            Said::Declined(code) => Err(GatewayError::Refused(code)),
            Said::Refused(_, why) => Err(why),
        }
    }

    /// Where the intent is. One that waits for the card's holder is cancelled first, as nobody here can bring them to it:
    /// then it is declined, and stays so.
    async fn standing(&self, intent: Intent) -> Result<Standing, GatewayError> {
        if let Some(standing) = intent.standing()? {
            return Ok(standing);
        }
        let attempt = intent.metadata.attempt.as_ref().unwrap_or(&intent.id);
        match self.call_off(attempt, &intent.id()).await?.standing()? {
            Some(Standing::Cancelled) => Ok(Standing::Declined(AUTHENTICATION_REQUIRED.to_owned())),
            Some(standing) => Ok(standing),
            None => Err(GatewayError::Unknown("it waits for the card's holder still".to_owned())),
        }
    }

    async fn refund_intent(
        &self,
        attempt: PaymentId,
        intent: &IntentId,
        amount: Money,
    ) -> Result<RefundStanding, GatewayError> {
        check_name(&intent.0)?;
        let mut key = Some(key(attempt, "refund"));
        loop {
            let is_last = key.is_none();
            let parameters = vec![
                ("payment_intent", intent.0.clone()),
                ("amount", amount.0.to_string()),
                ("metadata[attempt]", attempt.to_string()),
            ];
            let answer = self.post("refund", &["refunds"], key.take(), parameters).await?;
            if answer.is_replayed {
                let refunds = self.refunds(intent).await?;
                match refunds.standing(amount.0)? {
                    Some(standing) => return Ok(standing),
                    None if refunds.has_failed() => return Ok(RefundStanding::Failed),
                    None if is_last => return Err(GatewayError::Unknown("there is no refund".to_owned())),
                    // A failure is saved under the key, and nothing was given back. The whole amount is not given back
                    // twice, key or not: the provider knows what is left of the charge.
                    None => continue,
                }
            }
            return match wire::read::<Refund>(&answer)? {
                Said::Is(refund) => refund.standing(),
                Said::Refused(refusal, _) if refusal.has_code("charge_already_refunded") => {
                    let refunds = self.refunds(intent).await?;
                    Ok(refunds.standing(amount.0)?.unwrap_or(RefundStanding::Failed))
                }
                // The card's holder has the money from the bank already, or will.
                Said::Refused(refusal, _) if refusal.has_code("charge_disputed") => Ok(RefundStanding::Failed),
                Said::Refused(_, why) => Err(why),
                Said::Stands(_) => Err(GatewayError::Refused("the intent was not charged".to_owned())),
                Said::Declined(code) => Err(GatewayError::Refused(code)),
            };
        }
    }

    async fn refunds(&self, intent: &IntentId) -> Result<Refunds, GatewayError> {
        let parameters = vec![("payment_intent", intent.0.clone()), ("limit", REFUNDS_LISTED.to_owned())];
        let call = Call { operation: "refunds", method: Method::GET, path: &["refunds"], parameters, key: None };
        match wire::read::<Refunds>(&self.transport.send(call).await?)? {
            Said::Is(refunds) => Ok(refunds),
            Said::Refused(_, why) => Err(why),
            Said::Stands(_) | Said::Declined(_) => Err(GatewayError::Unknown("no list of refunds".to_owned())),
        }
    }
}

/// The provider's idempotency key for one thing that is done for an attempt.
fn key(attempt: PaymentId, what: &str) -> String {
    format!("{attempt}:{what}")
}

fn check_name(name: &str) -> Result<(), GatewayError> {
    if wire::is_name(name) { Ok(()) } else { Err(GatewayError::Refused("no intent has such a name".to_owned())) }
}

/// The reply, if it is about the intent that was asked for.
fn same(stands: Intent, intent: &IntentId) -> Result<Intent, GatewayError> {
    if stands.id == intent.0 {
        Ok(stands)
    } else {
        Err(GatewayError::Unknown("the answer is about another intent".to_owned()))
    }
}

impl Gateway for Stripe {
    fn create<'a>(&'a self, order: &'a Order) -> Reply<'a, (IntentId, Standing)> {
        Box::pin(self.create_intent(order))
    }

    fn confirm<'a>(&'a self, order: &'a Order, intent: &'a IntentId) -> Reply<'a, Standing> {
        Box::pin(self.confirm_intent(order, intent))
    }

    fn find<'a>(&'a self, intent: &'a IntentId) -> Reply<'a, Standing> {
        Box::pin(self.find_intent(intent))
    }

    fn cancel<'a>(&'a self, attempt: PaymentId, intent: &'a IntentId) -> Reply<'a, Standing> {
        Box::pin(self.cancel_intent(attempt, intent))
    }

    fn refund<'a>(&'a self, attempt: PaymentId, intent: &'a IntentId, amount: Money) -> Reply<'a, RefundStanding> {
        Box::pin(self.refund_intent(attempt, intent, amount))
    }
}
