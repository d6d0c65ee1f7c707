//! What users may put into an object is bounded by the schema.

use camofleet_crds::v1alpha1::BrowserSession;
use kube::CustomResourceExt;
use serde_json::Value;

/// The caches of operator and gateway hold a session's whole spec, which its creator chooses.
#[test]
fn strings_and_lists_of_a_sessions_spec_are_bounded() {
    let crd = serde_json::to_value(BrowserSession::crd()).expect("a CRD is plain data");
    let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").expect("there is a spec");
    let mut unbounded = Vec::new();
    find_unbounded("spec", spec, &mut unbounded);
    assert_eq!(unbounded, Vec::<String>::new());
}

fn find_unbounded(path: &str, schema: &Value, unbounded: &mut Vec<String>) {
    let bound = match schema["type"].as_str() {
        Some("string") if schema["enum"].is_array() => None,
        Some("string") => Some("maxLength"),
        Some("array") => Some("maxItems"),
        Some("object") if schema["additionalProperties"].is_object() => Some("maxProperties"),
        _ => None,
    };
    if bound.is_some_and(|bound| !schema[bound].is_number()) {
        unbounded.push(path.to_owned());
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        find_unbounded(&format!("{path}.{name}"), property, unbounded);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            find_unbounded(&format!("{path}[]"), &schema[inner], unbounded);
        }
    }
}
