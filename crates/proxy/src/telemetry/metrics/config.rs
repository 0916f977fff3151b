//! What is counted of configurations: which one is in effect, and how reloads went.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use std::{
    sync::atomic::AtomicU64,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The metrics of configurations.
#[derive(Default)]
pub(crate) struct ConfigMetrics {
    generation: Gauge,
    reloads: Family<[(&'static str, &'static str); 1], Counter>,
    last_successful: Gauge,
    last_success: Gauge<f64, AtomicU64>,
    last_seconds: Gauge<f64, AtomicU64>,
}

impl ConfigMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "config_generation",
            "Number of the configuration in use; 1 is the one that the process started with",
            self.generation.clone(),
        );
        registry.register(
            "config_reloads",
            "Reloads, by result (success or failure)",
            self.reloads.clone(),
        );
        registry.register(
            "config_last_reload_successful",
            "Whether the last reload took effect: 1 or 0; 1 before the first one",
            self.last_successful.clone(),
        );
        registry.register_with_unit(
            "config_last_reload_success_timestamp",
            "When the configuration in use took effect, in seconds since 1970",
            Unit::Seconds,
            self.last_success.clone(),
        );
        registry.register_with_unit(
            "config_last_reload_duration",
            "How long the last reload took, whether it took effect or not",
            Unit::Seconds,
            self.last_seconds.clone(),
        );
    }

    /// The first configuration is in effect.
    pub(crate) fn started(&self) {
        self.took_effect();
    }

    pub(crate) fn reloaded(&self, took: Duration) {
        self.ended("success", took);
        self.took_effect();
    }

    pub(crate) fn reload_failed(&self, took: Duration) {
        self.ended("failure", took);
        self.last_successful.set(0);
    }

    /// The number of the configuration in use.
    pub(crate) fn generation(&self) -> i64 {
        self.generation.get()
    }

    /// Whether the last reload took effect.
    pub(crate) fn was_last_successful(&self) -> bool {
        self.last_successful.get() == 1
    }

    fn took_effect(&self) {
        self.generation.inc();
        self.last_successful.set(1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        self.last_success
            .set(now.map_or(0.0, |now| now.as_secs_f64()));
    }

    fn ended(&self, result: &'static str, took: Duration) {
        self.reloads.get_or_create(&[("result", result)]).inc();
        self.last_seconds.set(took.as_secs_f64());
    }
}
