//! Everybody asks for the same pages at the same instant: the database hears of it once.
//!
//! What was loaded is counted by MySQL itself, for the test's own database, and by the names of units in the metrics of
//! processes, which are theirs alone. `FRONTROW_STAMPEDE` sets how many clients come.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;
use sqlx::{Executor as _, MySqlConnection};

use crate::cache::{ALONE, counting, read_by};
use crate::support::arena::Plan;
use crate::support::proxy::sabotage::Sabotage;
use crate::support::{Api, Process, Reply, Sale, World, eventually};

/// What everybody asks for, by the statements that load it. A concert takes two of them.
const LOADS: [(&str, &str); 4] = [
    ("catalog.get_concert", "%`draw_commitment` FROM `concerts`%"),
    ("catalog.get_concert", "%FROM `performances` WHERE `concert_id` = ?%"),
    ("catalog.get_performance", "%SELECT `concert_id` FROM `performances` WHERE `id` = ?%"),
    ("catalog.get_seat_map", "%SELECT `v` . `layout` , `c` . `grades` FROM%"),
];
/// The guard of a concert's statement.
const CONCERT: (&str, &str) = ("c.draw_commitment FROM concerts c", "WHERE c.id = ?");
/// However busy the machine is, nobody gives up: what is counted here is loads, not seconds.
const PATIENT: [(&str, &str); 6] = [
    ("FRONTROW__DATABASE__ACQUIRE_TIMEOUT_MS", "60000"),
    ("FRONTROW__DATABASE__UNIT_TIMEOUT_MS", "60000"),
    ("FRONTROW__HTTP__REQUEST_TIMEOUT_MS", "60000"),
    ("FRONTROW__REDIS__COMMAND_TIMEOUT_MS", "10000"),
    ("FRONTROW__CACHE__WAIT_MS", "60000"),
    ("FRONTROW__CACHE__NEWS_MAX_MS", "60000"),
];
/// Nor does a lease end while its holder waits for the processor; where a holder dies it must.
const LASTING: (&str, &str) = ("FRONTROW__CACHE__LEASE_MS", "60000");

fn clients() -> usize {
    std::env::var("FRONTROW_STAMPEDE").map_or(200, |text| text.parse().expect("FRONTROW_STAMPEDE is a number"))
}

fn plan() -> Plan {
    let rows: Vec<_> = (1..=40).map(|row| json!({"name": row.to_string(), "seats": 50})).collect();
    let sections = json!([{"code": "A", "name": "Hall", "rows": rows}]);
    // Far from opening, so that no line reads it either.
    Plan { sections, opens_in_secs: 7 * 24 * 3600, ..Plan::default() }
}

fn paths(sale: &Sale) -> [String; 4] {
    let (concert, evening) = (&sale.concert, &sale.performances[0]);
    [
        format!("/v1/concerts/{concert}"),
        format!("/v1/concerts/{concert}/performances"),
        format!("/v1/performances/{evening}"),
        format!("/v1/performances/{evening}/seat-map"),
    ]
}

/// A sale made by an instance that then ends, and nothing in Redis.
async fn cold_sale(world: &World) -> Sale {
    let maker = world.instance().await;
    let sale = Sale::new(&Api::over(&[&maker]), &maker, &plan()).await;
    maker.stop().await;
    world.wipe_redis().await;
    sale
}

/// So many clients of these instances in turn, each with every page, at once. An answer that did not come is none.
async fn storm(instances: &[Api], sale: &Sale, clients: usize) -> Vec<Option<Reply>> {
    let paths = Arc::new(paths(sale));
    let asking = (0..clients).map(|client| {
        let (api, paths) = (instances[client % instances.len()].clone(), paths.clone());
        tokio::spawn(async move {
            let mut replies = Vec::new();
            // Not all of them begin with the same page.
            for turn in 0..paths.len() {
                let path = &paths[(client / instances_in_turn() + turn) % paths.len()];
                let reply = api.get(path).try_send().await.ok();
                // A connection that has waited for long may end as it is used again: whoever meets that asks once more.
                replies.push(match reply {
                    None => api.get(path).try_send().await.ok(),
                    reply => reply,
                });
            }
            replies
        })
    });
    join_all(asking).await.into_iter().flat_map(|replies| replies.expect("a client")).collect()
}

/// Instances of every storm here.
const fn instances_in_turn() -> usize {
    2
}

