//! The metrics of endpoints.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::{Scrape, histogram};
use crate::status::{Counts, EndpointSessionGauges, EndpointTraffic, EndpointView};
use weir_declare::reconcile::ConditionStatus;

type Labels<'a> = Vec<(&'a str, String)>;

impl Scrape {
    pub(super) fn endpoint_states(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        self.gauges(out, "weir_endpoint_up", "1 while a listener is bound for it.", |endpoint, _| {
            Some(u64::from(endpoint.listening()))
        })?;
        let help = "1 for the current health, 0 for the others.";
        let mut family = out.encode_descriptor("weir_endpoint_health", help, None, MetricType::Gauge)?;
        for endpoint in &self.state.endpoints {
            for word in ["healthy", "degraded", "unhealthy", "disabled"] {
                let mut labels = labels(endpoint);
                labels.push(("health", word.to_owned()));
                family.encode_family(&labels)?.encode_gauge(&u64::from(endpoint.health() == word))?;
            }
        }
        let help = "Conditions, 1 for True and 0 for False; absent while unknown.";
        let mut family = out.encode_descriptor("weir_endpoint_condition", help, None, MetricType::Gauge)?;
        for endpoint in &self.state.endpoints {
            for condition in endpoint.conditions.iter().filter(|each| each.status != ConditionStatus::Unknown) {
                let mut labels = labels(endpoint);
                labels.push(("type", format!("{:?}", condition.kind)));
                let holds = u64::from(condition.status == ConditionStatus::True);
                family.encode_family(&labels)?.encode_gauge(&holds)?;
            }
        }
        let help = "When the certificate served expires, since the Unix epoch.";
        let unit = Some(&Unit::Seconds);
        let mut expiry =
            out.encode_descriptor("weir_endpoint_certificate_expiry_timestamp", help, unit, MetricType::Gauge)?;
        for endpoint in &self.state.endpoints {
            if let Some(at) = endpoint.certificate_expires_at {
                expiry.encode_family(&labels(endpoint))?.encode_gauge(&(at.unix_ms / 1000))?;
            }
        }
        Ok(())
    }

    pub(super) fn endpoint_connections(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        self.gauges(out, "weir_endpoint_connections_current", "Open connections.", |_, counted| {
            Some(counted.connections)
        })?;
        let help = "Open connections allowed (maxConnectionSize); absent where not limited.";
        self.gauges(out, "weir_endpoint_connections_max", help, |endpoint, _| endpoint.limit("maxConnectionSize"))?;
        self.counters(out, "weir_endpoint_connections_accepted", "Connections accepted.", |counted| counted.accepted)?;
        self.counted_by(out, "weir_endpoint_connects", "CONNECT packets by outcome.", "outcome", |counted| {
            &counted.connects
        })?;
        let help = "CONNECT packets that authentication refused.";
        self.counters(out, "weir_endpoint_authentication_failures", help, |counted| counted.authentication_failures)?;
        let help = "Publishes and subscriptions that the acl refused.";
        self.counters(out, "weir_endpoint_authorization_failures", help, |counted| counted.authorization_failures)?;
        self.counted_by(out, "weir_endpoint_errors", "Connections ended for an error, by kind.", "kind", |counted| {
            &counted.errors
        })?;
        let help = "Open connections whose CONNECT is not accepted yet.";
        self.gauges(out, "weir_endpoint_connections_pending", help, |_, counted| Some(counted.pending))
    }

    pub(super) fn endpoint_messages(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let help = "PUBLISH packets received from clients.";
        self.counters(out, "weir_endpoint_messages_received", help, |counted| counted.messages_received)?;
        let help = "PUBLISH packets sent to clients.";
        self.counters(out, "weir_endpoint_messages_sent", help, |counted| counted.messages_sent)?;
        let help = "Messages not delivered, by reason.";
        self.counted_by(out, "weir_endpoint_messages_dropped", help, "reason", |counted| &counted.messages_dropped)?;
        let help = "Bytes read from clients.";
        self.counters(out, "weir_endpoint_bytes_received", help, |counted| counted.bytes_received)?;
        self.counters(out, "weir_endpoint_bytes_sent", "Bytes written to clients.", |counted| counted.bytes_sent)?;
        let help = "From reading a PUBLISH to writing it to subscribers, in a sample of the shards' turns.";
        let unit = Some(&Unit::Seconds);
        let mut deliver = out.encode_descriptor("weir_publish_to_deliver", help, unit, MetricType::Histogram)?;
        histogram(&mut deliver, &self.traffic.deliver_durations)
    }

    /// Gauges of the endpoints' sessions.
    pub(super) fn held(
        &self,
        out: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        value: fn(&EndpointSessionGauges) -> u64,
    ) -> fmt::Result {
        let Some(held) = &self.gauges else { return Ok(()) };
        self.gauges(out, name, help, |endpoint, _| Some(held.endpoints.get(&endpoint.name).map_or(0, value)))
    }

    /// Every endpoint with its counters, nought where the data plane has none.
    fn counted(&self) -> impl Iterator<Item = (&EndpointView, &EndpointTraffic)> {
        self.state.endpoints.iter().map(|each| (each, self.traffic.endpoint(&each.name)))
    }

    fn gauges(
        &self,
        out: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        value: impl Fn(&EndpointView, &EndpointTraffic) -> Option<u64>,
    ) -> fmt::Result {
        let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (endpoint, counted) in self.counted() {
            if let Some(value) = value(endpoint, counted) {
                family.encode_family(&labels(endpoint))?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn counters(
        &self,
        out: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        value: impl Fn(&EndpointTraffic) -> u64,
    ) -> fmt::Result {
        let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (endpoint, counted) in self.counted() {
            let labels = labels(endpoint);
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, u64, f64>(&value(counted), None)?;
        }
        Ok(())
    }

    fn counted_by(
        &self,
        out: &mut DescriptorEncoder,
        name: &str,
        help: &str,
        label: &str,
        values: impl Fn(&EndpointTraffic) -> &Counts,
    ) -> fmt::Result {
        let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (endpoint, counted) in self.counted() {
            for (word, value) in values(counted) {
                let mut labels = labels(endpoint);
                labels.push((label, (*word).to_owned()));
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(value, None)?;
            }
        }
        Ok(())
    }
}

fn labels<'a>(endpoint: &EndpointView) -> Labels<'a> {
    vec![
        ("endpoint", endpoint.name.clone()),
        ("port", endpoint.port().map(|port| port.to_string()).unwrap_or_default()),
    ]
}
