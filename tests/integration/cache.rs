//! The cache in two tiers: changes are seen everywhere, and nothing that is not whole and new enough is believed.

use bytes::Bytes;
use fred::interfaces::KeysInterface as _;
use fred::interfaces::LuaInterface as _;
use serde_json::json;
use sqlx::{Executor as _, MySqlConnection};

use crate::support::arena::Plan;
use crate::support::proxy::sabotage::Sabotage;
use crate::support::{Api, Reply, Sale, Servers, World, eventually};

/// Nobody else fills the cache.
pub const ALONE: (&str, &str) = ("FRONTROW__WARMER__ENABLED", "false");

pub fn plan() -> Plan {
    // Far from opening, so that no line reads the catalogue.
    Plan { opens_in_secs: 7 * 24 * 3600, ..Plan::default() }
}

pub async fn rename(api: &Api, sale: &Sale, title: &str) {
    let call = api.patch(&format!("/v1/admin/concerts/{}", sale.concert)).bearer(&sale.operator);
    assert_eq!(call.json(&json!({"title": title})).send().await.expect(200)["title"], title);
}

pub async fn page(api: &Api, sale: &Sale) -> Reply {
    api.get(&format!("/v1/concerts/{}", sale.concert)).send().await
}

pub async fn title(api: &Api, sale: &Sale) -> String {
    page(api, sale).await.expect(200)["title"].as_str().expect("a title").to_owned()
}

/// A world on servers of its own: they have room to count every statement.
pub async fn counting(extra: &[(&str, &str)]) -> (Servers, World) {
    let servers = Servers::start().await;
    let settings: Vec<(&str, &str)> = extra.iter().copied().chain([ALONE]).collect();
    let world = World::on(&servers.mysql_url(), &servers.redis_url(), &settings).await;
    (servers, world)
}

/// Rows that were read by statements like this in the world's database so far, and how often they were prepared or run.
/// MariaDB does not count prepared statements.
pub async fn read_by(sql: &mut MySqlConnection, text: &str) -> Option<(u64, u64)> {
    let version: String = sqlx::query_scalar("SELECT VERSION()").fetch_one(&mut *sql).await.expect("a version");
    if version.contains("Maria") {
        return None;
    }
    let counts = "SELECT CAST(COALESCE(SUM(sum_rows_sent), 0) AS UNSIGNED), CAST(COALESCE(SUM(count_star), 0) AS UNSIGNED) \
         FROM performance_schema.events_statements_summary_by_digest \
         WHERE schema_name = DATABASE() AND digest_text LIKE ?";
    Some(sqlx::query_as(counts).bind(text).fetch_one(sql).await.expect("MySQL's counters"))
}

/// The statement that loads a concert.
const CONCERTS: &str = "%`draw_commitment` FROM `concerts`%";

/// How often a concert was loaded so far, where the server counts it.
pub async fn loads(sql: &mut MySqlConnection) -> Option<u64> {
    read_by(sql, CONCERTS).await.map(|(rows, _)| rows)
}

/// How often one was asked for.
async fn asked(sql: &mut MySqlConnection) -> Option<u64> {
    read_by(sql, CONCERTS).await.map(|(_, times)| times)
}

