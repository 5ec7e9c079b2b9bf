//! Mails: they reach whoever they are for through a real mail server, prove that somebody reads them, and leave nothing behind.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::Row as _;
use uuid::Uuid;

use crate::support::arena::{Plan, text};
use crate::support::receiver::{MailServer, Posted};
use crate::support::{Api, Buyer, Process, Reply, Sale, World, eventually};

const PASSWORD: &str = "a long enough one";

/// Settings by which mails go to this server.
fn by(server: &MailServer) -> Vec<(&'static str, String)> {
    vec![
        ("FRONTROW__MAIL__TRANSPORT", "smtp".to_owned()),
        ("FRONTROW__MAIL__HOST", "127.0.0.1".to_owned()),
        ("FRONTROW__MAIL__PORT", server.port().to_string()),
        ("FRONTROW__MAIL__TLS", "none".to_owned()),
        ("FRONTROW__MAIL__FROM", "The Shop <shop@example.com>".to_owned()),
        ("FRONTROW__NOTICES__POLL_MS", "50".to_owned()),
        ("FRONTROW__LIMITS__MAILS_PER_RECIPIENT_PER_MINUTE", "1000".to_owned()),
    ]
}

async fn world(server: &MailServer, extra: &[(&str, &str)]) -> World {
    let settings = by(server);
    let settings = settings.iter().map(|(name, value)| (*name, value.as_str()));
    World::with(&settings.chain(extra.iter().copied()).collect::<Vec<_>>()).await
}

/// Registers over the API, and gives the address.
async fn register(api: &Api, name: &str) -> String {
    let email = format!("{}@example.com", Uuid::new_v4().simple());
    let body = json!({"email": email, "password": PASSWORD, "name": name});
    let made = api.post("/v1/users").json(&body).send().await.expect(201);
    assert_eq!(made["verified_at"], Value::Null);
    email
}

async fn log_in(api: &Api, email: &str, password: &str) -> Reply {
    api.post("/v1/sessions").json(&json!({"email": email, "password": password})).send().await
}

async fn signed_in(api: &Api, email: &str) -> Buyer {
    let session = log_in(api, email, PASSWORD).await.expect(201);
    Buyer { id: text(&session["user"]["id"]), token: text(&session["access_token"]) }
}

async fn verify(api: &Api, token: &str) -> Reply {
    api.post("/v1/users/verifications").json(&json!({"token": token})).send().await
}

async fn ask_reset(api: &Api, email: &str) -> Reply {
    api.post("/v1/password-resets").json(&json!({"email": email})).send().await
}

async fn reset(api: &Api, token: &str, password: &str) -> Reply {
    let call = api.call(reqwest::Method::PUT, &format!("/v1/password-resets/{token}"));
    call.json(&json!({"password": password})).send().await
}

