//! Tickets: true without asking anybody, drawn for their owner, and good for one entry.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};

use crate::support::arena::{Plan, text};
use crate::support::{Api, Buyer, Reply, Sale, World, assert_members};

/// Somebody with a paid reservation of these seats.
async fn booked(api: &Api, sale: &Sale, performance: usize, seats: &[&str]) -> (Buyer, Value) {
    let buyer = Buyer::new(api).await;
    buyer.charge(api, 100_000).await;
    let pass = buyer.enter(api, sale).await;
    let hold = buyer.hold(api, &sale.performances[performance], &pass, seats).await;
    let reservation = buyer.try_pay(api, &hold, "pay").await.expect(201);
    (buyer, reservation)
}

fn codes(reservation: &Value) -> Vec<String> {
    reservation["seats"].as_array().expect("seats").iter().map(|seat| text(&seat["ticket_code"])).collect()
}

async fn check_in(api: &Api, sale: &Sale, code: &str) -> Reply {
    api.post(&format!("/v1/admin/tickets/{code}/check-in")).bearer(&sale.operator).send().await
}

async fn cancel(api: &Api, buyer: &Buyer, reservation: &Value) -> Reply {
    let path = format!("/v1/reservations/{}/cancellation", text(&reservation["id"]));
    api.post(&path).bearer(&buyer.token).key(&uuid::Uuid::new_v4().to_string()).send().await
}