/// Asserts that a count has grown by so much, where there is one.
#[track_caller]
pub fn assert_grown(before: Option<u64>, after: Option<u64>, by: u64, what: &str) {
    if let Some((before, after)) = before.zip(after) {
        assert_eq!(after - before, by, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_seen_on_every_instance() {
    let world = World::with(&[ALONE]).await;
    let (one, two) = (world.instance().await, world.instance().await);
    let (first, second) = (Api::over(&[&one]), Api::over(&[&two]));
    let sale = Sale::new(&first, &one, &plan()).await;
    let evening = format!("/v1/performances/{}", sale.performances[0]);
    for (round, api) in [&first, &second, &first].into_iter().enumerate() {
        assert_eq!(title(&first, &sale).await, title(&second, &sale).await);
        for reader in [&first, &second] {
            reader.get("/v1/concerts").send().await.expect(200);
            reader.get(&evening).send().await.expect(200);
        }
        let name = format!("Night {round}");
        rename(api, &sale, &name).await;
        assert_eq!(title(api, &sale).await, name, "who changes it shows it at once");
        for reader in [&first, &second] {
            // Long before anything ages.
            eventually("the change", || async { (title(reader, &sale).await == name).then_some(()) }).await;
            let list = reader.get("/v1/concerts").send().await.expect(200);
            assert_eq!(list["items"][0]["title"], name);
            assert_eq!(reader.get(&evening).send().await.expect(200)["concert"]["title"], name);
        }
    }
    // A new concert is a change of the lists alone.
    let next = Sale::new(&second, &two, &plan()).await;
    eventually("the new concert", || async {
        let list = first.get("/v1/concerts").send().await.expect(200);
        (list["items"][0]["id"] == next.concert.as_str()).then_some(())
    })
    .await;
    let moved = json!({"starts_at": one.state.clock.now().plus(std::time::Duration::from_hours(24 * 60))});
    let call = first.post(&format!("/v1/admin/performances/{}/postponement", sale.performances[0]));
    let moved = call.bearer(&sale.operator).json(&moved).send().await.expect(200);
    eventually("the new date", || async {
        let shown = second.get(&evening).send().await.expect(200);
        (shown["starts_at"] == moved["starts_at"]).then_some(())
    })
    .await;
    world.end(vec![one, two]).await;
}

/// A gate in the statement that loads concerts: what it has read, it gives back only once the gate is open.
fn gated() -> std::sync::Arc<Sabotage> {
    Sabotage::of_sql(
        "c.draw_commitment FROM concerts c",
        "WHERE c.id = ?",
        "WHERE c.id = ? AND GET_LOCK(CONCAT('gate ', DATABASE()), 4) + RELEASE_LOCK(CONCAT('gate ', DATABASE())) = 2",
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_from_before_a_change_never_wins() {
    let world = World::with(&[ALONE]).await;
    let gate = gated();
    let proxy = world.mysql_sabotaged(&gate).await;
    let (name, url) = world.mysql_through(&proxy);
    let (one, slow) = (world.instance().await, world.instance_with(&[(name, &url)]).await);
    let (first, second) = (Api::over(&[&one]), Api::over(&[&slow]));
    let sale = Sale::new(&first, &one, &plan()).await;
    let mut sql = world.sql().await;
    sql.execute("DO GET_LOCK(CONCAT('gate ', DATABASE()), 10)").await.expect("the gate");
    let reading = tokio::spawn({
        let (api, sale) = (second.clone(), sale.clone());
        async move { title(&api, &sale).await }
    });
    world.wait_until_running("gate").await;
    rename(&first, &sale, "New").await;
    assert!(slow.state.caches.catch_up().await);
    sql.execute("DO RELEASE_LOCK(CONCAT('gate ', DATABASE()))").await.expect("the gate opens");
    assert_eq!(reading.await.expect("a reader"), "New", "it was asked for before, and answered after the change");
    assert_eq!(title(&second, &sale).await, "New");
    // Nor did it leave anything in Redis.
    let three = world.instance().await;
    assert_eq!(title(&Api::over(&[&three]), &sale).await, "New");
    assert!(gate.hits() > 0);
    world.end(vec![one, slow, three]).await;
}

/// The keys of concerts in Redis, with their values.
async fn kept(world: &World) -> Vec<(String, Bytes)> {
    let client = world.redis().await;
    let name =
        world.environment().iter().find(|(name, _)| name == "FRONTROW__REDIS__PREFIX").expect("a prefix").1.clone();
    let none: Vec<String> = Vec::new();
    let keys = "return redis.call('KEYS', ARGV[1])";
    let keys: Vec<String> =
        client.eval(keys, none, vec![format!("{name}:cache:{{concerts.*:value")]).await.expect("keys");
    let mut kept = Vec::new();
    for key in keys {
        kept.push((key.clone(), client.get::<Bytes, _>(key).await.expect("a value")));
    }
    kept
}

async fn overwrite(world: &World, key: &str, value: Vec<u8>) {
    let client = world.redis().await;
    let value = fred::types::Value::Bytes(value.into());
    let () = client.set(key, value, Some(fred::types::Expiration::PX(600_000)), None, false).await.expect("a write");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_whole_is_a_miss() {
    // However busy the machine is, Redis is not given up: what is not written then is not written again before it ages.
    let (servers, world) = counting(&[("FRONTROW__REDIS__COMMAND_TIMEOUT_MS", "10000")]).await;
    let one = world.instance().await;
    let sale = Sale::new(&Api::over(&[&one]), &one, &plan()).await;
    let written = eventually("the value in Redis", || async {
        assert_eq!(title(&Api::over(&[&one]), &sale).await, "A Concert");
        kept(&world).await.pop()
    });
    let (key, whole) = written.await;
    let mut sql = world.sql().await;
    let other_format = [&[9], &whole[1..]].concat();
    let other_values = [&whole[..1], &[99], &whole[2..]].concat();
    let text = String::from_utf8_lossy(&whole).into_owned();
    assert!(text.contains("A Concert"), "the value says what it is of");
    let forged: Vec<u8> = whole.iter().map(|byte| if *byte == b'A' { b'B' } else { *byte }).collect();
    let mut far_ahead = whole.to_vec();
    far_ahead[4..12].copy_from_slice(&[1; 8]);
    let cases: [(&str, Vec<u8>); 7] = [
        ("nothing", Vec::new()),
        ("noise", b"not a value of ours, and long enough to have a head of forty-eight bytes".to_vec()),
        ("cut off", whole[..whole.len() - 1].to_vec()),
        ("another format", other_format),
        ("another format of values", other_values),
        ("forged", forged),
        ("of another generation", far_ahead),
    ];
    for (what, bytes) in cases {
        overwrite(&world, &key, bytes).await;
        let before = loads(&mut sql).await;
        let fresh = world.instance().await;
        let api = Api::over(&[&fresh]);
        assert_eq!(title(&api, &sale).await, "A Concert", "{what}");
        assert_grown(before, loads(&mut sql).await, 1, &format!("{what}: loaded anew"));
        eventually("a value that is whole", || async {
            let (_, there) = kept(&world).await.pop()?;
            (there.len() == whole.len() && there[48..] == whole[48..]).then_some(())
        })
        .await;
        // Whoever comes next finds it.
        let before = loads(&mut sql).await;
        let next = world.instance().await;
        assert_eq!(title(&Api::over(&[&next]), &sale).await, "A Concert");
        assert_eq!(loads(&mut sql).await, before, "{what}: found in Redis");
        next.stop().await;
        fresh.stop().await;
    }
    world.end(vec![one]).await;
    servers.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_absent_is_remembered_for_a_moment() {
    let (servers, world) = counting(&[]).await;
    let (one, two) = (world.instance().await, world.instance().await);
    let (first, second) = (Api::over(&[&one]), Api::over(&[&two]));
    let mut sql = world.sql().await;
    let path = format!("/v1/concerts/{}", uuid::Uuid::now_v7());
    let before = asked(&mut sql).await;
    first.get(&path).send().await.expect_problem(404, "not_found");
    let after = asked(&mut sql).await;
    assert!(after.is_none() || after > before);
    for api in [&first, &first] {
        api.get(&path).send().await.expect_problem(404, "not_found");
    }
    assert_eq!(asked(&mut sql).await, after, "it is known");
    eventually("the other instance to know it", || async {
        let before = asked(&mut world.sql().await).await;
        second.get(&path).send().await.expect_problem(404, "not_found");
        let is_known = asked(&mut world.sql().await).await == before;
        is_known.then_some(())
    })
    .await;
    world.advance(std::time::Duration::from_secs(6));
    let before = asked(&mut sql).await;
    first.get(&path).send().await.expect_problem(404, "not_found");
    let after = asked(&mut sql).await;
    assert!(after.is_none() || after > before, "it is asked again");
    world.end(vec![one, two]).await;
    servers.end().await;
}