#[track_caller]
fn assert_served(replies: &[Option<Reply>]) {
    let refused = || replies.iter().filter(|reply| reply.as_ref().is_none_or(|reply| reply.status != 200));
    let outcomes: Vec<_> =
        refused().take(3).map(|reply| reply.as_ref().map(|reply| (reply.status, reply.body["code"].clone()))).collect();
    let count = refused().count();
    assert!(count == 0, "{count} of {} were not served: {outcomes:?}", replies.len());
}

/// How often each statement found its row in the world's database so far, by MySQL's own account, where it keeps one.
async fn loads(sql: &mut MySqlConnection) -> Option<Vec<u64>> {
    let mut counts = Vec::new();
    for (_, text) in LOADS {
        counts.push(read_by(sql, text).await?.0);
    }
    Some(counts)
}

/// By how much these have grown.
async fn loaded_since(before: Option<Vec<u64>>, sql: &mut MySqlConnection) -> Option<Vec<u64>> {
    Some(grown(&before?, &loads(sql).await?))
}

/// The same by the names of units, in the metrics of processes.
async fn units(instances: &[Api]) -> Vec<u64> {
    let mut counts = vec![0; LOADS.len()];
    for api in instances {
        let metrics = api.metrics().await;
        for (count, (name, _)) in counts.iter_mut().zip(LOADS) {
            let of_name = metrics.iter().filter(|(series, _)| {
                series.starts_with("frontrow_db_unit_seconds_count") && series.contains(&format!("name=\"{name}\""))
            });
            *count += of_name.map(|(_, count)| count).sum::<u64>();
        }
    }
    counts
}

fn grown(before: &[u64], after: &[u64]) -> Vec<u64> {
    before.iter().zip(after).map(|(before, after)| after - before).collect()
}

async fn two_processes(world: &World, extra: &[(&str, &str)]) -> (Vec<Process>, Vec<Api>) {
    let settings: Vec<(&str, &str)> = extra.iter().copied().chain([ALONE]).chain(PATIENT).collect();
    let (mut processes, mut apis) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let (process, base) = Process::serve(world, &settings).await;
        processes.push(process);
        apis.push(Api::at(vec![base]));
    }
    (processes, apis)
}

