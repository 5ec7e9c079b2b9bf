//! A database as it looks after years of sales: thousands of rows in every table that grows, and no invariant broken.
//!
//! [`fill`] names only columns of the first schema, so it fills databases of earlier versions too; tables that came later are
//! filled by [`fill_later`]. All sales are over or far
//! ahead, so that instances find nothing to do with them. A few holds, passes and events are live.

use sqlx::{AssertSqlSafe, MySqlConnection};

/// How many rows some of the tables get, for whoever counts.
pub const USERS: u32 = 5_000;
pub const CONCERTS: u32 = 2_000;

/// The id of the `n`th thing of a kind (three hexadecimal digits): ordered by `n`, and older than any that is made now.
fn id(kind: &str, n: &str) -> String {
    format!("UNHEX(CONCAT('0190', LPAD(HEX({n}), 8, '0'), '7{kind}8000', LPAD(HEX({n}), 12, '0')))")
}

fn user(n: &str) -> String {
    id("001", n)
}

fn concert(n: &str) -> String {
    id("003", n)
}

fn performance(n: &str) -> String {
    id("004", n)
}

fn hold(n: &str) -> String {
    id("005", n)
}

fn reservation(n: &str) -> String {
    id("006", n)
}

fn payment(n: &str) -> String {
    id("007", n)
}

/// Fills the tables of the first schema. They must hold none of these rows yet.
pub async fn fill(sql: &mut MySqlConnection) {
    run(sql, vec![people(), catalogue(), line(), holds(), sales(), money(), platform()]).await;
}

/// Fills the tables that came later.
pub async fn fill_later(sql: &mut MySqlConnection) {
    run(sql, vec![operators(), line_in_mysql(), cards(), cancellations(), notices(), changes(), warmth()]).await;
}

async fn run(sql: &mut MySqlConnection, parts: Vec<Vec<String>>) {
    let now: String =
        sqlx::query_scalar("SELECT CAST(UTC_TIMESTAMP(6) AS CHAR)").fetch_one(&mut *sql).await.expect("the time");
    let digits = "(SELECT 0 AS d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 \
         UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    let mut statements = vec![
        "CREATE TABLE filling (n INT NOT NULL PRIMARY KEY)".to_owned(),
        format!(
            "INSERT INTO filling SELECT a.d + 10 * b.d + 100 * c.d + 1000 * d.d \
             FROM {digits} a CROSS JOIN {digits} b CROSS JOIN {digits} c CROSS JOIN {digits} d"
        ),
    ];
    statements.extend(parts.into_iter().flatten());
    statements.push("DROP TABLE filling".to_owned());
    for statement in statements {
        let statement = statement.replace("NOW", &format!("TIMESTAMP'{now}'"));
        let done = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut *sql).await;
        done.unwrap_or_else(|error| panic!("{error}\n{statement}"));
    }
}

/// Two of each concert.
fn operators() -> Vec<String> {
    vec![format!(
        "INSERT INTO operator_actions (id, operator_id, action, concert_id, details, created_at) SELECT {}, {}, \
         'queue.rules_changed', {}, '{{}}', NOW - INTERVAL (4000 - n) HOUR FROM filling WHERE n < 4000",
        id("014", "n"),
        user("(n % 7)"),
        concert("(n DIV 2)")
    )]
}

/// Attempts to pay by card for holds that ended without: declined all but the last twenty, which are not decided yet. And what
/// the provider told of them.
fn cards() -> Vec<String> {
    let (is_open, begun) = ("n >= 980", "NOW - INTERVAL (1000 - n) * 600 SECOND");
    vec![
        format!(
            "INSERT INTO payments (id, user_id, method, state, subject_kind, subject_id, amount, created_at, changed_at, \
             provider_id, open_subject, result_id, reason, due_at) \
             SELECT {}, {}, 1, IF({is_open}, 0, 2), 0, {}, 20000, {begun}, {begun}, CONCAT('pi_', n), IF({is_open}, {}, NULL), \
             {}, IF({is_open}, NULL, 'declined:card_declined'), IF({is_open}, NOW + INTERVAL n SECOND, NULL) \
             FROM filling WHERE n < 1000",
            id("015", "n"),
            user("(5 * n % 500 + 4)"),
            hold("(5 * n + 4)"),
            hold("(5 * n + 4)"),
            id("016", "n"),
        ),
        "INSERT INTO provider_events (id, received_at) SELECT CONCAT('evt_', n), NOW - INTERVAL (4000 - n) MINUTE \
         FROM filling WHERE n < 4000"
            .to_owned(),
    ]
}

