//! When two names are one to somebody else, and what is a name at all.

/// Whether two header names are one to a server that folds case and takes every mark for a `-` (as CGI does for `_`).
pub fn same(name: impl ExactSizeIterator<Item = u8>, other: &str) -> bool {
    let fold = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    name.len() == other.len() && name.map(fold).eq(other.bytes().map(fold))
}

/// Whether two query parameters are one to a framework that folds case and marks, trims blanks, and takes brackets for
/// structure.
pub fn same_parameter(name: &str, other: &str) -> bool {
    same(bare(name).bytes(), bare(other))
}

fn bare(name: &str) -> &str {
    name.split(['[', '\0']).next().unwrap_or_default().trim()
}

/// Whether a request can address this host, written as here.
pub fn is_host(name: &str) -> bool {
    let authority = name.parse::<http::uri::Authority>();
    authority.is_ok_and(|it| it.as_str() == name && it.host() == name)
        && !name.contains(['@', '*'])
        && !name.ends_with('.')
        && !name.bytes().any(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_one_with_all_that_frameworks_take_for_it() {
        for twin in ["doc_id", "Doc_ID", "doc.id", "doc-id", "doc id", " doc_id", "doc_id[]", "doc_id[x]", "doc_id\0y"]
        {
            assert!(same_parameter(twin, "doc_id"), "{twin}");
        }
        for other in ["docid", "doc_i", "doc_idx", "xdoc_id", "", "[doc_id]"] {
            assert!(!same_parameter(other, "doc_id"), "{other}");
        }
    }
}
