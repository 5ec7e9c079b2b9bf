//! The machine, step by step and at random.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

fn books() -> Books {
    Books::new(100)
}

fn made(books: &mut Books, card: &str) -> String {
    let metadata = BTreeMap::from([("attempt".to_owned(), "a1".to_owned())]);
    let new = NewIntent { amount: 500, metadata, payment_method: Some(card.to_owned()) };
    books.create(new, 7).unwrap().id.clone()
}

fn confirm(books: &mut Books, id: &str) -> Result<&'static str, Refusal> {
    let asked = Confirmation { refuses_action: true, ..Confirmation::default() };
    books.confirm(id, asked).map(|intent| intent.stage.booked())
}

fn stage(books: &Books, id: &str) -> Stage {
    books.find(id).unwrap().stage
}

fn told(books: &mut Books) -> Vec<&'static str> {
    books.take_news().iter().map(|news| news.kind).collect()
}

#[test]
fn a_good_card_is_charged_once() {
    let mut books = books();
    let id = made(&mut books, "pm_card_visa");
    assert_eq!(stage(&books, &id), Stage::Unconfirmed);
    assert_eq!(books.totals().charged, 0, "making an intent moves no money");
    assert_eq!(confirm(&mut books, &id).unwrap(), "succeeded");
    let again = confirm(&mut books, &id).unwrap_err();
    assert_eq!((again.status, again.code), (400, Some("payment_intent_unexpected_state")));
    assert_eq!(again.intent.unwrap()["status"], "succeeded");
    assert_eq!((books.totals().charged, books.totals().succeeded), (500, 1));
    assert_eq!(told(&mut books), ["payment_intent.created", "payment_intent.succeeded"]);
}

#[test]
fn a_refused_card_leaves_an_intent_that_another_card_may_pay() {
    let mut books = books();
    let id = made(&mut books, "pm_card_chargeDeclinedInsufficientFunds");
    let refusal = confirm(&mut books, &id).unwrap_err();
    let codes = (refusal.kind, refusal.code, refusal.decline_code);
    assert_eq!(codes, ("card_error", Some("card_declined"), Some("insufficient_funds")));
    assert!(refusal.is_kept());
    let shown = books.find(&id).unwrap().shown();
    assert_eq!(shown["status"], "requires_payment_method");
    assert_eq!(shown["last_payment_error"]["decline_code"], "insufficient_funds");
    // Nothing is tried again by itself.
    assert_eq!(confirm(&mut books, &id).unwrap_err().status, 400);
    let other = Confirmation { payment_method: Some("pm_card_visa".to_owned()), ..Confirmation::default() };
    assert_eq!(books.confirm(&id, other).unwrap().stage, Stage::Succeeded);
    assert_eq!((books.totals().declined, books.totals().succeeded), (0, 1));
}

#[test]
fn chance_refuses_good_cards() {
    let mut books = books();
    let id = made(&mut books, "pm_card_visa");
    let unlucky = Confirmation { is_unlucky: true, ..Confirmation::default() };
    assert_eq!(books.confirm(&id, unlucky).unwrap_err().code, Some("card_declined"));
    assert_eq!(books.totals().charged, 0);
}

#[test]
fn a_card_that_wants_its_holder_is_refused_or_waits() {
    let mut books = books();
    let id = made(&mut books, "pm_card_authenticationRequired");
    assert_eq!(confirm(&mut books, &id).unwrap_err().code, Some("authentication_required"));
    let id = made(&mut books, "pm_card_authenticationRequired");
    assert_eq!(books.confirm(&id, Confirmation::default()).unwrap().stage, Stage::Authenticating);
    assert_eq!(books.find(&id).unwrap().shown()["status"], "requires_action");
    assert_eq!(books.cancel(&id).unwrap().stage, Stage::Cancelled);
    assert_eq!(books.totals().charged, 0);
}

#[test]
fn what_is_cancelled_is_never_charged() {
    let mut books = books();
    let id = made(&mut books, "pm_card_visa");
    assert_eq!(books.cancel(&id).unwrap().stage, Stage::Cancelled);
    assert_eq!(confirm(&mut books, &id).unwrap_err().intent.unwrap()["status"], "canceled");
    assert_eq!(books.cancel(&id).unwrap_err().status, 400);
    assert_eq!((books.totals().charged, books.totals().cancelled), (0, 1));
    // And what is charged, or may be being charged, is never cancelled.
    for (card, stays) in [("pm_card_visa", "succeeded"), ("pm_sandbox_processing", "processing")] {
        let id = made(&mut books, card);
        confirm(&mut books, &id).unwrap();
        assert_eq!(books.cancel(&id).unwrap_err().intent.unwrap()["status"], stays);
    }
}