/// Deliveries to 50 webhooks, mails, and the tokens in them, of the last day: some wait, some are dead.
fn notices() -> Vec<String> {
    let state = "CASE WHEN n < 4800 THEN 1 WHEN n < 4900 THEN 2 ELSE 0 END";
    let at = "NOW - INTERVAL (5000 - n) * 16 SECOND";
    let (endpoint, event) = (id("015", "(n % 50)"), id("016", "n"));
    vec![
        format!(
            "INSERT INTO webhook_endpoints (id, slot, url, topics, secret_sealed, state, created_at, changed_at) \
             SELECT {}, n, CONCAT('https://hooks.example.com/', n), 'reservation.confirmed', '', 0, NOW, NOW FROM filling WHERE n < 50",
            id("015", "n")
        ),
        format!(
            "INSERT INTO webhook_deliveries (endpoint_id, event_id, topic, body, state, due_at, created_at, changed_at) \
             SELECT {endpoint}, {event}, 'reservation.confirmed', '{{}}', {state}, {at}, {at}, {at} FROM filling WHERE n < 5000"
        ),
        format!(
            "INSERT INTO mails (id, kind, user_id, reference, state, due_at, created_at, changed_at) \
             SELECT {}, 0, {}, {}, {state}, {at}, {at}, {at} FROM filling WHERE n < 5000",
            id("017", "n"),
            user("n"),
            reservation("n")
        ),
        format!(
            "INSERT INTO user_tokens (hash, user_id, kind, created_at, expires_at) \
             SELECT UNHEX(LPAD(HEX(n), 64, '0')), {}, n % 2, {at}, {at} + INTERVAL 1 HOUR FROM filling WHERE n < 5000",
            user("n")
        ),
    ]
}

/// What was warm in the last day: two openings of each concert, of which the last twenty are still to be loaded, and what each
/// of three instances had in memory. A few more instances have come and gone.
fn warmth() -> Vec<String> {
    let opens = "NOW - INTERVAL (4000 - n) * 16 SECOND";
    let instance = |n: &str| id("018", n);
    vec![
        format!(
            "INSERT INTO instances (id, name, started_at, seen_at) \
             SELECT {}, CONCAT('host ', n), NOW - INTERVAL (301 - n) MINUTE, NOW - INTERVAL (300 - n) * 10 SECOND FROM filling WHERE n < 300",
            instance("n")
        ),
        format!(
            "INSERT INTO warmings (concert_id, occasion, opens_at, state, due_at, fence, round, attempts, filled_at, last_error, changed_at) \
             SELECT {}, n % 2, {opens}, n < 3980, {opens} - INTERVAL 180 SECOND, 1, n < 3980, 0, IF(n < 3980, {opens}, NULL), '', {opens} \
             FROM filling WHERE n < 4000",
            concert("(n DIV 2)")
        ),
        format!(
            "INSERT INTO warm_memories (concert_id, instance_id, since, kept_until) \
             SELECT {}, {}, {opens}, {opens} + INTERVAL 15 MINUTE FROM filling WHERE n < 4000",
            concert("(n DIV 3)"),
            instance("(297 + n % 3)")
        ),
    ]
}

/// The optimizer's statistics, brought up to date.
pub async fn analyze(sql: &mut MySqlConnection, tables: &[String]) {
    let statement = format!("ANALYZE TABLE {}", tables.join(", "));
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(sql).await.expect("statistics");
}

