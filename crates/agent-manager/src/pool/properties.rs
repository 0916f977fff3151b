//! What holds for a pool whatever happens to its connections.

use super::{
    Pool, PoolSettings,
    fake::{End, World, call},
    tests::run,
};
use portcullis_agent_protocol::HealthState;
use portcullis_config::PoolBalance;
use proptest::{prelude::*, sample::Index};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::sleep;

/// Something that happens.
#[derive(Debug, Clone)]
enum Step {
    /// So many calls begin, which take so many milliseconds and have so many.
    Calls(usize, u64, u64),
    /// A call begins that is given up after so many milliseconds.
    GiveUp(u64),
    Sever(Index),
    WearOut(Index),
    Mute(Index),
    Says(Index, HealthState, bool),
    Refuse(usize),
    Hang(usize),
    Recover,
    /// So many milliseconds pass.
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let health = prop_oneof![
        Just(HealthState::Healthy),
        Just(HealthState::Degraded),
        Just(HealthState::Draining),
        Just(HealthState::Unhealthy),
    ];
    prop_oneof![
        5 => (1_usize..12, 0_u64..400, 1_u64..800).prop_map(|(n, t, l)| Step::Calls(n, t, l)),
        1 => (0_u64..100).prop_map(Step::GiveUp),
        2 => any::<Index>().prop_map(Step::Sever),
        2 => any::<Index>().prop_map(Step::WearOut),
        1 => any::<Index>().prop_map(Step::Mute),
        1 => (any::<Index>(), health, any::<bool>()).prop_map(|(i, h, p)| Step::Says(i, h, p)),
        1 => (1_usize..10).prop_map(Step::Refuse),
        1 => (1_usize..4).prop_map(Step::Hang),
        1 => Just(Step::Recover),
        4 => prop_oneof![0_u64..50, 50_u64..2000, 2000_u64..30_000].prop_map(Step::Pass),
    ]
}

fn settings() -> impl Strategy<Value = PoolSettings> {
    let balance = proptest::sample::select(&PoolBalance::ALL[..]);
    (1_usize..4, 0_usize..4, balance, 1_usize..6).prop_map(|(min, more, balance, most)| {
        PoolSettings {
            min,
            max: min + more,
            idle: Duration::from_secs(5),
            balance,
            warm_up: true,
            max_outstanding: most,
            maintenance: Duration::from_millis(500),
        }
    })
}

/// A line of the world, unless there is none.
fn pick(world: &World, replicas: usize, index: Index) -> Option<super::fake::FakeLine> {
    let lines: Vec<_> = (0..replicas).flat_map(|it| world.lines(it)).collect();
    (!lines.is_empty()).then(|| index.get(&lines).clone())
}

async fn happens(steps: Vec<Step>, replicas: usize, bounds: PoolSettings) {
    let world = World::new(replicas, bounds);
    let pool = Arc::new(world.pool());
    let (begun, ended) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let begin = |takes: u64, limit: u64| {
        begun.fetch_add(1, SeqCst);
        let (pool, ended) = (pool.clone(), ended.clone());
        tokio::spawn(async move {
            let (takes, limit) = (Duration::from_millis(takes), Duration::from_millis(limit));
            call(&pool, takes, limit).await;
            ended.fetch_add(1, SeqCst);
        })
    };
    for step in steps {
        match step {
            Step::Calls(count, takes, limit) => {
                for _ in 0..count {
                    drop(begin(takes, limit));
                }
            }
            Step::GiveUp(after) => {
                let call = begin(1000, 2000);
                sleep(Duration::from_millis(after)).await;
                call.abort();
                // Dropped before its end, which is one too.
                if call.await.is_err() {
                    ended.fetch_add(1, SeqCst);
                }
            }
            Step::Sever(index) => pick(&world, replicas, index)
                .iter()
                .for_each(|it| it.sever()),
            Step::WearOut(index) => pick(&world, replicas, index)
                .iter()
                .for_each(|it| it.wear_out()),
            Step::Mute(index) => pick(&world, replicas, index)
                .iter()
                .for_each(|it| it.mute()),
            Step::Says(index, health, paused) => {
                let line = pick(&world, replicas, index);
                line.iter().for_each(|it| it.says(health, paused));
            }
            Step::Refuse(attempts) => world.refuse(attempts),
            Step::Hang(attempts) => world.hang(attempts),
            Step::Recover => world.recover(),
            Step::Pass(time) => sleep(Duration::from_millis(time)).await,
        }
        world.check();
    }
    settles(&world, pool, replicas, bounds).await;
    assert_eq!(
        ended.load(SeqCst),
        begun.load(SeqCst),
        "calls that have not ended"
    );
}

/// When all is well again, all is as at the beginning: whatever was lost has been replaced, and whatever was too much has
/// gone.
async fn settles(world: &World, pool: Arc<Pool<World>>, replicas: usize, bounds: PoolSettings) {
    world.recover();
    sleep(Duration::from_secs(30)).await;
    world.recover();
    assert_eq!(world.unanswered(), 0);
    for replica in 0..replicas {
        assert_eq!(world.open(replica), bounds.min);
        assert_eq!(world.places(replica), bounds.min);
    }
    let status = pool.agent.status();
    assert!(status.is_connected());
    assert_eq!(status.connections, replicas * bounds.min);
    assert_eq!(
        (status.pool.idle, status.pool.busy),
        (status.connections, 0)
    );
    assert_eq!(
        status.pool.created - status.pool.closed,
        status.connections as u64
    );
    let end = call(&pool, Duration::ZERO, Duration::from_secs(1)).await;
    assert_eq!(end, End::Answered);
    world.check();
    world.end();
    let agent = pool.agent.clone();
    drop(pool);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(agent.status().connections, 0);
    for replica in 0..replicas {
        assert_eq!(world.places(replica), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Never above the maximum, and never below the minimum but by a loss; no connection has more events than it may; every
    /// call ends once, and nothing is left of it.
    #[test]
    fn d23_a_pool_keeps_its_bounds_whatever_happens(
        steps in prop::collection::vec(step(), 1..60),
        replicas in 1_usize..4,
        bounds in settings(),
    ) {
        run(happens(steps, replicas, bounds));
    }
}
