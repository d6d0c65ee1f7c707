//! Prints the OpenAPI document of the REST API. The UI's client is generated from it.

fn main() {
    let document = camofleet_gateway::rest::document();
    println!("{}", document.to_pretty_json().expect("an OpenAPI document serializes"));
}