fn people() -> Vec<String> {
    vec![
        format!(
            "INSERT INTO users (id, email, name, password_hash, role, created_at) SELECT {}, \
             CONCAT('crowd', n, '@example.com'), 'A Buyer', '', 0, NOW - INTERVAL (5000 - n) HOUR \
             FROM filling WHERE n < {USERS}",
            user("n")
        ),
        format!(
            "INSERT INTO session_revocations (id, session_id, user_id, created_at, expires_at) SELECT {}, {}, {}, \
             NOW - INTERVAL (4000 - n) * 20 SECOND, NOW - INTERVAL (4000 - n) * 20 SECOND + INTERVAL 21 HOUR \
             FROM filling WHERE n < 4000",
            id("010", "n"),
            id("011", "n"),
            user("n")
        ),
    ]
}

fn catalogue() -> Vec<String> {
    let opens =
        "IF(n < 1960, NOW - INTERVAL 60 DAY - INTERVAL (2000 - n) HOUR, NOW + INTERVAL 10 DAY + INTERVAL n HOUR)";
    vec![
        format!(
            "INSERT INTO venues (id, name, city, layout, seats_total, created_at) \
             SELECT {}, CONCAT('Hall ', n), 'Busan', '[]', 100, NOW - INTERVAL 900 DAY FROM filling WHERE n < 300",
            id("002", "n")
        ),
        format!(
            "INSERT INTO concerts (id, venue_id, title, artist, description, booking_opens_at, booking_closes_at, \
             seat_limit_per_buyer, grades, first_performance_at, price_from, queue_order, draw_commitment, created_at) \
             SELECT {}, {}, CONCAT('Night ', n), CONCAT('Band ', n % 700), 'Loud.', {opens}, {opens} + INTERVAL 20 DAY, 4, \
             '[]', {opens} + INTERVAL 40 DAY, 10000, 0, '', {opens} - INTERVAL 30 DAY FROM filling WHERE n < {CONCERTS}",
            concert("n"),
            id("002", "(n % 300)")
        ),
        format!(
            "INSERT INTO performances (id, concert_id, starts_at, seats_total) SELECT {}, {}, \
             NOW - INTERVAL (4000 - n) HOUR, 100 FROM filling WHERE n < 4000",
            performance("n"),
            concert("(n DIV 2)")
        ),
    ]
}

/// Of five passes one was never ended but expired, and the last twenty are live.
fn line() -> Vec<String> {
    vec![
        format!(
            "INSERT INTO queue_sales (concert_id, admit_per_second, max_active, claim_secs, session_secs, seed_sealed, issued) \
             SELECT {}, 100, 1000, 60, 600, '', 6 FROM filling WHERE n < {CONCERTS}",
            concert("n")
        ),
        format!(
            "INSERT INTO queue_passes (id, concert_id, user_id, arrival, is_live, expires_at, ended_at, created_at) \
             SELECT {}, {}, {}, n DIV 1960, IF(n % 5 = 0 OR n >= 9980, 1, NULL), \
             IF(n >= 9980, NOW + INTERVAL 10 MINUTE, NOW - INTERVAL (10000 - n) MINUTE), \
             IF(n % 5 = 0 OR n >= 9980, NULL, NOW - INTERVAL (10001 - n) MINUTE), NOW - INTERVAL (10010 - n) MINUTE FROM filling",
            id("012", "n"),
            concert("(n % 1960)"),
            user("(n % 5000)")
        ),
    ]
}

/// Lines of 400 sales, as they were while Redis was away, with twenty ranks each.
fn line_in_mysql() -> Vec<String> {
    let of_sale = concert("(n % 400)");
    vec![
        format!(
            "INSERT INTO queue_places (concert_id, arrival, user_id, has_left) \
             SELECT {of_sale}, n DIV 400, {}, n % 11 = 0 FROM filling WHERE n < 8000",
            user("(n % 5000)")
        ),
        format!(
            "INSERT INTO queue_lines (concert_id, epoch, issued, serving, amnesty_by) \
             SELECT {of_sale}, 2, 20, 10, NOW FROM filling WHERE n < 400"
        ),
        format!(
            "INSERT INTO queue_ranks (concert_id, epoch, place, state, ends_at, seq) \
             SELECT {of_sale}, 2, n DIV 400, IF(n < 4000, 1 + n DIV 400 % 5, 6 + n DIV 400 % 3), \
             IF(n < 1200, NOW + INTERVAL 1 MINUTE, NULL), IF(n < 4000 OR n DIV 400 % 3 = 2, NULL, n DIV 400) \
             FROM filling WHERE n < 8000"
        ),
    ]
}