/// What a gate without a network makes of a code, by what `docs/tickets.md` says: performance, seat and serial.
fn verified(code: &str, keys: &Value) -> Option<(String, u32, String)> {
    let bytes = URL_SAFE_NO_PAD.decode(code).ok().filter(|bytes| bytes.len() == 111 && bytes[0] >> 4 == 1)?;
    let kid = (bytes[0] & 15).to_string();
    let key = keys["keys"].as_array()?.iter().find(|key| key["kid"] == kid.as_str())?;
    assert_eq!((&key["kty"], &key["crv"]), (&json!("OKP"), &json!("Ed25519")));
    let x = URL_SAFE_NO_PAD.decode(text(&key["x"])).ok()?;
    UnparsedPublicKey::new(&ED25519, x).verify(&bytes[..47], &bytes[47..]).ok()?;
    let performance = uuid::Uuid::from_slice(&bytes[1..17]).ok()?.to_string();
    let seat = u32::from_be_bytes(bytes[17..21].try_into().ok()?);
    Some((performance, seat, String::from_utf8(bytes[21..47].to_vec()).ok()?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_tells_true_tickets_without_asking() {
    let seeds = format!("7:{}", "0f1e2d3c4b5a69788796a5b4c3d2e1f0".repeat(2));
    let world = World::new().await;
    let one = world.instance().await;
    let other = world.instance_with(&[("FRONTROW__SECRETS__TICKET_KEYS", &seeds)]).await;
    for (instance, kid) in [(&one, "1"), (&other, "7")] {
        let api = Api::over(&[instance]);
        let sale = Sale::new(&api, instance, &Plan { performances: 2, ..Plan::default() }).await;
        let (buyer, reservation) = booked(&api, &sale, 1, &["A-2-3", "A-1-2"]).await;
        let reply = api.get("/.well-known/frontrow-tickets.json").send().await;
        assert_eq!(reply.header("cache-control"), Some("public, max-age=300"));
        let tag = reply.header("etag").expect("a tag").to_owned();
        let keys = reply.expect(200);
        assert_members(&keys["keys"][0], &["kty", "crv", "use", "alg", "kid", "x"]);
        assert_eq!(keys["keys"][0]["kid"], kid);
        let again = api.get("/.well-known/frontrow-tickets.json").header("if-none-match", &tag).send().await;
        assert_eq!(again.status, 304);

        let codes = codes(&reservation);
        let read: Vec<_> = codes.iter().map(|code| verified(code, &keys).expect("a true ticket")).collect();
        let seats: Vec<_> = read.iter().map(|(performance, seat, _)| (performance.as_str(), *seat)).collect();
        assert_eq!(seats, [(sale.performances[1].as_str(), 1), (sale.performances[1].as_str(), 12)]);
        assert_ne!(read[0].2, read[1].2);
        // Each time the same.
        let path = format!("/v1/reservations/{}", text(&reservation["id"]));
        assert_eq!(api.get(&path).bearer(&buyer.token).send().await.expect(200), reservation);
        // Not with another seat's number in it.
        let mut bytes = URL_SAFE_NO_PAD.decode(&codes[0]).expect("base64");
        bytes[20] ^= 1;
        let forged = URL_SAFE_NO_PAD.encode(&bytes);
        assert_eq!(verified(&forged, &keys), None);
        check_in(&api, &sale, &forged).await.expect_problem(404, "not_found");
        check_in(&api, &sale, &codes[0]).await.expect(200);
    }
    world.assert_clean(&one).await;
    world.end(vec![one, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_opens_a_gate_once() {
    let world = World::new().await;
    let (one, two) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &two]);
    let sale = Sale::new(&api, &one, &Plan { performances: 2, ..Plan::default() }).await;
    let (buyer, reservation) = booked(&api, &sale, 0, &["A-1-1", "A-1-2", "A-1-3"]).await;
    let codes = codes(&reservation);
    let path = |code: &str| format!("/v1/admin/tickets/{code}/check-in");

    // Another evening's gate does not use it up.
    let elsewhere = format!("{}?performance={}", path(&codes[0]), sale.performances[1]);
    let refused = api.post(&elsewhere).bearer(&sale.operator).send().await.expect_problem(409, "other_performance");
    assert_eq!(refused["performance_id"], sale.performances[0].as_str());
    let here = format!("{}?performance={}", path(&codes[0]), sale.performances[0]);
    let first = api.post(&here).bearer(&sale.operator).send().await.expect(200);
    assert_members(&first, &["reservation_id", "performance_id", "seat", "checked_in_at"]);
    assert_eq!(first["seat"], json!({"id": "A-1-1", "grade": "R"}));
    assert_eq!(
        (&first["reservation_id"], &first["performance_id"]),
        (&reservation["id"], &reservation["performance_id"])
    );
    let again = check_in(&api, &sale, &codes[0]).await.expect_problem(409, "already_checked_in");
    assert_eq!(again["checked_in_at"], first["checked_in_at"]);

    // A gate that was not answered sends its request again.
    let keyed = async || api.post(&path(&codes[1])).bearer(&sale.operator).key("scan").send().await;
    let (answer, repeat) = (keyed().await, keyed().await);
    assert_eq!((answer.status, &answer.bytes), (200, &repeat.bytes));
    assert_eq!(repeat.header("idempotency-replayed"), Some("true"));

    // What tickets from before signatures have is good as well, and the same ticket.
    let serial = String::from_utf8(URL_SAFE_NO_PAD.decode(&codes[2]).expect("base64")[21..47].to_vec()).expect("ASCII");
    check_in(&api, &sale, &serial).await.expect(200);
    check_in(&api, &sale, &codes[2]).await.expect_problem(409, "already_checked_in");
    for unknown in ["x", "0123456789ABCDEFGHJKMNPQRS", &codes[0][..147]] {
        check_in(&api, &sale, unknown).await.expect_problem(404, "not_found");
    }
    api.post(&path(&codes[0])).bearer(&buyer.token).send().await.expect_problem(403, "forbidden");
    // Nor is it given back afterwards.
    cancel(&api, &buyer, &reservation).await.expect_problem(409, "not_cancellable");
    world.assert_clean(&one).await;
    world.end(vec![one, two]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_drawn_for_its_owner_until_it_is_void() {
    let world = World::new().await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let (buyer, reservation) = booked(&api, &sale, 0, &["A-1-1", "A-1-2"]).await;
    let codes = codes(&reservation);
    let picture = |id: &Value, code: &str| format!("/v1/reservations/{}/tickets/{code}.svg", text(id));
    let drawn = api.get(&picture(&reservation["id"], &codes[0])).bearer(&buyer.token).send().await;
    assert_eq!((drawn.status, drawn.header("content-type")), (200, Some("image/svg+xml")));
    assert!(drawn.header("cache-control").is_some_and(|value| value.starts_with("private")));
    let other = api.get(&picture(&reservation["id"], &codes[1])).bearer(&buyer.token).send().await;
    assert!(drawn.bytes.starts_with(b"<?xml") && drawn.bytes != other.bytes);
    // The same by the serial alone, as it is the same ticket.
    let serial = String::from_utf8(URL_SAFE_NO_PAD.decode(&codes[0]).expect("base64")[21..47].to_vec()).expect("ASCII");
    let by_serial = api.get(&picture(&reservation["id"], &serial)).bearer(&buyer.token).send().await;
    assert_eq!(by_serial.bytes, drawn.bytes);

    let (somebody, theirs) = booked(&api, &sale, 0, &["A-1-3"]).await;
    for (buyer, id, code) in [
        (&somebody, &reservation["id"], &codes[0]),
        (&buyer, &theirs["id"], &codes[0]),
        (&somebody, &theirs["id"], &codes[0]),
    ] {
        api.get(&picture(id, code)).bearer(&buyer.token).send().await.expect_problem(404, "not_found");
    }
    let path = picture(&reservation["id"], &codes[0]);
    api.get(&path).send().await.expect_problem(401, "unauthenticated");
    let bare = api.get(path.trim_end_matches(".svg")).bearer(&buyer.token).send().await;
    bare.expect_problem(422, "invalid_parameter");

    cancel(&api, &buyer, &reservation).await.expect(200);
    api.get(&path).bearer(&buyer.token).send().await.expect_problem(410, "ticket_gone");
    check_in(&api, &sale, &codes[0]).await.expect_problem(409, "ticket_void");
    world.assert_clean(&one).await;
    world.end(vec![one]).await;
}