#[test]
fn the_bank_decides_once_and_later() {
    let mut books = books();
    let id = made(&mut books, "pm_sandbox_processing_fails");
    assert_eq!(confirm(&mut books, &id).unwrap(), "processing");
    assert_eq!(books.take_later(), [Later::Decide(id.clone(), false)]);
    assert_eq!(books.decide(&id, false).unwrap().stage, Stage::Declined(DECLINED));
    assert!(books.decide(&id, true).is_err());
    let id = made(&mut books, "pm_sandbox_processing");
    confirm(&mut books, &id).unwrap();
    assert_eq!(books.take_later(), [], "nobody decides by itself");
    assert_eq!(books.decide(&id, true).unwrap().stage, Stage::Succeeded);
    assert_eq!((books.totals().charged, books.totals().processing), (500, 0));
}

#[test]
fn never_more_is_given_back_than_was_charged() {
    let mut books = books();
    let id = made(&mut books, "pm_card_visa");
    let refund = |books: &mut Books, amount| {
        let done = books.refund(&id, amount, BTreeMap::new(), 9).map(|(_, refund)| refund.amount);
        done.map_err(|refusal| refusal.code)
    };
    assert_eq!(refund(&mut books, None), Err(Some("payment_intent_unexpected_state")));
    confirm(&mut books, &id).unwrap();
    for bad in [0, -1, 501] {
        assert_eq!(refund(&mut books, Some(bad)), Err(None), "{bad}");
    }
    assert_eq!(refund(&mut books, Some(200)), Ok(200));
    assert_eq!(refund(&mut books, Some(301)), Err(None));
    assert_eq!(refund(&mut books, None), Ok(300), "what is left");
    assert_eq!(refund(&mut books, None), Err(Some("charge_already_refunded")));
    assert_eq!((books.totals().refunded, books.totals().refunds), (500, 2));
    assert_eq!(books.find(&id).unwrap().charge_shown()["refunded"], true);
}

#[test]
fn a_refund_that_does_not_arrive_leaves_the_money_with_the_shop() {
    let mut books = books();
    for (card, arrives) in [("pm_card_pendingRefund", true), ("pm_card_refundFail", false)] {
        let id = made(&mut books, card);
        confirm(&mut books, &id).unwrap();
        let (_, refund) = books.refund(&id, None, BTreeMap::new(), 9).unwrap();
        let (refund, is_pending) = (refund.id.clone(), refund.stage == RefundStage::Pending);
        assert!(is_pending && books.find(&id).unwrap().refunded() == 0);
        // What is on its way is not given back once more.
        assert!(books.refund(&id, None, BTreeMap::new(), 9).is_err());
        assert_eq!(books.take_later(), [Later::Arrive(refund.clone(), arrives)]);
        books.arrive(&refund, arrives);
        books.arrive(&refund, !arrives);
        assert_eq!(books.find(&id).unwrap().refunded(), if arrives { 500 } else { 0 });
    }
    assert_eq!((books.totals().refunded, books.totals().refunds_failed), (500, 1));
}

#[test]
fn nonsense_is_refused_before_anything_is_begun() {
    let mut books = books();
    for (amount, card) in [(0, "pm_card_visa"), (-5, "pm_card_visa"), (AMOUNT_MAX + 1, "pm_card_visa"), (5, "pm_x")] {
        let new = NewIntent { amount, metadata: BTreeMap::new(), payment_method: Some(card.to_owned()) };
        let refusal = books.create(new, 7).unwrap_err();
        assert!(refusal.status == 400 && !refusal.is_kept(), "{amount} {card}");
    }
    assert_eq!(books.find("pi_none").unwrap_err().status, 404);
    assert_eq!(*books.totals(), Totals::default());
}

