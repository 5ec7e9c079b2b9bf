//! Reads what is asked, and does it. A parameter that is not known is refused, so that a misspelt one is noticed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::behaviour::Operation;
use super::domain::{Books, Confirmation, NewIntent, Refusal};
use super::service::Request;
use crate::platform::money::CURRENCY;

/// What may be noted with an intent or a refund, as at Stripe.
const NOTES_MAX: usize = 50;
const NOTE_NAME_LEN_MAX: usize = 40;
const NOTE_LEN_MAX: usize = 500;

/// Does what the request asks.
///
/// # Errors
/// Why it was not done.
pub(super) fn perform(books: &mut Books, request: &Request, is_unlucky: bool, now: i64) -> Result<Value, Refusal> {
    let asked = Asked::read(request)?;
    let id = request.id.as_deref().unwrap_or_default();
    match request.operation {
        Operation::Create => books.create(new_intent(&asked)?, now).map(super::domain::Intent::shown),
        Operation::Confirm => {
            let confirmation = Confirmation {
                payment_method: asked.find("payment_method").map(str::to_owned),
                refuses_action: asked.flag("error_on_requires_action")?,
                is_unlucky,
            };
            books.confirm(id, confirmation).map(super::domain::Intent::shown)
        }
        Operation::Find => books.find(id).map(super::domain::Intent::shown),
        Operation::Cancel => books.cancel(id).map(super::domain::Intent::shown),
        Operation::Refund => {
            let amount = asked.find("amount").map(|text| number("amount", text)).transpose()?;
            let intent = asked.get("payment_intent")?;
            let (intent, refund) = books.refund(intent, amount, asked.notes()?, now)?;
            Ok(refund.shown(intent))
        }
        Operation::FindRefunds if request.id.is_some() => {
            let (intent, refund) = books.find_refund(id)?;
            Ok(refund.shown(intent))
        }
        Operation::FindRefunds => {
            let intent = books.find(asked.get("payment_intent")?)?;
            // Never more than a hundred, so always one page.
            let data: Vec<Value> = intent.refunds.iter().rev().map(|refund| refund.shown(intent)).collect();
            Ok(json!({"object": "list", "url": "/v1/refunds", "has_more": false, "data": data}))
        }
    }
}

fn new_intent(asked: &Asked) -> Result<NewIntent, Refusal> {
    let currency = asked.get("currency")?;
    if currency != CURRENCY.to_lowercase() {
        return Err(Refusal::invalid("currency", None, format!("Invalid currency: {currency}")));
    }
    if asked.find("payment_method_types[]").is_some_and(|kind| kind != "card") {
        return Err(Refusal::invalid("payment_method_types", None, "The sandbox knows cards alone."));
    }
    if asked.flag("confirm")? {
        return Err(Refusal::invalid("confirm", None, "The sandbox confirms by a call of its own."));
    }
    Ok(NewIntent {
        amount: number("amount", asked.get("amount")?)?,
        metadata: asked.notes()?,
        payment_method: asked.find("payment_method").map(str::to_owned),
    })
}

fn number(name: &str, text: &str) -> Result<i64, Refusal> {
    let refuse = || Refusal::invalid(name, Some("parameter_invalid_integer"), format!("Invalid integer: {name}"));
    text.parse().map_err(|_| refuse())
}

/// The parameters of a request.
struct Asked<'r>(BTreeMap<&'r str, &'r str>);

impl<'r> Asked<'r> {
    fn read(request: &'r Request) -> Result<Self, Refusal> {
        let known: &[&str] = match request.operation {
            Operation::Create => &["amount", "currency", "payment_method", "payment_method_types[]", "confirm"],
            Operation::Confirm => &["payment_method", "error_on_requires_action"],
            Operation::Cancel => &["cancellation_reason"],
            Operation::Refund => &["payment_intent", "amount", "reason"],
            Operation::FindRefunds => &["payment_intent", "limit"],
            Operation::Find => &[],
        };
        let takes_notes = matches!(request.operation, Operation::Create | Operation::Refund);
        let mut found = BTreeMap::new();
        for (name, value) in &request.parameters {
            let is_known = known.contains(&name.as_str()) || (takes_notes && note_of(name).is_some());
            if !is_known || found.insert(name.as_str(), value.as_str()).is_some() {
                let message = format!("Received unknown parameter, or one twice: {name}");
                return Err(Refusal::invalid(name, Some("parameter_unknown"), message));
            }
        }
        Ok(Self(found))
    }

    fn find(&self, name: &str) -> Option<&'r str> {
        self.0.get(name).copied()
    }

    fn get(&self, name: &str) -> Result<&'r str, Refusal> {
        let refuse = || Refusal::invalid(name, Some("parameter_missing"), format!("Missing required param: {name}."));
        self.find(name).ok_or_else(refuse)
    }

    fn flag(&self, name: &str) -> Result<bool, Refusal> {
        match self.find(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => Err(Refusal::invalid(name, None, format!("Invalid boolean: {other}"))),
        }
    }

    fn notes(&self) -> Result<BTreeMap<String, String>, Refusal> {
        let notes: BTreeMap<String, String> =
            self.0.iter().filter_map(|(name, value)| Some((note_of(name)?.to_owned(), (*value).to_owned()))).collect();
        let fits = |(name, note): (&String, &String)| name.len() <= NOTE_NAME_LEN_MAX && note.len() <= NOTE_LEN_MAX;
        if notes.len() > NOTES_MAX || !notes.iter().all(fits) {
            return Err(Refusal::invalid("metadata", None, "There is too much metadata."));
        }
        Ok(notes)
    }
}

fn note_of(name: &str) -> Option<&str> {
    name.strip_prefix("metadata[")?.strip_suffix(']')
}
