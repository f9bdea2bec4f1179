//! How an upstream's servers are watched: by asking them, and by how they answer what is forwarded. Data only.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::base::{
    problem::{Problem, Problems, bounded},
    spanned::Spanned,
};

/// The section `health` of an upstream.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthConfig {
    /// The path that each server is asked for; any status from 200 to 299 is good.
    pub path: Option<Spanned<String>>,
    /// The service that each server is asked about by gRPC's health checking protocol, in place of `path`; empty for all of it.
    pub grpc_service: Option<Spanned<String>>,
    /// Milliseconds between two questions to a server. Default 5000.
    pub interval_ms: Option<Spanned<u64>>,
    /// Milliseconds for an answer, connecting included. Default 2000.
    pub timeout_ms: Option<Spanned<u64>>,
    /// Good answers in a row after which a server gets requests again. Default 2.
    pub healthy_after: Option<Spanned<u32>>,
    /// Bad answers in a row after which a server gets none. Default 3.
    pub unhealthy_after: Option<Spanned<u32>>,
}

/// How servers are asked whether they are well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Health {
    /// For what.
    pub asks: Asks,
    /// How often.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good answers in a row that make a server well.
    pub healthy_after: u32,
    /// Bad answers in a row that make it unwell.
    pub unhealthy_after: u32,
}

/// What servers are asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Asks {
    /// This path.
    Path(String),
    /// How this service is, by gRPC's health checking protocol.
    Grpc(String),
}

/// The section `ejection` of an upstream.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EjectionConfig {
    /// Failures in a row after which a server is left alone; 0 for never. Default 5.
    pub failures: Option<Spanned<u32>>,
    /// Milliseconds for which it is left alone. Default 30000.
    pub duration_ms: Option<Spanned<u64>>,
    /// Percent of the servers that can be left alone at once. Default 50.
    pub percent_max: Option<Spanned<usize>>,
    /// Statuses that count as failures, beside no connection, no answer and no valid one. Default none.
    pub statuses: Vec<Spanned<u16>>,
}

/// When servers are left alone for how they answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ejection {
    /// After how many failures in a row; never, at 0.
    pub failures: u32,
    /// For how long.
    pub duration: Duration,
    /// How many percent of them at once.
    pub percent_max: usize,
    /// Statuses that are failures.
    pub statuses: Vec<u16>,
}

impl HealthConfig {
    /// Compiles the section.
    ///
    /// # Errors
    /// Every [`Problem`] it has.
    pub fn compile(section: &Spanned<Self>) -> Result<Health, Problems> {
        let own = &section.value;
        let mut problems = Problems::default();
        let asks = problems.keep(Self::asks(section));
        let interval = problems.keep(bounded(own.interval_ms.as_ref(), "interval_ms", 5_000, 100..=3_600_000));
        let timeout = problems.keep(bounded(own.timeout_ms.as_ref(), "timeout_ms", 2_000, 10..=60_000));
        let healthy_after = problems.keep(bounded(own.healthy_after.as_ref(), "healthy_after", 2, 1..=100));
        let unhealthy_after = problems.keep(bounded(own.unhealthy_after.as_ref(), "unhealthy_after", 3, 1..=100));
        let health = (|| {
            Some(Health {
                asks: asks?,
                interval: Duration::from_millis(interval?),
                timeout: Duration::from_millis(timeout?),
                healthy_after: healthy_after?,
                unhealthy_after: unhealthy_after?,
            })
        })();
        problems.into_result(health)
    }

    fn asks(section: &Spanned<Self>) -> Result<Asks, Problem> {
        let is_graphic = |text: &str| text.len() <= ASKED_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
        match (&section.value.path, &section.value.grpc_service) {
            (Some(path), None)
                if path.value.starts_with('/') && is_graphic(&path.value) && !path.value.contains('#') =>
            {
                Ok(Asks::Path(path.value.clone()))
            }
            (Some(path), None) => {
                Err(Problem::at(path, format!("`{}` is not a path", path.value)).fix("write one such as `/healthz`"))
            }
            (None, Some(service)) if is_graphic(&service.value) => Ok(Asks::Grpc(service.value.clone())),
            (None, Some(service)) => {
                Err(Problem::at(service, format!("`{}` is not the name of a service", service.value))
                    .fix("write one such as `orders.v1.Orders`, or nothing for the whole server"))
            }
            (Some(path), Some(_)) => {
                Err(Problem::at(path, "two things to be asked").fix("leave `path` or `grpc_service` out"))
            }
            (None, None) => Err(Problem::at(section, "`health` asks nothing").fix("add `path`, or `grpc_service`")),
        }
    }
}

/// Bytes of what servers are asked.
const ASKED_BYTES_MAX: usize = 1024;

impl EjectionConfig {
    /// Compiles the section.
    ///
    /// # Errors
    /// Every [`Problem`] it has.
    pub fn compile(&self) -> Result<Ejection, Problems> {
        let mut problems = Problems::default();
        let failures = problems.keep(bounded(self.failures.as_ref(), "failures", 5, 0..=1_000));
        let duration = problems.keep(bounded(self.duration_ms.as_ref(), "duration_ms", 30_000, 100..=3_600_000));
        let percent_max = problems.keep(bounded(self.percent_max.as_ref(), "percent_max", 50, 1..=100));
        for status in self.statuses.iter().filter(|status| !(500..=599).contains(&status.value)) {
            let problem = Problem::at(status, format!("`{}` does not say that a server failed", status.value));
            problems.push(problem.fix("choose from 500 to 599"));
        }
        let ejection = (|| {
            Some(Ejection {
                failures: failures?,
                duration: Duration::from_millis(duration?),
                percent_max: percent_max?,
                statuses: self.statuses.iter().map(|status| status.value).collect(),
            })
        })();
        problems.into_result(ejection)
    }
}
