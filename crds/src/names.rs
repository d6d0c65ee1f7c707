//! Validates object names before they become part of an API server URL.

/// Whether `name` is a DNS label (RFC 1123, at most 63 bytes), like the name of a namespace: apimachinery's
/// `IsDNS1123Label`.
pub fn is_label(name: &str) -> bool {
    name.len() <= 63 && is_label_of_any_length(name.as_bytes())
}

/// Whether `name` is a DNS subdomain (RFC 1123, at most 253 bytes), like the names of most objects: apimachinery's
/// `IsDNS1123Subdomain`.
pub fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.as_bytes().split(|byte| *byte == b'.').all(is_label_of_any_length)
}

fn is_label_of_any_length(label: &[u8]) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    label.first().is_some_and(is_alphanumeric)
        && label.last().is_some_and(is_alphanumeric)
        && label.iter().all(|byte| is_alphanumeric(byte) || *byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validates_labels_and_subdomains() {
        for good in ["a", "demo", "a-1", "0"] {
            assert!(is_label(good) && is_subdomain(good), "{good:?}");
        }
        assert!(is_subdomain("a-1.b2") && !is_label("a-1.b2"));
        let (longest, too_long) = ("a".repeat(63), "a".repeat(254));
        assert!(is_label(&longest) && !is_label(&(longest + "a")) && is_subdomain(&too_long[1..]));
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "../secrets",
            "a..b",
            "-a",
            "a-",
            "A",
            "a?x",
            "?x",
            "a/status",
            "a%2f",
            "ä",
            &too_long,
        ] {
            assert!(!is_label(bad) && !is_subdomain(bad), "{bad:?}");
        }
    }
}
