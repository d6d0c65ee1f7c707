//! Prints the OpenAPI document of the REST API, which the UI's client is generated from.

fn main() {
    let document = camofleet_gateway::rest::document();
    println!("{}", document.to_pretty_json().expect("a document serializes"));
}