/// Of concerts of which nothing was sold; the last five are not finished.
fn cancellations() -> Vec<String> {
    vec![format!(
        "INSERT INTO concert_cancellations (concert_id, operator_id, state, requested_at, finished_at) SELECT {}, {}, \
         n < 395, NOW - INTERVAL (400 - n) HOUR, IF(n < 395, NOW - INTERVAL (400 - n) HOUR + INTERVAL 1 MINUTE, NULL) \
         FROM filling WHERE n < 400",
        concert("(n + 1000)"),
        user("(n % 7)")
    )]
}

/// Ten holds of each of 500 buyers, each of two seats, in performances of a hundred. Of five holds three were paid, one was released and one expired;
/// the last twenty are live.
fn holds() -> Vec<String> {
    let state = "CASE WHEN n >= 4980 THEN 0 WHEN n % 5 < 3 THEN 1 WHEN n % 5 = 3 THEN 2 ELSE 0 END";
    let changed = "NOW - INTERVAL (4999 - n) * 600 SECOND";
    let expires = "IF(n >= 4980, NOW + INTERVAL 5 MINUTE, NOW - INTERVAL (4999 - n) * 600 SECOND)";
    let of_seat = |text: &str| text.replace("(4999 - n)", "(4999 - n DIV 2)").replace("n >= 4980", "n DIV 2 >= 4980");
    vec![
        format!(
            "INSERT INTO holds (id, user_id, concert_id, performance_id, state, seat_count, amount, expires_at, \
             created_at, changed_at) SELECT {}, {}, {}, {}, {state}, 2, 20000, {expires}, {changed} - INTERVAL 5 MINUTE, \
             {changed} FROM filling WHERE n < 5000",
            hold("n"),
            user("(n % 500)"),
            concert("(n DIV 100)"),
            performance("(n DIV 50)")
        ),
        format!(
            "INSERT INTO hold_seats (hold_id, seat_no, label, grade, price) \
             SELECT {}, n % 100, CONCAT('A-1-', n % 100), 'R', 10000 FROM filling",
            hold("(n DIV 2)")
        ),
        format!(
            "INSERT INTO seats (performance_id, seat_no, label, grade, price, hold_id, held_until, reservation_id) \
             SELECT {}, n % 100, CONCAT('A-1-', n % 100), 'R', 10000, \
             IF(n DIV 2 >= 4980 OR n DIV 2 % 5 = 4, {}, NULL), IF(n DIV 2 >= 4980 OR n DIV 2 % 5 = 4, {}, NULL), \
             IF(n DIV 2 < 4980 AND n DIV 2 % 5 < 3, {}, NULL) FROM filling",
            performance("(n DIV 100)"),
            hold("(n DIV 2)"),
            of_seat(expires),
            reservation("(n DIV 2)")
        ),
    ]
}

/// What the paid holds became.
fn sales() -> Vec<String> {
    let changed = "NOW - INTERVAL (4999 - n) * 600 SECOND";
    vec![
        format!(
            "INSERT INTO reservations (id, hold_id, user_id, concert_id, performance_id, payment_id, state, seat_count, \
             amount, created_at, paid_at, changed_at) SELECT {}, {}, {}, {}, {}, {}, 1, 2, 20000, {changed}, {changed}, {changed} \
             FROM filling WHERE n < 4980 AND n % 5 < 3",
            reservation("n"),
            hold("n"),
            user("(n % 500)"),
            concert("(n DIV 100)"),
            performance("(n DIV 50)"),
            payment("n")
        ),
        format!(
            "INSERT INTO reservation_seats (reservation_id, seat_no, performance_id, label, grade, price, ticket_code, is_live) \
             SELECT {}, n % 100, {}, CONCAT('A-1-', n % 100), 'R', 10000, LPAD(HEX(n), 26, '0'), 1 \
             FROM filling WHERE n DIV 2 < 4980 AND n DIV 2 % 5 < 3",
            reservation("(n DIV 2)"),
            performance("(n DIV 100)")
        ),
        format!(
            "INSERT INTO payments (id, user_id, method, state, subject_kind, subject_id, amount, created_at, changed_at) \
             SELECT {}, {}, 0, 1, 0, {}, 20000, {changed}, {changed} FROM filling WHERE n < 4980 AND n % 5 < 3",
            payment("n"),
            user("(n % 500)"),
            hold("n")
        ),
    ]
}