/// A crowd is served by one load of each key, counted by MySQL and by the instances.
async fn assert_one_load(world: &World, apis: &[Api], sale: &Sale) {
    let mut sql = world.sql().await;
    let (before, units_before) = (loads(&mut sql).await, units(apis).await);
    assert_served(&storm(apis, sale, clients()).await);
    let counted = loaded_since(before, &mut sql).await;
    assert!(counted.as_ref().is_none_or(|counted| *counted == [1, 1, 1, 1]), "statements: {counted:?}");
    assert_eq!(grown(&units_before, &units(apis).await), [1, 1, 1, 1], "units, by name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_before_cold_caches_is_one_load() {
    let (servers, world) = counting(&[]).await;
    let sale = cold_sale(&world).await;
    let (processes, apis) = two_processes(&world, &[LASTING]).await;
    assert_one_load(&world, &apis, &sale).await;
    drop(processes);
    world.end(vec![]).await;
    servers.end().await;
}

/// The same where the guard is broken: it must be noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_lease_each_instance_loads() {
    let (servers, world) = counting(&[]).await;
    let sale = cold_sale(&world).await;
    let sabotage = Sabotage::of_lua("string.format('%.0f', math.max(last + 1", "if left > 0 then", "if false then");
    let proxy = world.redis_sabotaged(&sabotage).await;
    let (_, redis) = world.redis_through(&proxy);
    let slow = Sabotage::of_sql(CONCERT.0, CONCERT.1, "WHERE c.id = ? AND SLEEP(1) = 0");
    let slowly = world.mysql_sabotaged(&slow).await;
    let (_, mysql) = world.mysql_through(&slowly);
    let settings = [("FRONTROW__REDIS__URL", redis.as_str()), ("FRONTROW__DATABASE__URL", mysql.as_str())];
    let (processes, apis) = two_processes(&world, &settings).await;
    let before = units(&apis).await;
    storm(&apis, &sale, 50).await;
    let grown = grown(&before, &units(&apis).await);
    assert!(sabotage.hits() > 0 && grown[0] > 1, "nobody noticed that there is no lease: {grown:?}");
    drop(processes);
    world.end(vec![]).await;
    servers.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_of_three_seconds_is_one_load() {
    let (servers, world) = counting(&[]).await;
    let sale = cold_sale(&world).await;
    let slow = Sabotage::of_sql(CONCERT.0, CONCERT.1, "WHERE c.id = ? AND SLEEP(3) = 0");
    let proxy = world.mysql_sabotaged(&slow).await;
    let (name, url) = world.mysql_through(&proxy);
    let (processes, apis) = two_processes(&world, &[(name, &url), LASTING]).await;
    assert_one_load(&world, &apis, &sale).await;
    assert!(slow.hits() > 0, "the load was not slow");
    drop(processes);
    world.end(vec![]).await;
    servers.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_killed_is_replaced_once() {
    let (servers, world) = counting(&[]).await;
    let sale = cold_sale(&world).await;
    let slow = Sabotage::of_sql(CONCERT.0, CONCERT.1, "WHERE c.id = ? AND SLEEP(3) = 0");
    let proxy = world.mysql_sabotaged(&slow).await;
    let (name, url) = world.mysql_through(&proxy);
    let (processes, apis) = two_processes(&world, &[(name, &url)]).await;
    let mut sql = world.sql().await;
    let (before, units_before) = (loads(&mut sql).await, units(&apis[1..]).await);
    let (_, served) = tokio::join!(storm(&apis[..1], &sale, clients() / 2), async {
        world.wait_until_running("SLEEP(3)").await;
        let crowd = tokio::spawn({
            let (api, sale) = (apis[1].clone(), sale.clone());
            async move { storm(&[api], &sale, clients() / 2).await }
        });
        processes[0].kill();
        crowd.await.expect("the crowd")
    });
    assert_served(&served);
    let counted = loaded_since(before, &mut sql).await;
    assert!(counted.iter().flatten().all(|count| *count <= 2), "{counted:?}");
    let by_survivor = grown(&units_before, &units(&apis[1..]).await);
    assert!(by_survivor.iter().all(|count| *count <= 1), "{by_survivor:?}");
    drop(processes);
    world.end(vec![]).await;
    servers.end().await;
}

/// The load cannot end while everybody is served: so nobody waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_aged_is_served_while_one_renews_it() {
    // However busy the machine is, news are not too late for it.
    let patient: Vec<(&str, &str)> = PATIENT.into_iter().chain([LASTING]).collect();
    let (servers, world) = counting(&patient).await;
    let sale = cold_sale(&world).await;
    let gate = Sabotage::of_sql(
        CONCERT.0,
        CONCERT.1,
        "WHERE c.id = ? AND GET_LOCK(CONCAT('gate ', DATABASE()), 50) + RELEASE_LOCK(CONCAT('gate ', DATABASE())) = 2",
    );
    let proxy = world.mysql_sabotaged(&gate).await;
    let (name, url) = world.mysql_through(&proxy);
    let one = world.instance_with(&[(name, &url)]).await;
    let two = world.instance_with(&[(name, &url)]).await;
    let apis = [Api::over(&[&one]), Api::over(&[&two])];
    let mut sql = world.sql().await;
    assert_served(&storm(&apis, &sale, 4).await);

    let before = loads(&mut sql).await;
    sql.execute("DO GET_LOCK(CONCAT('gate ', DATABASE()), 10)").await.expect("the gate");
    world.advance(Duration::from_secs(301));
    let replies = storm(&apis, &sale, clients()).await;
    assert_served(&replies);
    let is_marked = |reply: &&Reply| reply.header("warning").is_some();
    assert_eq!(replies.iter().flatten().filter(is_marked).count(), 0, "it is not too old yet");
    world.wait_until_running("gate").await;
    sql.execute("DO RELEASE_LOCK(CONCAT('gate ', DATABASE()))").await.expect("the gate opens");
    let fresh_until =
        |instance: &crate::support::Instance| instance.state.catalog.fresh_until(sale.concert.parse().expect("an id"));
    eventually("both to have the new value", || async {
        // Whoever did not load takes it over with the next read.
        storm(&apis, &sale, 2).await;
        [&one, &two].iter().all(|instance| fresh_until(instance) > Some(instance.state.clock.now())).then_some(())
    })
    .await;
    let counted = loaded_since(before, &mut sql).await;
    assert!(counted.as_ref().is_none_or(|counted| counted[..2] == [1, 1]), "renewed once for both: {counted:?}");
    world.end(vec![one, two]).await;
    servers.end().await;
}
