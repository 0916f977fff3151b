//! What balancers have in common, and the shares that each gives, with numbers drawn from a generator that always starts alike.

use super::{
    super::target::{Target, TargetState},
    *,
};
use pingora::upstreams::peer::HttpPeer;
use portcullis_config::{Hash, HashKey};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const DECAY: Duration = Duration::from_secs(10);

fn target(name: &str, weight: u32, now: Instant, is_late: bool) -> Arc<Target> {
    Arc::new(Target {
        address: Some(name.into()),
        weight,
        is_backup: false,
        peer: HttpPeer::new("127.0.0.1:1", false, String::new()),
        tag: None,
        decay: Some(DECAY),
        state: Arc::new(TargetState::new(now, is_late)),
    })
}

fn targets(weights: &[u32], now: Instant) -> Vec<Arc<Target>> {
    let targets = weights.iter().zip(1..);
    targets
        .map(|(weight, number)| target(&format!("10.0.0.{number}:80"), *weight, now, false))
        .collect()
}

fn hash(algorithm: HashAlgorithm) -> Balance {
    Balance::Hash(Hash {
        key: HashKey::Path,
        algorithm,
    })
}

fn all() -> [Balance; 6] {
    [
        Balance::RoundRobin,
        Balance::LeastRequests,
        Balance::P2cEwma { decay: DECAY },
        Balance::Random,
        hash(HashAlgorithm::Ring),
        hash(HashAlgorithm::Maglev),
    ]
}

/// A field of these targets of which some may be taken.
fn field<'a>(
    targets: &'a [Arc<Target>],
    usable: &'a dyn Fn(&Target) -> bool,
    now: Instant,
) -> Field<'a> {
    Field {
        targets,
        usable,
        slow_start: Some(Duration::from_secs(30)),
        now,
    }
}

/// How often each target is taken when nobody holds on to a request.
fn shares(balancer: &Balancer, field: &Field<'_>, picks: u32) -> Vec<f64> {
    let mut random = StdRng::seed_from_u64(7);
    let mut counts = vec![0_u32; field.targets.len()];
    for number in 0..picks {
        let key = stable_hash(&number.to_be_bytes());
        let draw = &mut |below| random.random_range(0..below);
        counts[balancer.pick(field, Some(key), draw).unwrap()] += 1;
    }
    let shares = counts
        .iter()
        .map(|count| f64::from(*count) / f64::from(picks));
    shares.collect()
}

fn assert_near(shares: &[f64], expected: &[f64], off: f64, what: &dyn std::fmt::Debug) {
    for (share, expected) in shares.iter().zip(expected) {
        assert!((share - expected).abs() < off, "{what:?}: {shares:?}");
    }
}

#[test]
fn weights_are_shares() {
    let now = Instant::now();
    let targets = targets(&[1, 2, 5], now);
    let field = field(&targets, &|_| true, now);
    for balance in all() {
        let balancer = Balancer::new(&balance, &targets);
        let shares = shares(&balancer, &field, 20_000);
        let expected = match balance {
            // Without requests to hold, whoever has the largest weight is always the least loaded.
            Balance::LeastRequests => [0.0, 0.0, 1.0],
            // The heavier one of each pair.
            Balance::P2cEwma { .. } => [0.0, 1.0 / 3.0, 2.0 / 3.0],
            _ => [0.125, 0.25, 0.625],
        };
        assert_near(&shares, &expected, 0.04, &balance);
    }
}

#[test]
fn who_must_not_be_taken_is_not() {
    let now = Instant::now();
    let targets = targets(&[1, 1, 1, 1], now);
    for balance in all() {
        let balancer = Balancer::new(&balance, &targets);
        let away = targets[1].clone();
        let usable = |target: &Target| target.address != away.address;
        let shares = shares(&balancer, &field(&targets, &usable, now), 8_000);
        assert_eq!(shares[1], 0.0, "{balance:?}");
        if balance != Balance::RoundRobin {
            // Who has its turn next in round robin takes the turn of who is away, too.
            let third = 1.0 / 3.0;
            assert_near(&shares, &[third, 0.0, third, third], 0.09, &balance);
        }
        let mut nobody = |_| 0;
        let none = field(&targets, &|_| false, now);
        assert_eq!(balancer.pick(&none, Some(1), &mut nobody), None);
        let balancer = Balancer::new(&balance, &[]);
        let empty = field(&[], &|_| true, now);
        assert_eq!(balancer.pick(&empty, Some(1), &mut nobody), None);
    }
}

#[test]
fn one_who_has_just_come_is_spared() {
    let now = Instant::now();
    for balance in [Balance::RoundRobin, Balance::Random] {
        let late = target("10.0.0.9:80", 1, now, true);
        let targets = [targets(&[1], now), vec![late]].concat();
        let balancer = Balancer::new(&balance, &targets);
        for (seconds, share) in [(1, 0.1), (15, 0.5), (29, 0.97), (31, 1.0)] {
            let field = field(&targets, &|_| true, now + Duration::from_secs(seconds));
            let late = shares(&balancer, &field, 8_000)[1];
            // Half of the turns are its, and it takes so many of them; of those that it passes some come back to it.
            let least = share / 2.0;
            let most = share / (1.0 + share) + 0.001;
            assert!(
                (least - 0.03..most + 0.03).contains(&late),
                "{seconds}: {late}"
            );
        }
        // That is over now.
        let field = field(&targets, &|_| true, now);
        assert_near(
            &shares(&balancer, &field, 8_000),
            &[0.5, 0.5],
            0.03,
            &balance,
        );
    }
}

