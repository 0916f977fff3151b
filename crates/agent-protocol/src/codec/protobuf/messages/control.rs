//! What agents say without being asked.

use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Pong {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(uint64, tag = "2")]
    pub ping_timestamp_ms: u64,
    #[prost(uint64, tag = "3")]
    pub timestamp_ms: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HealthStatus {
    #[prost(string, tag = "1")]
    pub agent_id: String,
    #[prost(int32, tag = "2")]
    pub state: i32,
    #[prost(string, optional, tag = "3")]
    pub message: Option<String>,
    #[prost(uint64, tag = "7")]
    pub timestamp_ms: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FlowControlSignal {
    #[prost(string, optional, tag = "1")]
    pub correlation_id: Option<String>,
    #[prost(int32, tag = "2")]
    pub action: i32,
    #[prost(uint64, optional, tag = "3")]
    pub buffer_available: Option<u64>,
    #[prost(uint64, tag = "4")]
    pub timestamp_ms: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct VerdictPurge {
    #[prost(string, tag = "1")]
    pub agent_id: String,
    #[prost(uint64, tag = "2")]
    pub timestamp_ms: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct LogMessage {
    #[prost(int32, tag = "1")]
    pub level: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(string, optional, tag = "3")]
    pub correlation_id: Option<String>,
    #[prost(btree_map = "string, string", tag = "4")]
    pub fields: BTreeMap<String, String>,
    #[prost(uint64, tag = "5")]
    pub timestamp_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricsReport {
    #[prost(string, tag = "1")]
    pub agent_id: String,
    #[prost(uint64, tag = "2")]
    pub timestamp_ms: u64,
    #[prost(uint64, tag = "3")]
    pub interval_ms: u64,
    #[prost(message, repeated, tag = "4")]
    pub counters: Vec<CounterMetric>,
    #[prost(message, repeated, tag = "5")]
    pub gauges: Vec<GaugeMetric>,
    #[prost(message, repeated, tag = "6")]
    pub histograms: Vec<HistogramMetric>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CounterMetric {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, optional, tag = "2")]
    pub help: Option<String>,
    #[prost(btree_map = "string, string", tag = "3")]
    pub labels: BTreeMap<String, String>,
    #[prost(uint64, tag = "4")]
    pub value: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct GaugeMetric {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, optional, tag = "2")]
    pub help: Option<String>,
    #[prost(btree_map = "string, string", tag = "3")]
    pub labels: BTreeMap<String, String>,
    #[prost(double, tag = "4")]
    pub value: f64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HistogramMetric {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, optional, tag = "2")]
    pub help: Option<String>,
    #[prost(btree_map = "string, string", tag = "3")]
    pub labels: BTreeMap<String, String>,
    #[prost(double, tag = "4")]
    pub sum: f64,
    #[prost(uint64, tag = "5")]
    pub count: u64,
    #[prost(message, repeated, tag = "6")]
    pub buckets: Vec<HistogramBucket>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct HistogramBucket {
    #[prost(double, tag = "1")]
    pub le: f64,
    #[prost(uint64, tag = "2")]
    pub count: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConfigUpdateRequest {
    #[prost(string, tag = "1")]
    pub request_id: String,
    #[prost(uint64, tag = "2")]
    pub timestamp_ms: u64,
    #[prost(oneof = "ConfigUpdate", tags = "10, 11, 12, 13, 14")]
    pub update_type: Option<ConfigUpdate>,
}

#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum ConfigUpdate {
    #[prost(message, tag = "10")]
    RequestReload(RequestReload),
    #[prost(message, tag = "11")]
    RuleUpdate(RuleUpdate),
    #[prost(message, tag = "12")]
    ListUpdate(ListUpdate),
    #[prost(message, tag = "13")]
    RestartRequired(RestartRequired),
    #[prost(message, tag = "14")]
    ConfigError(ConfigError),
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RequestReload {}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RuleUpdate {
    #[prost(string, tag = "1")]
    pub rule_set: String,
    #[prost(message, repeated, tag = "2")]
    pub rules: Vec<RuleDefinition>,
    #[prost(string, repeated, tag = "3")]
    pub remove_rules: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RuleDefinition {
    #[prost(string, tag = "1")]
    pub id: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListUpdate {
    #[prost(string, tag = "1")]
    pub list_id: String,
    #[prost(string, repeated, tag = "2")]
    pub add: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub remove: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RestartRequired {
    #[prost(string, tag = "1")]
    pub reason: String,
    #[prost(uint64, tag = "2")]
    pub grace_period_ms: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ConfigError {
    #[prost(string, tag = "1")]
    pub error: String,
    #[prost(string, optional, tag = "2")]
    pub field: Option<String>,
}
