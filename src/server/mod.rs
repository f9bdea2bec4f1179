//! Sockets: where the house listens and dials. With the doors, the only place that knows pingora and hyper.

pub mod admin;
pub mod body;
mod certificates;
pub mod counters;
mod crowd;
mod deny_list;
pub mod fetch;
pub mod handover;
pub mod head;
pub mod http1;
mod http2;
mod leave;
pub mod listener;
mod log;
mod operator;
pub mod otlp;
pub mod probe;
pub mod proxy_protocol;
pub mod socket;
pub mod sql;
mod stall;
pub mod syslog;
pub mod tls;
pub mod x509;
