//! OTLP's JSON encoding: ids in hexadecimal, 64-bit numbers as strings, enumerations as numbers.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use super::{Attribute, Span};

/// `SPAN_KIND_INTERNAL`
const KIND_INTERNAL: u8 = 1;
/// `STATUS_CODE_ERROR`
const STATUS_ERROR: u8 = 2;

/// The body of a request to `/v1/traces`. `resource`: the attributes of this process.
pub fn traces(resource: &[(String, String)], spans: &[Span]) -> Value {
    let of_resource = resource.iter().map(|(key, value)| json!({"key": key, "value": {"stringValue": value}}));
    json!({"resourceSpans": [{
        "resource": {"attributes": of_resource.collect::<Vec<_>>()},
        "scopeSpans": [{
            "scope": {"name": "weir.reconcile", "version": env!("CARGO_PKG_VERSION")},
            "spans": spans.iter().map(span).collect::<Vec<_>>(),
        }],
    }]})
}

fn span(span: &Span) -> Value {
    let mut value = json!({
        "traceId": HEXLOWER.encode(&span.trace_id),
        "spanId": HEXLOWER.encode(&span.span_id),
        "name": span.name,
        "kind": KIND_INTERNAL,
        "startTimeUnixNano": span.begin_ns.to_string(),
        "endTimeUnixNano": span.end_ns.to_string(),
        "attributes": span.attributes.iter().map(attribute).collect::<Vec<_>>(),
        "status": {},
    });
    if let Some(parent) = &span.parent_id {
        value["parentSpanId"] = json!(HEXLOWER.encode(parent));
    }
    if let Some(message) = &span.error {
        value["status"] = json!({"code": STATUS_ERROR, "message": message});
    }
    value
}

fn attribute((key, value): &(&'static str, Attribute)) -> Value {
    let value = match value {
        Attribute::Text(text) => json!({"stringValue": text}),
        Attribute::Count(count) => json!({"intValue": count.to_string()}),
    };
    json!({"key": key, "value": value})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_in_otlp_json() {
        let given = Span {
            trace_id: [0xab; 16],
            span_id: [0x01; 8],
            parent_id: Some([0xf0; 8]),
            name: "endpoint add".into(),
            begin_ns: 1_795_233_600_000_000_001,
            end_ns: 1_795_233_600_000_000_002,
            attributes: vec![("weir.endpoint", "a".into()), ("weir.actions", 3_usize.into())],
            error: Some("the address is in use".into()),
        };
        let body = traces(&[("service.name".into(), "weir".into())], &[given]);
        let resource = &body["resourceSpans"][0];
        assert_eq!(
            resource["resource"],
            json!({"attributes": [{"key": "service.name", "value": {"stringValue": "weir"}}]})
        );
        assert_eq!(
            resource["scopeSpans"][0]["spans"],
            json!([{
                "traceId": "abababababababababababababababab",
                "spanId": "0101010101010101",
                "parentSpanId": "f0f0f0f0f0f0f0f0",
                "name": "endpoint add",
                "kind": 1,
                "startTimeUnixNano": "1795233600000000001",
                "endTimeUnixNano": "1795233600000000002",
                "attributes": [
                    {"key": "weir.endpoint", "value": {"stringValue": "a"}},
                    {"key": "weir.actions", "value": {"intValue": "3"}},
                ],
                "status": {"code": 2, "message": "the address is in use"},
            }])
        );
    }
}
