//! Every metric of the node, declared in one place.
//!
//! Counters are raised where things happen; gauges of peers and queues are set
//! when they are asked for. Never labels by what a stranger can choose.

use prometheus::{Encoder, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

/// Cheap to clone: the counters are shared.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Pushes made, by `result`: "ok", "transient", "refused", "local".
    pub pushes: IntCounterVec,
    /// Pulls made, by `result`.
    pub pulls: IntCounterVec,
    /// Streams of batches to other servers that ended, by `result`.
    pub streams: IntCounterVec,
    /// Events sent, again ones too, by `lane`: "push", "courier".
    pub events_sent: IntCounterVec,
    /// Calls of other servers, by `method` and gRPC `code`.
    pub calls: IntCounterVec,
    /// Events stored for other servers.
    pub events_stored: IntCounter,
    /// Events known to have been applied by other servers.
    pub events_settled: IntCounter,
    /// Events of other servers applied here.
    pub events_applied: IntCounter,
    /// Parcels of other servers that were refused here.
    pub parcels_refused: IntCounter,
    /// Dead letters made, by `reason`.
    pub dead_letters: IntCounterVec,
    /// Dead letters dropped because there were too many.
    pub dead_letters_dropped: IntCounter,
    /// Streams that went on after a restored backup, by `side`: "peer", "us".
    pub restores: IntCounterVec,
    /// Keys fetched from other servers, by `result`: "ok", "failed".
    pub key_fetches: IntCounterVec,
    /// Messages of parties of this node that were stored.
    pub messages_routed: IntCounter,
    /// Deliveries that failed because their message expired.
    pub deliveries_expired: IntCounter,
    /// Messages that users of this node said in chats.
    pub chat_messages: IntCounter,
    /// Of those, what was given up since the home of their chat was away.
    pub chat_given_up: IntCounter,
    /// Messages of other servers that their authors' servers never signed.
    pub chat_forged: IntCounter,
    /// Letters of chats that were refused.
    pub chat_letters_refused: IntCounter,
    /// Rounds, types and senders for which two payloads were broadcast.
    pub equivocations: IntCounter,
    /// Notifications of parties that are away, by `way` ("mail", "webhook") and
    /// `result` ("sent", "failed", "dropped").
    pub notifications: IntCounterVec,
    /// Events that backends published to gateways.
    pub push_published: IntCounter,
    /// Events handed to gateways.
    pub push_sent: IntCounter,
    /// Streams of gateways that began afresh although they gave a cursor, by
    /// `reason`: "expired", "unknown".
    pub push_resets: IntCounterVec,
    /// Gateways with a live stream.
    pub push_gateways: IntGauge,
    /// Peers by `state`.
    pub peers: prometheus::IntGaugeVec,
    /// Events, and their bytes, that wait for other servers.
    pub queued_events: IntGauge,
    pub queued_bytes: IntGauge,
}

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let labelled = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels).expect("the name and labels are well formed");
            registry.register(Box::new(vec.clone())).expect("each name is registered once");
            vec
        };
        let plain = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("the name is well formed");
            registry.register(Box::new(counter.clone())).expect("each name is registered once");
            counter
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("the name is well formed");
            registry.register(Box::new(gauge.clone())).expect("each name is registered once");
            gauge
        };
        let peers = prometheus::IntGaugeVec::new(Opts::new("pillarbox_peers", "Peers by state."), &["state"])
            .expect("the name and labels are well formed");
        registry.register(Box::new(peers.clone())).expect("each name is registered once");
        Self {
            pushes: labelled("pillarbox_postbox_push_total", "Pushes made, by result.", &["result"]),
            pulls: labelled("pillarbox_postbox_pull_total", "Pulls made, by result.", &["result"]),
            streams: labelled(
                "pillarbox_postbox_streams_total",
                "Streams of batches to other servers that ended, by result.",
                &["result"],
            ),
            events_sent: labelled("pillarbox_events_sent_total", "Events sent, by lane.", &["lane"]),
            calls: labelled(
                "pillarbox_postbox_calls_total",
                "Calls of other servers, by method and gRPC code.",
                &["method", "code"],
            ),
            events_stored: plain("pillarbox_events_stored_total", "Events stored for other servers."),
            events_settled: plain(
                "pillarbox_events_settled_total",
                "Events known to have been applied by other servers.",
            ),
            events_applied: plain("pillarbox_events_applied_total", "Events of other servers applied here."),
            parcels_refused: plain(
                "pillarbox_parcels_refused_total",
                "Parcels of other servers that were refused here.",
            ),
            dead_letters: labelled("pillarbox_dead_letters_total", "Dead letters made, by reason.", &["reason"]),
            dead_letters_dropped: plain(
                "pillarbox_dead_letters_dropped_total",
                "Dead letters dropped because there were too many.",
            ),
            restores: labelled(
                "pillarbox_restores_total",
                "Streams that went on after a restored backup, by side.",
                &["side"],
            ),
            key_fetches: labelled("pillarbox_key_fetches_total", "Keys fetched, by result.", &["result"]),
            messages_routed: plain(
                "pillarbox_relay_messages_total",
                "Messages of parties of this node that were stored.",
            ),
            deliveries_expired: plain(
                "pillarbox_relay_deliveries_expired_total",
                "Deliveries that failed because their message expired.",
            ),
            chat_messages: plain("pillarbox_chat_messages_total", "Messages that users of this node said in chats."),
            chat_given_up: plain(
                "pillarbox_chat_given_up_total",
                "Messages that were given up since the home of their chat was away for too long.",
            ),
            chat_forged: plain(
                "pillarbox_chat_forged_total",
                "Messages of chats that the servers of their authors never signed.",
            ),
            chat_letters_refused: plain(
                "pillarbox_chat_letters_refused_total",
                "Letters about chats that were refused.",
            ),
            equivocations: plain(
                "pillarbox_relay_equivocations_total",
                "Rounds, types and senders for which two payloads were broadcast.",
            ),
            notifications: labelled(
                "pillarbox_relay_notifications_total",
                "Notifications of parties that are away, by way and result.",
                &["way", "result"],
            ),
            push_published: plain("pillarbox_push_published_total", "Events that backends published to gateways."),
            push_sent: plain("pillarbox_push_sent_total", "Events handed to gateways."),
            push_resets: labelled(
                "pillarbox_push_resets_total",
                "Streams of gateways that began afresh although they gave a cursor, by reason.",
                &["reason"],
            ),
            push_gateways: gauge("pillarbox_push_gateways", "Gateways with a live stream."),
            peers,
            queued_events: gauge("pillarbox_queued_events", "Events that wait for other servers."),
            queued_bytes: gauge("pillarbox_queued_bytes", "Bytes of the events that wait for other servers."),
            registry,
        }
    }

    /// Prometheus text format 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        out
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
