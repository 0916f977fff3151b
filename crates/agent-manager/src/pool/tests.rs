//! What holds for the connections of a pool, one thing at a time.

use super::{
    counts::PoolView,
    fake::{End, World, call},
    *,
};
use crate::status::AgentState;
use portcullis_agent_protocol::HealthState;
use std::{future::Future, time::Duration};
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn bounds(min: usize, max: usize) -> PoolSettings {
    PoolSettings {
        min,
        max,
        idle: Duration::from_secs(60),
        ..PoolSettings::default()
    }
}

/// Runs on a runtime of its own, whose clock stands still while something is to be done.
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(test)
}

/// Many calls at once that all take this long.
async fn crowd(pool: &Pool<World>, calls: usize, takes: Duration) -> Vec<End> {
    let calls = (0..calls).map(|_| call(pool, takes, 10 * SECOND));
    futures::future::join_all(calls).await
}

#[test]
fn d23_connections_in_use_count_for_the_maximum() {
    run(async {
        let world = World::new(1, bounds(1, 3));
        let pool = world.pool();
        sleep(10 * MS).await;
        assert_eq!(world.open(0), 1);
        // A legacy agent works on one event at a time, so each of them wants a connection of its own.
        for _ in 0..5 {
            let ends = crowd(&pool, 20, SECOND).await;
            assert!(ends.iter().all(|end| *end == End::Answered), "{ends:?}");
        }
        assert_eq!((world.open(0), world.places(0)), (3, 3));
        world.check();
    });
}

#[test]
fn d23_connections_that_take_their_leave_count_for_the_maximum() {
    run(async {
        let world = World::new(1, bounds(2, 2));
        let pool = world.pool();
        sleep(10 * MS).await;
        let asking = crowd(&pool, 2, 5 * SECOND);
        let others = async {
            sleep(SECOND).await;
            for line in world.lines(0) {
                line.wear_out();
            }
            // No place is free before the last answers are there, and then there are two again.
            sleep(SECOND).await;
            assert_eq!((world.open(0), world.places(0)), (0, 2));
            let late = call(&pool, MS, SECOND).await;
            assert_eq!(late, End::TimedOut);
            let patient = call(&pool, MS, 5 * SECOND).await;
            assert_eq!(patient, End::Answered);
        };
        let (ends, ()) = tokio::join!(asking, others);
        assert_eq!(ends, [End::Answered; 2]);
        assert_eq!(world.open(0), 2);
        world.check();
    });
}

#[test]
fn d23_idle_connections_go_and_never_below_the_minimum() {
    run(async {
        let world = World::new(2, bounds(2, 5));
        let pool = world.pool();
        sleep(10 * MS).await;
        for _ in 0..4 {
            crowd(&pool, 40, SECOND).await;
        }
        assert_eq!((world.open(0), world.open(1)), (5, 5));
        // What is used stays.
        let long = call(&pool, 100 * SECOND, 200 * SECOND);
        let others = async {
            sleep(55 * SECOND).await;
            assert_eq!((world.open(0), world.open(1)), (5, 5));
            sleep(10 * SECOND).await;
            assert_eq!((world.open(0), world.open(1)), (2, 2));
            sleep(1000 * SECOND).await;
        };
        let (end, ()) = tokio::join!(long, others);
        assert_eq!(end, End::Answered);
        assert_eq!((world.open(0), world.open(1)), (2, 2));
        world.check();
        let shown = pool.shared.counts().status();
        assert_eq!((shown.created, shown.closed, shown.idle), (10, 6, 4));
    });
}

#[test]
fn d23_a_pool_is_ready_when_its_connections_are_there_and_not_before() {
    for (warm_up, needed) in [(true, 3), (false, 1)] {
        run(async {
            let world = World::new(
                2,
                PoolSettings {
                    warm_up,
                    ..bounds(3, 4)
                },
            );
            world.refuse(usize::MAX);
            let pool = world.pool();
            sleep(SECOND).await;
            world.attempts_end(0).await;
            world.attempts_end(1).await;
            assert_eq!(pool.agent.status().state, AgentState::Starting);
            assert!(matches!(
                pool.look(&Wanted::default(), Instant::now()),
                Look::Failed(_)
            ));
            // From now on one attempt succeeds at a time.
            world.refuse(0);
            world.hang(usize::MAX);
            sleep(10 * SECOND).await;
            let mut most = 0;
            while !pool.agent.status().is_connected() {
                assert!(most < needed, "not ready with {most}");
                world.hang(0);
                sleep(300 * MS).await;
                world.hang(usize::MAX);
                // An attempt that began before comes to its end.
                sleep(2 * MS).await;
                most = world.open(0).max(world.open(1));
            }
            assert!(most >= needed, "ready with {most}");
            assert_eq!(pool.agent.status().state, AgentState::Ready);
            // With all of them gone it is not.
            for replica in [0, 1] {
                for line in world.lines(replica) {
                    line.sever();
                }
            }
            sleep(SECOND).await;
            assert!(!pool.agent.status().is_connected());
            assert_eq!(pool.agent.status().state, AgentState::Unhealthy);
            world.check();
        });
    }
}