#[test]
fn what_is_forgotten_for_want_of_room_is_counted_for_ever() {
    let mut books = Books::new(3);
    let first = made(&mut books, "pm_card_visa");
    confirm(&mut books, &first).unwrap();
    let open: Vec<String> = (0..2).map(|_| made(&mut books, "pm_card_visa")).collect();
    let fourth = made(&mut books, "pm_card_visa");
    assert!(books.find(&first).is_err(), "decided longest ago");
    assert!(open.iter().chain([&fourth]).all(|id| books.find(id).is_ok()), "what is undecided is kept");
    let totals = *books.totals();
    assert_eq!((totals.intents, totals.succeeded, totals.charged, totals.forgotten), (4, 1, 500, 1));
    let new = NewIntent { amount: 5, metadata: BTreeMap::new(), payment_method: None };
    assert_eq!(books.create(new, 7).unwrap_err().status, 429, "nothing that is undecided gives way");
}

#[test]
fn one_that_is_tried_again_and_again_takes_no_more_room() {
    let mut books = Books::new(2);
    let id = made(&mut books, "pm_card_chargeDeclined");
    for card in ["pm_card_chargeDeclined"; 20] {
        let again = Confirmation { payment_method: Some(card.to_owned()), ..Confirmation::default() };
        assert_eq!(books.confirm(&id, again).unwrap_err().status, 402);
    }
    assert_eq!(books.decided.len(), 1);
    // Waiting for the bank once more, it is not forgotten; decided at last, it is.
    let again = Confirmation { payment_method: Some("pm_sandbox_processing".to_owned()), ..Confirmation::default() };
    assert_eq!(books.confirm(&id, again).unwrap().stage, Stage::Processing);
    made(&mut books, "pm_card_visa");
    let new = || NewIntent { amount: 5, metadata: BTreeMap::new(), payment_method: None };
    assert_eq!(books.create(new(), 7).unwrap_err().status, 429);
    books.decide(&id, true).unwrap();
    assert!(books.create(new(), 7).is_ok() && books.find(&id).is_err());
    assert_eq!((books.totals().charged, books.totals().declined), (500, 0));
}

#[test]
fn the_totals_are_the_sums_of_the_list_whatever_happens() {
    const CARDS: [&str; 6] = [
        "pm_card_visa",
        "pm_card_chargeDeclined",
        "pm_card_authenticationRequired",
        "pm_card_pendingRefund",
        "pm_card_refundFail",
        "pm_sandbox_processing",
    ];
    for seed in 0..50 {
        let (mut books, mut dice) = (Books::new(1000), StdRng::seed_from_u64(seed));
        let (mut ids, mut later) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            if ids.is_empty() || dice.random_bool(0.3) {
                ids.push(made(&mut books, CARDS[dice.random_range(0..CARDS.len())]));
            }
            let id = ids[dice.random_range(0..ids.len())].clone();
            match dice.random_range(0..5) {
                0 => drop(books.confirm(&id, Confirmation::default()).map(drop)),
                1 => drop(books.cancel(&id).map(drop)),
                2 => drop(books.decide(&id, dice.random_bool(0.5)).map(drop)),
                3 => drop(books.refund(&id, Some(dice.random_range(1..400)), BTreeMap::new(), 9).map(drop)),
                _ => {
                    if let Some(Later::Arrive(refund, is_good)) = later.pop() {
                        books.arrive(&refund, is_good);
                    }
                }
            }
            later.extend(books.take_later());
        }
        let all: Vec<&Intent> = books.list(0, usize::MAX).collect();
        let count = |name: &str| all.iter().filter(|intent| intent.stage.booked() == name).count() as u64;
        let totals = books.totals();
        assert_eq!(totals.intents, all.len() as u64);
        assert_eq!(totals.unconfirmed, count("unconfirmed"));
        assert_eq!(totals.processing, count("processing"));
        assert_eq!(totals.succeeded, count("succeeded"));
        assert_eq!(totals.declined, count("declined"));
        assert_eq!(totals.cancelled, count("cancelled"));
        let charged: i64 = all.iter().filter(|it| it.stage == Stage::Succeeded).map(|it| it.amount).sum();
        assert_eq!((totals.charged, totals.refunded), (charged, all.iter().map(|it| it.refunded()).sum()));
        assert!(all.iter().all(|it| it.refunded() <= if it.charge.is_some() { it.amount } else { 0 }));
    }
}