/// Kind, state, tries and the last word of every mail.
async fn mails(world: &World) -> Vec<(u8, u8, u32, String)> {
    let rows = sqlx::query("SELECT kind, state, attempts, last_error FROM mails ORDER BY id");
    let rows = rows.fetch_all(&mut world.sql().await).await.expect("mails");
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

async fn wait_for_mails(world: &World, expected: &[(u8, u8, u32, &str)]) {
    let expected: Vec<(u8, u8, u32, String)> =
        expected.iter().map(|(kind, state, tries, word)| (*kind, *state, *tries, (*word).to_owned())).collect();
    eventually("mails to be written down", || async { (mails(world).await == expected).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_buys_has_shown_that_they_read_their_mail() {
    let server = MailServer::start().await;
    let world = world(&server, &[("FRONTROW__ACCOUNTS__REQUIRE_VERIFIED", "true")]).await;
    let (one, other) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &other]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let email = register(&api, "Kim <b>Minji</b>").await;
    let buyer = signed_in(&api, &email).await;
    let joining = || api.post(&format!("/v1/concerts/{}/queue/tickets", sale.concert)).bearer(&buyer.token);
    joining().send().await.expect_problem(403, "email_unverified");

    let mail = server.wait_for(&email, "Confirm your address").await;
    assert!(mail.header("From").is_some_and(|from| from.contains("shop@example.com")), "{mail:?}");
    assert!(
        mail.text.contains("Hello Kim <b>Minji</b>") && mail.text.contains("Kim &lt;b&gt;Minji&lt;/b&gt;"),
        "{mail:?}"
    );
    verify(&api, "nonsense").await.expect_problem(410, "link_expired");
    // Another mail, another token: both work until one was used, and a repeat of what took effect is fine.
    api.post("/v1/me/verifications").bearer(&buyer.token).send().await.expect(202);
    wait_for_mails(&world, &[(1, 1, 1, ""), (1, 1, 1, "")]).await;
    assert_eq!(verify(&api, &mail.token()).await.status, 204);
    assert_eq!(verify(&api, &mail.token()).await.status, 204);
    let me = api.get("/v1/me").bearer(&buyer.token).send().await.expect(200);
    assert!(me["verified_at"].is_string(), "{me}");
    api.post("/v1/me/verifications").bearer(&buyer.token).send().await.expect(202);
    assert_eq!(mails(&world).await.len(), 2, "nothing is left to verify");

    // Now they buy, and are told of it.
    buyer.charge(&api, 100_000).await;
    let pass = buyer.enter(&api, &sale).await;
    let hold = buyer.hold(&api, &sale.performances[0], &pass, &["A-1-1", "A-1-2"]).await;
    let paid = buyer.try_pay(&api, &hold, "pay").await.expect(201);
    let mail = server.wait_for(&email, "Your reservation for A Concert").await;
    for seat in paid["seats"].as_array().expect("seats") {
        assert!(mail.text.contains(&text(&seat["ticket_code"])), "{mail:?}");
    }
    wait_for_mails(&world, &[(1, 1, 1, ""), (1, 1, 1, ""), (0, 1, 1, "")]).await;
    world.assert_clean(&one).await;
    world.end(vec![one, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_reset_once_and_every_session_ends() {
    let server = MailServer::start().await;
    let world = world(&server, &[]).await;
    let (one, other) = (world.instance().await, world.instance().await);
    let api = Api::over(&[&one, &other]);
    let email = register(&api, "A Buyer").await;
    let session = signed_in(&api, &email).await;
    assert_eq!(ask_reset(&api, &email.to_uppercase()).await.status, 202);
    let mail: Posted = server.wait_for(&email, "Set a new password").await;
    let (token, verification) = (mail.token(), server.wait_for(&email, "Confirm").await.token());
    reset(&api, &verification, "another long one").await.expect_problem(410, "link_expired");
    verify(&api, &token).await.expect_problem(410, "link_expired");
    reset(&api, &token, "short").await.expect_problem(422, "invalid_body");

    let passwords: Vec<String> = (0..20).map(|n| format!("password number {n}")).collect();
    let replies = join_all(passwords.iter().map(|password| reset(&api, &token, password))).await;
    let mut winners = Vec::new();
    for (password, reply) in passwords.iter().zip(replies) {
        match reply.status {
            204 => winners.push(password),
            // More at once than may wait for hashing.
            503 => drop(reply.expect_problem(503, "overloaded")),
            _ => drop(reply.expect_problem(410, "link_expired")),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    log_in(&api, &email, PASSWORD).await.expect_problem(401, "bad_credentials");
    log_in(&api, &email, winners[0]).await.expect(201);
    eventually("the session to end everywhere", || async {
        let replies = join_all((0..2).map(|_| api.get("/v1/me").bearer(&session.token).send())).await;
        replies.iter().all(|reply| reply.status == 401).then_some(())
    })
    .await;
    let stored =
        sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM user_tokens WHERE kind = 1 AND used_at IS NOT NULL");
    assert_eq!(stored.fetch_one(&mut world.sql().await).await.expect("a count"), 1);
    world.end(vec![one, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_a_reset_learns_nothing() {
    let server = MailServer::start().await;
    let world = world(&server, &[]).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let known = register(&api, "A Buyer").await;
    wait_for_mails(&world, &[(1, 1, 1, "")]).await;
    let replies = [ask_reset(&api, &known).await, ask_reset(&api, "nobody@example.com").await];
    let shown = |reply: &Reply| {
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in &reply.headers {
            if !matches!(name.as_str(), "x-request-id" | "date") {
                headers.push((name.to_string(), value.to_str().expect("ASCII").to_owned()));
            }
        }
        headers.sort();
        (reply.status, headers, reply.bytes.clone())
    };
    assert_eq!(shown(&replies[0]), shown(&replies[1]));
    assert_eq!(replies[0].status, 202);
    // One row each: what is for nobody is found to be void.
    eventually("both mails to end", || async {
        let mut states: Vec<u8> =
            mails(&world).await.into_iter().filter(|mail| mail.0 == 2).map(|mail| mail.1).collect();
        states.sort_unstable();
        (states == [1, 3]).then_some(())
    })
    .await;
    assert!(server.posted().iter().all(|mail| mail.to == known));
    ask_reset(&api, "no address").await.expect_problem(422, "invalid_body");

    // A link that is too old is none.
    let token = server.wait_for(&known, "Set a new password").await.token();
    world.advance(Duration::from_mins(31));
    reset(&api, &token, "another long one").await.expect_problem(410, "link_expired");
    // And there is an end to what is sent to one user, whoever asks.
    for _ in 0..15 {
        assert_eq!(ask_reset(&api, &known).await.status, 202);
    }
    eventually("all mails to end", || async { mails(&world).await.iter().all(|mail| mail.1 != 0).then_some(()) }).await;
    let sent = mails(&world).await.iter().filter(|mail| (mail.0, mail.1) == (2, 1)).count();
    assert_eq!(sent, 10, "ten an hour, the first of them included");
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mails_are_asked_for_at_a_bounded_rate() {
    let server = MailServer::start().await;
    let extra = [
        ("FRONTROW__LIMITS__MAILS_PER_RECIPIENT_PER_MINUTE", "2"),
        ("FRONTROW__LIMITS__MAILS_PER_ADDRESS_PER_MINUTE", "5"),
        ("FRONTROW__LIMITS__TRUSTED_PROXIES", "127.0.0.0/8"),
    ];
    let world = world(&server, &extra).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let ask = async |email: &str, from: &str| {
        let call = api.post("/v1/password-resets").header("x-forwarded-for", from);
        call.json(&json!({"email": email})).send().await
    };
    for expected in [202, 202, 429] {
        assert_eq!(ask("somebody@example.com", "192.0.2.1").await.status, expected);
    }
    ask("SomeBody@example.com", "192.0.2.2").await.expect_problem(429, "rate_limited");
    for (n, expected) in [202, 202, 429].into_iter().enumerate() {
        assert_eq!(ask(&format!("{n}@example.com"), "192.0.2.1").await.status, expected, "{n}");
    }
    world.advance(Duration::from_mins(2));
    assert_eq!(ask("somebody@example.com", "192.0.2.1").await.status, 202);
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mails_wait_for_their_server_and_outlive_their_instance() {
    let server = MailServer::start().await;
    let world = world(&server, &[]).await;
    // Nobody listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let port = closed.to_string();
    let (mut victim, base) = Process::serve(&world, &[("FRONTROW__MAIL__PORT", &port)]).await;
    let api = Api::at(vec![base]);
    let email = register(&api, "A Buyer").await;
    eventually("a try in vain", || async {
        mails(&world).await.first().filter(|mail| (mail.1, mail.3.as_str()) == (0, "unreachable")).map(drop)
    })
    .await;
    victim.kill();
    assert_eq!(victim.end().await, None, "ended by a signal");
    assert!(!victim.output().contains(&email), "an address in the log");
    world.advance(Duration::from_mins(3));
    let heir = world.instance().await;
    let mail = server.wait_for(&email, "Confirm your address").await;
    eventually("the mail to end", || async {
        mails(&world).await.first().filter(|mail| mail.1 == 1 && mail.2 >= 2).map(drop)
    })
    .await;
    let api = Api::over(&[&heir]);
    assert_eq!(verify(&api, &mail.token()).await.status, 204);

    // Who has no mailbox gets no second try, and their address is nowhere.
    let refused = format!("{}@example.com", Uuid::new_v4().simple());
    server.refuse(&refused);
    let body = json!({"email": refused, "password": PASSWORD, "name": "A Buyer"});
    api.post("/v1/users").json(&body).send().await.expect(201);
    eventually("the mail to be given up", || async {
        mails(&world).await.last().filter(|mail| (mail.1, mail.2, mail.3.as_str()) == (2, 1, "smtp_550")).map(drop)
    })
    .await;
    world.end(vec![heir]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mails_can_be_files() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("mail-{}", Uuid::new_v4().simple()));
    let path = folder.to_str().expect("text").to_owned();
    let settings = [("FRONTROW__MAIL__TRANSPORT", "files"), ("FRONTROW__MAIL__FOLDER", path.as_str())];
    let world = World::with(&settings).await;
    let one = world.instance().await;
    let email = register(&Api::over(&[&one]), "김민지").await;
    wait_for_mails(&world, &[(1, 1, 1, "")]).await;
    let files: Vec<_> =
        std::fs::read_dir(&folder).expect("the folder").map(|file| file.expect("a file").path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(files[0].extension().is_some_and(|end| end == "eml"));
    let text = std::fs::read_to_string(&files[0]).expect("a mail");
    assert!(text.contains(&email) && text.contains("Content-Type: multipart/alternative"), "{text}");
    std::fs::remove_dir_all(&folder).expect("tidying up");
    world.end(vec![one]).await;
}

#[test]
fn who_cannot_be_verified_is_not_asked_to_be() {
    let settings =
        [("FRONTROW__ACCOUNTS__REQUIRE_VERIFIED", "true"), ("FRONTROW__DATABASE__URL", "mysql://a:b@localhost/c")];
    let keys = ("FRONTROW__SECRETS__TOKEN_KEYS", "1:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
    let redis = ("FRONTROW__REDIS__URL", "redis://localhost");
    let all = settings.into_iter().chain([keys, redis]).map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = frontrow::app::config::Config::from_variables(None, all).expect("settings");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let refused = frontrow::app::state::State::new(config, frontrow::platform::clock::Clock::default());
    let refused = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(refused.contains("accounts.require_verified") && refused.contains("mail.transport"), "{refused}");
}

/// Every column of every table that has this text in it.
async fn places_of(world: &World, needle: &str) -> Vec<String> {
    let mut sql = world.sql().await;
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT CAST(table_name AS CHAR), CAST(column_name AS CHAR) FROM information_schema.columns \
         WHERE table_schema = DATABASE() AND data_type IN ('char', 'varchar', 'text', 'mediumtext', 'longtext', 'blob', \
         'mediumblob', 'longblob', 'varbinary', 'binary', 'json')",
    )
    .fetch_all(&mut sql)
    .await
    .expect("columns");
    assert!(columns.len() > 50, "the columns were found");
    let mut found = Vec::new();
    for (table, column) in columns {
        let count =
            format!("SELECT COUNT(*) FROM {table} WHERE LOCATE(CAST(? AS BINARY), CAST({column} AS BINARY)) > 0");
        let count = sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(count)).bind(needle).fetch_one(&mut sql).await;
        if count.expect("a count") > 0 {
            found.push(format!("{table}.{column}"));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_erased_leaves_no_name_and_gets_no_mail() {
    let server = MailServer::start().await;
    let world = world(&server, &[]).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let body = json!({"url": "https://hooks.example.com/", "topics": ["reservation.confirmed"]});
    api.post("/v1/admin/webhooks").bearer(&sale.operator).json(&body).send().await.expect(201);
    let name = format!("Minji {}", Uuid::new_v4().simple());
    let email = register(&api, &name).await;
    let buyer = signed_in(&api, &email).await;
    buyer.charge(&api, 100_000).await;
    let pass = buyer.enter(&api, &sale).await;
    let hold = buyer.hold(&api, &sale.performances[0], &pass, &["A-1-1"]).await;
    buyer.try_pay(&api, &hold, "pay").await.expect(201);
    let verification = server.wait_for(&email, "Confirm").await.token();
    server.wait_for(&email, "Your reservation").await;
    assert_eq!(ask_reset(&api, &email).await.status, 202);
    let token = server.wait_for(&email, "Set a new password").await.token();
    eventually("a delivery", || async {
        let count = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM webhook_deliveries");
        (count.fetch_one(&mut world.sql().await).await.expect("a count") == 1).then_some(())
    })
    .await;
    // While they are there, only their own row names them.
    assert_eq!(places_of(&world, &email).await, ["users.email"]);
    assert_eq!(places_of(&world, &name).await, ["users.name"]);
    assert_eq!(places_of(&world, &token).await, [""; 0], "a token is only in its mail");

    // One more mail that has not left: what is due is made to wait, as if the mail server were away.
    let user: Uuid = buyer.id.parse().expect("an id");
    let pending = "INSERT INTO mails (id, kind, user_id, reference, state, due_at, created_at, changed_at) \
         VALUES (?, 1, ?, ?, 0, UTC_TIMESTAMP(6) + INTERVAL 1 HOUR, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6))";
    let pending = sqlx::query(pending).bind(Uuid::now_v7()).bind(user).bind(Uuid::now_v7());
    pending.execute(&mut world.sql().await).await.expect("a mail");
    api.delete("/v1/me").bearer(&buyer.token).send().await.expect(204);

    assert_eq!(places_of(&world, &email).await, [""; 0]);
    assert_eq!(places_of(&world, &name).await, [""; 0]);
    let count = async |statement: &'static str| {
        sqlx::query_scalar::<_, i64>(statement).bind(user).fetch_one(&mut world.sql().await).await.expect("a count")
    };
    assert_eq!(count("SELECT COUNT(*) FROM user_tokens WHERE user_id = ?").await, 0);
    assert_eq!(count("SELECT COUNT(*) FROM mails WHERE user_id = ? AND state = 0").await, 0);
    verify(&api, &verification).await.expect_problem(410, "link_expired");
    reset(&api, &token, "another long one").await.expect_problem(410, "link_expired");
    let before = server.posted().len();
    assert_eq!(ask_reset(&api, &email).await.status, 202);
    eventually("the mail to nobody to end", || async {
        mails(&world).await.last().filter(|mail| (mail.0, mail.1) == (2, 3)).map(drop)
    })
    .await;
    assert_eq!(server.posted().len(), before);
    // The address is free, the sale and the ledger are whole, and the ticket is still theirs whoever they were.
    assert_eq!(count("SELECT COUNT(*) FROM reservations WHERE user_id = ?").await, 1);
    assert_eq!(count("SELECT COUNT(*) FROM ledger_entries WHERE user_id = ?").await, 2);
    let tickets =
        "SELECT COUNT(*) FROM reservation_seats s JOIN reservations r ON r.id = s.reservation_id WHERE r.user_id = ?";
    assert_eq!(count(tickets).await, 1);
    let body = json!({"email": email, "password": PASSWORD, "name": "Another"});
    api.post("/v1/users").json(&body).send().await.expect(201);
    world.assert_clean(&one).await;
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_and_what_has_expired_is_forgotten() {
    let server = MailServer::start().await;
    let world = world(&server, &[]).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    for _ in 0..5 {
        register(&api, "A Buyer").await;
    }
    wait_for_mails(&world, &[(1, 1, 1, ""); 5]).await;
    let tokens = async || {
        let count = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM user_tokens");
        count.fetch_one(&mut world.sql().await).await.expect("a count")
    };
    // Its jobs would forget them meanwhile.
    one.stop().await;
    let state = world.state(&[]);
    assert_eq!(state.accounts.delete_expired_proofs(3).await.expect("MySQL"), 0);
    assert_eq!((state.mails.tidy(3).await.expect("MySQL"), tokens().await), (0, 5));
    world.advance(Duration::from_hours(169));
    let forgotten = async || state.accounts.delete_expired_proofs(3).await.expect("MySQL");
    assert_eq!([forgotten().await, forgotten().await, forgotten().await], [3, 2, 0]);
    let forgotten = async || state.mails.tidy(3).await.expect("MySQL");
    assert_eq!([forgotten().await, forgotten().await, forgotten().await], [3, 2, 0]);
    assert!(mails(&world).await.is_empty());
    world.end(Vec::new()).await;
}
