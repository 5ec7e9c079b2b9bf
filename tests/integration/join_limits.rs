//! How often one user and one address may join: who is over it is told when to come again, and nobody else notices.

use std::time::Duration;

use crate::support::arena::Plan;
use crate::support::{Api, Buyer, Call, Reply, Sale, World};

/// Joins of one user within a minute.
const PER_USER: usize = 12;
/// Joins from one address within a minute.
const PER_ADDRESS: usize = 6;

fn tickets(sale: &Sale) -> String {
    format!("/v1/concerts/{}/queue/tickets", sale.concert)
}

fn join<'a>(api: &'a Api, sale: &Sale, buyer: &Buyer) -> Call<'a> {
    api.post(&tickets(sale)).bearer(&buyer.token)
}

/// Asserts a refusal by this limit with all that it has to say, and gives for how long.
#[track_caller]
pub fn refused_by(reply: Reply, limit: &str, quota: usize) -> Duration {
    let secs: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=60).contains(&secs));
    assert_eq!(reply.header("ratelimit"), Some(format!("\"{limit}\";r=0;t={secs}").as_str()));
    assert_eq!(reply.header("ratelimit-policy"), Some(format!("\"{limit}\";q={quota};w=60").as_str()));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    reply.expect_problem(429, "rate_limited");
    Duration::from_secs(secs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_and_leaves_in_a_loop_is_told_to_wait() {
    let per_user = PER_USER.to_string();
    let world = World::with(&[("FRONTROW__LIMITS__JOINS_PER_USER_PER_MINUTE", &per_user)]).await;
    let one = world.instance().await;
    let api = Api::over(&[&one]);
    let sale = Sale::new(&api, &one, &Plan::default()).await;
    let (hasty, other) = (Buyer::new(&api).await, Buyer::new(&api).await);
    let before = api.metric("frontrow_rate_limited_total{limit=\"joins-per-user\"}").await;
    let mut joins = 0;
    let wait = loop {
        let reply = join(&api, &sale, &hasty).send().await;
        if reply.status == 429 {
            break refused_by(reply, "joins-per-user", PER_USER);
        }
        if reply.status == 503 {
            // The line is being made: this try counts as well.
            reply.expect_problem(503, "unavailable");
        } else {
            assert!(matches!(reply.status, 200 | 201), "{reply:?}");
            let ticket = reply.body["ticket"].as_str().expect("a ticket").to_owned();
            let left = api.delete(&format!("{}/me", tickets(&sale))).bearer(&hasty.token).ticket(&ticket).send().await;
            assert_eq!(left.status, 204);
        }
        joins += 1;
        assert!(joins < 50 * PER_USER, "nobody is told to wait");
    };
    assert!(joins >= PER_USER, "refused after {joins}");
    assert!(api.metric("frontrow_rate_limited_total{limit=\"joins-per-user\"}").await > before);
    // Others join as before; this one when the time has come.
    other.join(&api, &sale).await;
    world.advance(wait);
    hasty.join(&api, &sale).await;
    world.end(vec![one]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_limited_where_it_is_not_exempt() {
    let per_address = PER_ADDRESS.to_string();
    let world = World::with(&[("FRONTROW__LIMITS__JOINS_PER_ADDRESS_PER_MINUTE", &per_address)]).await;
    let exempt = world.instance().await;
    let strict = world.instance_with(&[("FRONTROW__LIMITS__EXEMPT_NETWORKS", "")]).await;
    let behind = world
        .instance_with(&[
            ("FRONTROW__LIMITS__TRUSTED_PROXIES", "127.0.0.0/8"),
            ("FRONTROW__LIMITS__EXEMPT_NETWORKS", "203.0.113.0/24"),
        ])
        .await;
    let api = Api::over(&[&exempt]);
    let sale = Sale::new(&api, &exempt, &Plan::default()).await;
    // By then the line is there on every instance.
    let crowd = Buyer::many(&exempt.state, 4 * u32::try_from(PER_ADDRESS).expect("few")).await;
    for buyer in &crowd {
        buyer.join(&api, &sale).await;
    }

    // Many users at one address, who say that they are elsewhere: nobody asked them.
    let api = Api::over(&[&strict]);
    let mut joined = 0;
    let wait = loop {
        let from = format!("198.51.100.{joined}");
        let buyer = &crowd[joined % crowd.len()];
        let reply = join(&api, &sale, buyer).header("x-forwarded-for", &from).send().await;
        if reply.status == 429 {
            break refused_by(reply, "joins-per-address", PER_ADDRESS);
        }
        reply.expect(200);
        joined += 1;
        assert!(joined < 50 * PER_ADDRESS, "nobody is told to wait");
    };
    assert!(joined >= PER_ADDRESS, "refused after {joined}");
    world.advance(wait);
    join(&api, &sale, &crowd[0]).send().await.expect(200);

    // Behind a trusted proxy each client has its own address, and what is exempt is exempt.
    let api = Api::over(&[&behind]);
    let from = |client: &str| join(&api, &sale, &crowd[0]).header("x-forwarded-for", &format!("203.0.113.9, {client}"));
    for turn in 0..2 * PER_ADDRESS {
        from(&format!("2001:db8:{turn}::1")).send().await.expect(200);
        from("203.0.113.7").send().await.expect(200);
    }
    let mut joined = 0;
    loop {
        // One network of IPv6 is one address.
        let reply = from(&format!("2001:db8:ffff:ffff::{joined}")).send().await;
        if reply.status == 429 {
            refused_by(reply, "joins-per-address", PER_ADDRESS);
            break;
        }
        reply.expect(200);
        joined += 1;
        assert!(joined < 50 * PER_ADDRESS, "nobody is told to wait");
    }
    assert!(joined >= PER_ADDRESS, "refused after {joined}");
    world.end(vec![exempt, strict, behind]).await;
}