#[test]
fn d23_a_bound_on_outstanding_events_holds_and_calls_wait() {
    run(async {
        let bounds = PoolSettings {
            max_outstanding: 2,
            ..bounds(1, 2)
        };
        let world = World::new(1, bounds);
        let pool = world.pool();
        sleep(10 * MS).await;
        let calls = (0..6).map(|_| call(&pool, SECOND, 1500 * MS));
        let (ends, ()) = tokio::join!(futures::future::join_all(calls), async {
            sleep(500 * MS).await;
            assert_eq!(world.unanswered(), 4);
            let full = pool.look(&Wanted::default(), Instant::now());
            assert!(matches!(full, Look::Wait(Waits::Room)));
            assert!(!pool.has_open(&Wanted::default(), Instant::now()));
        });
        let of = |wanted: End| ends.iter().filter(|end| **end == wanted).count();
        // The last two were let in after a second, and were out of time.
        assert_eq!((of(End::Answered), of(End::TimedOut)), (4, 2));
        assert_eq!(world.unanswered(), 0);
        let shown = pool.shared.counts().status();
        assert!(shown.waits >= 2, "{shown:?}");
        assert!(shown.hit_rate().unwrap() < 1.0);
        world.check();
    });
}

#[test]
fn a_broken_connection_is_replaced_and_a_hung_one_is_found() {
    run(async {
        let world = World::new(1, bounds(2, 4));
        let pool = world.pool();
        sleep(SECOND).await;
        world.lines(0)[0].sever();
        sleep(100 * MS).await;
        assert_eq!(world.open(0), 2);
        let hung = world.lines(0)[0].clone();
        hung.mute();
        sleep(10 * SECOND).await;
        assert!(!hung.is_open());
        assert_eq!(world.open(0), 2);
        assert_eq!(pool.agent.status().reconnects, 2);
        world.check();
    });
}

#[test]
fn attempts_become_rarer_up_to_a_bound_and_do_not_keep_step() {
    let tried = |world: World, time| {
        run(async {
            world.refuse(usize::MAX);
            let _pool = world.pool();
            sleep(time).await;
            world.gaps()
        })
    };
    // What an attempt takes, and the clock's steps.
    let (between, network) = (3 * MS, 5 * SECOND);
    for (world, longest, time) in [
        (World::new(1, bounds(1, 1)), 250 * MS, 60 * SECOND),
        (World::remote(bounds(1, 1)), network, 600 * SECOND),
    ] {
        let gaps = tried(world, time);
        assert!(gaps[0] <= 10 * MS + between, "{gaps:?}");
        let within = |gap: &Duration| *gap >= longest / 2 && *gap <= longest + between;
        let (first, last) = gaps.split_at(gaps.len() / 2);
        assert!(first.iter().all(|gap| *gap <= longest + between));
        assert!(last.len() > 50 && last.iter().all(within), "{last:?}");
        let steps: std::collections::BTreeSet<_> = last.iter().collect();
        assert!(steps.len() > 10, "{last:?}");
    }
}

#[test]
fn an_event_of_a_known_request_goes_to_its_replica_or_nowhere() {
    run(async {
        let world = World::new(2, bounds(1, 1));
        let pool = world.pool();
        sleep(SECOND).await;
        let bound = Wanted {
            bound: Some(1),
            ..Wanted::default()
        };
        let now = Instant::now();
        for _ in 0..4 {
            let Look::Ready(member) = pool.look(&bound, now) else {
                panic!("no connection");
            };
            assert_eq!(member.replica, 1);
        }
        // It may end what it knows, and begins nothing.
        world.lines(1)[0].says(HealthState::Draining, false);
        sleep(MS).await;
        assert!(matches!(pool.look(&bound, now), Look::Ready(_)));
        for _ in 0..4 {
            let Look::Ready(member) = pool.look(&Wanted::default(), now) else {
                panic!("no connection");
            };
            assert_eq!(member.replica, 0);
        }
        assert_eq!(pool.agent.status().state, AgentState::Degraded);
        world.refuse(usize::MAX);
        world.lines(1)[0].sever();
        sleep(100 * MS).await;
        world.attempts_end(1).await;
        assert!(matches!(pool.look(&bound, now), Look::Failed(_)));
        assert!(!pool.has_open(&bound, now));
        assert!(pool.has_open(&Wanted::default(), now));
        let tried = Wanted {
            tried: SmallVec::from_slice(&[0]),
            ..Wanted::default()
        };
        assert!(!pool.has_open(&tried, now));
        let status = pool.agent.status();
        assert!(status.is_connected(), "one replica is enough");
        assert_eq!(status.replicas[1].connections, 0);
        assert!(status.replicas[1].last_error.is_some());
        assert_eq!(status.replicas[0].last_error, None);
        world.check();
    });
}

#[test]
fn a_pool_that_is_dropped_leaves_nothing() {
    run(async {
        let world = World::new(2, bounds(2, 4));
        let pool = world.pool();
        let agent = pool.agent.clone();
        sleep(SECOND).await;
        crowd(&pool, 20, MS).await;
        world.end();
        drop(pool);
        sleep(SECOND).await;
        assert_eq!((world.places(0), world.places(1)), (0, 0));
        let status = agent.status();
        assert_eq!(
            (status.wanted, status.connected, status.connections),
            (0, 0, 0)
        );
        let shown = status.pool;
        assert_eq!((shown.idle, shown.busy), (0, 0));
        assert_eq!(shown.created, shown.closed);
        assert!(
            shown.created >= 4 && shown.found + shown.waits >= 20,
            "{shown:?}"
        );
        world.check();
    });
}
