//! For those who write policies: the gate rehearsed without a network, and what is to be learnt from that. Every answer
//! comes from the walk that requests take, so none can differ from it.

pub mod account;
mod answers;
pub mod asked;
mod bearer;
mod call;
pub mod coverage;
mod curl;
mod given;
pub mod keys;
pub mod lint;
pub mod markup;
pub mod reached;
pub mod recorded;
pub mod rehearsal;
pub mod replay;
pub mod retold;
pub mod scenario;
pub mod seen;