#[test]
fn the_least_loaded_for_its_weight_is_taken() {
    let now = Instant::now();
    let targets = targets(&[1, 1, 4], now);
    let mut held = Vec::new();
    for expected in [2, 2, 2] {
        let field = field(&targets, &|_| true, now);
        let position = least_requests::pick(&field, &mut |_| 1).unwrap();
        assert_eq!(position, expected);
        held.push(super::super::target::Attempt::begin(
            targets[position].clone(),
            now,
        ));
    }
    // Now all three are loaded alike: (0 + 1) / 1 and (3 + 1) / 4.
    let field = field(&targets, &|_| true, now);
    let mut taken = std::collections::BTreeSet::new();
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..100 {
        let draw = &mut |below| random.random_range(0..below);
        taken.insert(least_requests::pick(&field, draw).unwrap());
    }
    assert_eq!(taken.len(), 3);
}

#[test]
fn a_slow_one_gets_little_and_is_tried_again() {
    let now = Instant::now();
    let targets = targets(&[1, 1, 1], now);
    let answer = |position: usize, took: u64, at: Instant| {
        let state = &targets[position].state;
        state.observe(Duration::from_millis(took), DECAY, at);
    };
    for (position, took) in [(0, 5), (1, 500), (2, 5)] {
        answer(position, took, now);
    }
    let balancer = Balancer::new(&Balance::P2cEwma { decay: DECAY }, &targets);
    let share_at = |seconds| {
        let now = now + Duration::from_secs(seconds);
        // The others go on as they are.
        answer(0, 5, now);
        answer(2, 5, now);
        shares(&balancer, &field(&targets, &|_| true, now), 3_000)[1]
    };
    assert_eq!(share_at(0), 0.0);
    assert_eq!(share_at(30), 0.0);
    // ln 100 times 10 s later it is as good as the others again.
    assert!(share_at(47) > 0.3);
}

#[test]
fn an_average_follows_a_slow_answer_at_once_and_a_fast_one_slowly() {
    let now = Instant::now();
    let state = TargetState::new(now, false);
    let at = |seconds| now + Duration::from_secs(seconds);
    let millis = |seconds| state.latency(DECAY, at(seconds)).unwrap().as_millis();
    assert_eq!(state.latency(DECAY, now), None);
    state.observe(Duration::from_millis(10), DECAY, at(1));
    assert_eq!(millis(1), 10);
    state.observe(Duration::from_millis(1000), DECAY, at(1));
    assert_eq!(millis(1), 1000);
    state.observe(Duration::from_millis(10), DECAY, at(2));
    assert!((900..1000).contains(&millis(2)), "{}", millis(2));
    state.observe(Duration::from_millis(10), DECAY, at(62));
    assert!((10..20).contains(&millis(62)), "{}", millis(62));
}

/// Where each of some keys goes.
fn owners(
    balance: &Balance,
    targets: &[Arc<Target>],
    usable: &dyn Fn(&Target) -> bool,
) -> Vec<String> {
    let balancer = Balancer::new(balance, targets);
    let field = field(targets, usable, Instant::now());
    let owner = |number: u32| {
        let key = stable_hash(&number.to_be_bytes());
        let position = balancer.pick(&field, Some(key), &mut |_| 0).unwrap();
        targets[position].address.as_deref().unwrap().to_owned()
    };
    (0..4_000).map(owner).collect()
}

#[test]
fn keys_stay_where_they_are() {
    let now = Instant::now();
    let five = targets(&[1; 5], now);
    for algorithm in [HashAlgorithm::Ring, HashAlgorithm::Maglev] {
        let balance = hash(algorithm);
        let before = owners(&balance, &five, &|_| true);
        // In another order it is the same.
        let turned: Vec<_> = five.iter().rev().cloned().collect();
        let changed = |after: &[String]| {
            let both = before.iter().zip(after);
            let stayed = both.clone().filter(|(before, after)| before == after);
            let gone = both.filter(|(before, _)| **before == "10.0.0.5:80");
            before.len() - stayed.count() - gone.count()
        };
        let of_others = match algorithm {
            HashAlgorithm::Ring => 0,
            // Some per cent.
            HashAlgorithm::Maglev => before.len() / 20,
        };
        assert_eq!(
            owners(&balance, &turned, &|_| true),
            before,
            "{algorithm:?}"
        );
        let after = owners(&balance, &five[..4], &|_| true);
        assert!(
            changed(&after) <= of_others,
            "{algorithm:?}: {}",
            changed(&after)
        );
        // One that is only away for a while moves nothing else at all.
        let away = |target: &Target| target.address.as_deref() != Some("10.0.0.5:80");
        let after = owners(&balance, &five, &away);
        assert_eq!(changed(&after), 0, "{algorithm:?}");
        assert!(!after.contains(&"10.0.0.5:80".to_owned()));
    }
}

#[test]
fn replicas_agree() {
    // These numbers hold for ever: another release must find the same targets.
    assert_eq!(stable_hash(b""), 0xefd0_1f60_ba99_2926);
    let three = targets(&[1; 3], Instant::now());
    for (algorithm, expected) in [
        (HashAlgorithm::Ring, [0, 0, 1, 2, 2, 0]),
        (HashAlgorithm::Maglev, [2, 0, 2, 1, 2, 0]),
    ] {
        let balancer = Balancer::new(&hash(algorithm), &three);
        let field = field(&three, &|_| true, Instant::now());
        let found = ["a", "b", "c", "d", "e", "f"].map(|key| {
            let key = stable_hash(key.as_bytes());
            balancer.pick(&field, Some(key), &mut |_| 0).unwrap()
        });
        assert_eq!(found, expected, "{algorithm:?}");
    }
}
