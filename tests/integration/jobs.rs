//! Scheduled work that two instances share: once when due, fenced, and never lost with its instance.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use frontrow::app::state::State;
use frontrow::platform::error::Problem;
use frontrow::platform::jobs::{Claim, Jobs, Work};
use tokio::sync::Notify;

use crate::support::{World, eventually};

const NAME: &str = "test.job";
const EVERY: u32 = 30;
const LEASE: u64 = 60;

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// The fences with which a job ran.
type Runs = Arc<Mutex<Vec<u64>>>;

fn work<F>(run: impl Fn(Claim) -> F + Send + Sync + 'static) -> Work
where
    F: Future<Output = Result<(), Problem>> + Send + 'static,
{
    Arc::new(move |claim| Box::pin(run(claim)))
}

fn counting(runs: &Runs) -> Work {
    let runs = runs.clone();
    work(move |claim| {
        let runs = runs.clone();
        async move {
            runs.lock().expect("no panic").push(claim.fence);
            Ok(())
        }
    })
}

/// The jobs of one instance, registered.
async fn jobs(state: &State, work: Work) -> Jobs {
    let jobs = Jobs::new(state.db.clone(), state.config.jobs.clone()).every(NAME, EVERY, work);
    jobs.register().await.expect("rows");
    jobs
}

/// What the row says: the fence, and the last result.
async fn row(world: &World, name: &str) -> (u64, Option<String>) {
    let query = sqlx::query_as("SELECT fence, last_result FROM jobs WHERE name = ?").bind(name);
    query.fetch_one(&mut world.sql().await).await.expect("a row")
}

async fn leased_until_micros(world: &World) -> Option<i64> {
    let query =
        "SELECT CAST(TIMESTAMPDIFF(MICROSECOND, '2000-01-01', leased_until) AS SIGNED) FROM jobs WHERE name = ?";
    sqlx::query_scalar(query).bind(NAME).fetch_one(&mut world.sql().await).await.expect("a row")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_due_job_runs_on_one_of_two_instances() {
    let world = World::new().await;
    let (one, two) = (world.services(&[]).await, world.state(&[]));
    let runs = Runs::default();
    let (here, there) = (jobs(&one, counting(&runs)).await, jobs(&two, counting(&runs)).await);
    for round in 1..=5 {
        tokio::join!(here.run_due(), there.run_due());
        // Each run has a greater fence than the one before, whoever ran it.
        assert_eq!(*runs.lock().expect("no panic"), (1..=round).collect::<Vec<u64>>());
        assert_eq!(row(&world, NAME).await, (round, Some("ok".to_owned())));
        world.advance(secs(u64::from(EVERY) - 5));
        tokio::join!(here.run_due(), there.run_due());
        assert_eq!(runs.lock().expect("no panic").len(), usize::try_from(round).expect("small"), "not due yet");
        world.advance(secs(6));
    }
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lapsed_lease_is_claimed_by_another_and_the_late_finisher_is_refused() {
    let world = World::new().await;
    let (one, two) = (world.services(&[]).await, world.state(&[]));
    let runs = Runs::default();
    let (here, there) = (jobs(&one, counting(&runs)).await, jobs(&two, counting(&runs)).await);
    let late = here.claim().await.expect("an answer").expect("the job is due");
    assert_eq!((late.name.as_str(), late.fence), (NAME, 1));
    world.advance(secs(LEASE - 2));
    assert!(there.claim().await.expect("an answer").is_none(), "the lease still holds");
    world.advance(secs(3));
    let next = there.claim().await.expect("an answer").expect("the lease has lapsed");
    assert_eq!(next.fence, 2);
    assert!(!here.finish(&late, "late").await.expect("an answer"), "an old fence ends nothing");
    assert_eq!(row(&world, NAME).await, (2, None));
    assert!(here.claim().await.expect("an answer").is_none(), "the lease is the other's");
    assert!(there.finish(&next, "in time").await.expect("an answer"));
    assert_eq!(row(&world, NAME).await, (2, Some("in time".to_owned())));
    assert!(!there.finish(&late, "late").await.expect("an answer"), "late is late");
    assert_eq!(row(&world, NAME).await.1.as_deref(), Some("in time"));
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fails_is_recorded_and_due_again() {
    let world = World::new().await;
    let one = world.services(&[]).await;
    let runs = Runs::default();
    let seen = runs.clone();
    let failing = work(move |claim| {
        let seen = seen.clone();
        async move {
            seen.lock().expect("no panic").push(claim.fence);
            match claim.fence {
                1 => panic!("of all things"),
                2 => Err(Problem::not_found("concert")),
                _ => Ok(()),
            }
        }
    });
    let healthy = Runs::default();
    let jobs = jobs(&one, failing).await.every("test.other", EVERY, counting(&healthy));
    jobs.register().await.expect("rows");
    for expected in ["of all things", "not_found", "ok"] {
        jobs.run_due().await;
        let (_, result) = row(&world, NAME).await;
        assert!(result.as_deref().is_some_and(|text| text.contains(expected)), "{result:?} says {expected}");
        world.advance(secs(u64::from(EVERY) + 1));
    }
    assert_eq!(*runs.lock().expect("no panic"), [1, 2, 3]);
    assert_eq!(healthy.lock().expect("no panic").len(), 3, "a failure does not hold up other jobs");
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_job_keeps_its_lease() {
    let world = World::with(&[("FRONTROW__JOBS__LEASE_SECS", "3")]).await;
    let (one, two) = (world.services(&[]).await, world.state(&[]));
    let gate = Arc::new(Notify::new());
    let long = {
        let gate = gate.clone();
        work(move |_| {
            let gate = gate.clone();
            async move {
                gate.notified().await;
                Ok(())
            }
        })
    };
    let (here, there) = (jobs(&one, long).await, jobs(&two, counting(&Runs::default())).await);
    let running = tokio::spawn(async move { here.run_due().await });
    let first = eventually("the claim", || leased_until_micros(&world)).await;
    eventually("a sign of life", || async { (leased_until_micros(&world).await? > first).then_some(()) }).await;
    assert!(there.claim().await.expect("an answer").is_none());
    gate.notify_one();
    running.await.expect("no panic");
    assert_eq!(row(&world, NAME).await, (1, Some("ok".to_owned())));
    assert_eq!(leased_until_micros(&world).await, None);
    world.end(Vec::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_another_version_is_left_to_its_instances() {
    let world = World::new().await;
    let (old, new) = (world.services(&[]).await, world.state(&[]));
    let runs = Runs::default();
    let here = jobs(&old, counting(&runs)).await;
    let newer =
        Jobs::new(new.db.clone(), new.config.jobs.clone()).every("test.newer", EVERY, counting(&Runs::default()));
    newer.register().await.expect("rows");
    // The job that is not known here has been due longest.
    let earlier = "UPDATE jobs SET due_at = due_at - INTERVAL 1 HOUR WHERE name = 'test.newer'";
    sqlx::query(earlier).execute(&mut world.sql().await).await.expect("a row");
    here.run_due().await;
    assert_eq!(*runs.lock().expect("no panic"), [1], "what is known runs");
    assert!(here.claim().await.expect("an answer").is_none());
    assert_eq!(row(&world, "test.newer").await, (0, None), "what is not known is not leased");
    let claimed = newer.claim().await.expect("an answer").expect("its own instance gets it");
    assert_eq!((claimed.name.as_str(), claimed.fence), ("test.newer", 1));
    let none = Jobs::new(new.db.clone(), new.config.jobs.clone());
    assert!(none.claim().await.expect("an answer").is_none(), "who knows no job claims none");
    world.end(Vec::new()).await;
}
