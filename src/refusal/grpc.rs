//! A refusal in gRPC's words, for its clients: a status and a message beside the HTTP status.

use http::{HeaderMap, StatusCode, header};

use super::Refusal;

/// Whether a request with these fields is one of gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let rest = media_type.split_at_checked(GRPC.len()).filter(|(begun, _)| begun.eq_ignore_ascii_case(GRPC.as_bytes()));
    rest.is_some_and(|(_, rest)| matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t')))
}

/// The media type of gRPC.
pub const GRPC: &str = "application/grpc";

impl Refusal {
    /// The status: what gRPC's clients make of the HTTP status alone, but for what they need not try again at once.
    pub fn grpc_status(&self) -> u8 {
        match self.status() {
            StatusCode::UNAUTHORIZED => 16,
            StatusCode::FORBIDDEN => 7,
            StatusCode::NOT_FOUND => 12,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => 8,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => 14,
            StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR => 13,
            _ => 2,
        }
    }

    /// The message: no more than the problem's type and the decision's id, in visible ASCII without `%`.
    pub fn grpc_message(&self, decision_id: &str) -> String {
        format!("{}, decision {decision_id}", self.public_code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_by_its_media_type() {
        let is = |value: &'static str| is_grpc(&HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]));
        for fine in ["application/grpc", "application/grpc+proto", "Application/gRPC;v=1", "application/grpc ; a=b"] {
            assert!(is(fine), "{fine}");
        }
        for other in ["application/grpc-web", "application/grpc-web+proto", "application/json", "application/grp", ""] {
            assert!(!is(other), "{other}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn every_refusal_is_an_error_that_can_be_written() {
        for refusal in Refusal::every() {
            assert_ne!(refusal.grpc_status(), 0, "{refusal:?}");
            let message = refusal.grpc_message("01K9ZC6B8E8S1N4H6V2Q0W3X5Y");
            assert!(message.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'%'), "{message}");
        }
    }
}