/// Everybody charged 300,000; each paid hold took 20,000 of it.
fn money() -> Vec<String> {
    let changed = "NOW - INTERVAL (4999 - n) * 600 SECOND";
    let (paid, purchases) = ("n < 4980 AND n % 5 < 3", "IF(n < 500 AND n % 5 < 3, IF(n < 480, 10, 9), 0)");
    let entry =
        "INSERT INTO ledger_entries (transaction_id, line, account, user_id, amount, user_entry, balance_after)";
    let (charge, purchase) = (id("008", "n"), id("009", "n"));
    vec![
        format!(
            "INSERT INTO points_accounts (user_id, balance, entries, changed_at) \
             SELECT {}, 300000 - 20000 * {purchases}, 1 + {purchases}, {changed} FROM filling WHERE n < {USERS}",
            user("n")
        ),
        format!(
            "INSERT INTO ledger_transactions (id, kind, reference, created_at) \
             SELECT {charge}, 0, {}, {changed} FROM filling WHERE n < {USERS}",
            id("00a", "n")
        ),
        format!(
            "INSERT INTO ledger_transactions (id, kind, reference, created_at) \
             SELECT {purchase}, 1, {}, {changed} FROM filling WHERE {paid}",
            payment("n")
        ),
        format!("{entry} SELECT {charge}, 0, 0, {}, 300000, 1, 300000 FROM filling WHERE n < {USERS}", user("n")),
        format!("{entry} SELECT {charge}, 1, 1, NULL, -300000, NULL, NULL FROM filling WHERE n < {USERS}"),
        format!(
            "{entry} SELECT {purchase}, 0, 0, {}, -20000, n DIV 500 + 2, 300000 - 20000 * (n DIV 500 + 1) \
             FROM filling WHERE {paid}",
            user("(n % 500)")
        ),
        format!("{entry} SELECT {purchase}, 1, 2, NULL, 20000, NULL, NULL FROM filling WHERE {paid}"),
    ]
}

fn platform() -> Vec<String> {
    vec![
        format!(
            "INSERT INTO idempotency_keys (user_id, request_key, fingerprint, status, body, created_at) \
             SELECT {}, CONCAT('key-', n), UNHEX(REPEAT('ab', 32)), 201, '{{}}', NOW - INTERVAL (8000 - n) * 11 SECOND \
             FROM filling WHERE n < 8000",
            user("(n % 5000)")
        ),
        format!(
            "INSERT INTO outbox (id, topic, aggregate_id, version, payload, state, attempts, due_at, created_at) \
             SELECT {}, 'reservation.confirmed', {}, 1, '{{}}', IF(n < 7990, 1, 0), 1, NOW - INTERVAL (8000 - n) * 11 SECOND, \
             NOW - INTERVAL (8000 - n) * 11 SECOND FROM filling WHERE n < 8000",
            id("013", "n"),
            reservation("n")
        ),
    ]
}

/// Changes of a day that caches have heard of.
fn changes() -> Vec<String> {
    vec![
        "INSERT INTO cache_changes (change_no, cache, subject, created_at) \
         SELECT n + 1, 'concerts', CONCAT('concert-', n % 50), NOW - INTERVAL (4000 - n) * 22 SECOND FROM filling WHERE n < 4000"
            .to_owned(),
        "UPDATE cache_state SET change_no = 4000 WHERE id = 1".to_owned(),
    ]
}
