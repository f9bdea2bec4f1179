//! What doors have seen of a request and its answer, for the record.

use std::net::IpAddr;

use http::Version;

use super::Visit;
use crate::audit::Protocol;

impl Visit {
    /// Notes the load balancer that the connection came through.
    pub fn came_through(&mut self, balancer: Option<IpAddr>) {
        self.record.via = balancer.map(|balancer| balancer.to_string());
    }

    /// Notes the version of HTTP that it came by.
    pub const fn came_by(&mut self, version: Version) {
        self.record.protocol = match version {
            Version::HTTP_10 => Some(Protocol::Http10),
            Version::HTTP_11 => Some(Protocol::Http11),
            Version::HTTP_2 => Some(Protocol::Http2),
            _ => None,
        };
    }

    /// Notes the status that was answered.
    pub const fn answered(&mut self, status: u16) {
        self.record.status = status;
    }

    /// Notes how much of a body has come in, and how much of one was answered.
    pub fn carried(&mut self, body: usize, answer: usize) {
        [self.record.body_bytes, self.record.answer_bytes] =
            [body, answer].map(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}
