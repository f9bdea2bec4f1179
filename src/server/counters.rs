//! Token buckets in Redis or Valkey, for gates that share them. One script decides and counts at once (GCRA), by the
//! server's own clock, so that gates need not agree on the time. Connects when first asked, and again when it must.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use redis::{
    Client, IntoConnectionInfo, RedisError, RedisResult, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::timeout;

use crate::base::counters::{Counters, Open, Place, Quota, Unreachable};

/// Keeps when a bucket would be full, in microseconds; gives back how long until it holds one, 0 where it did.
const TAKE: &str = "
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local period, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + period
local wait = full - period * burst - now
if wait > 0 then return wait end
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
return 0
";

/// Answers in a row that a connection may owe. That its other end is gone the system may find out a quarter of an hour later.
const LATE_MAX: u32 = 3;

/// Dials Redis.
#[derive(Clone, Copy, Debug, Default)]
pub struct Redis;

/// The buckets of one server.
struct Buckets {
    place: Place,
    connection: Mutex<Option<Arc<Connection>>>,
    take: Script,
}

/// A connection that is made when it is used, and again when it breaks.
struct Connection {
    manager: ConnectionManager,
    /// Answers in a row that did not come in time.
    late: AtomicU32,
}

impl Open for Redis {
    fn counters(&self, place: &Place) -> Arc<dyn Counters> {
        Arc::new(Buckets { place: place.clone(), connection: Mutex::default(), take: Script::new(TAKE) })
    }
}

impl Buckets {
    /// The connection, or another where that one has fallen silent.
    fn connection(&self) -> RedisResult<Arc<Connection>> {
        let mut kept = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.as_ref().filter(|it| it.late.load(Ordering::Relaxed) < LATE_MAX) {
            Some(connection) => Ok(connection.clone()),
            None => {
                let connection = Arc::new(Connection { manager: self.connect()?, late: AtomicU32::new(0) });
                Ok(kept.insert(connection).clone())
            }
        }
    }

    fn connect(&self) -> RedisResult<ConnectionManager> {
        let info = self.place.url.as_str().into_connection_info()?;
        let mut settings = info.redis_settings().clone();
        if let Some(user) = &self.place.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.place.password {
            settings = settings.set_password(password.expose());
        }
        // Of the two providers in this process one must be the usual one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_max_delay(self.place.timeout)
            .set_connection_timeout(Some(self.place.timeout))
            .set_response_timeout(Some(self.place.timeout));
        ConnectionManager::new_lazy_with_config(Client::open(info.set_redis_settings(settings))?, config)
    }
}

#[async_trait]
impl Counters for Buckets {
    async fn take(&self, key: &str, quota: Quota) -> Result<Option<Duration>, Unreachable> {
        let unreachable = |error: RedisError| Unreachable(error.to_string());
        let connection = self.connection().map_err(unreachable)?;
        let taking = async {
            let mut manager = connection.manager.clone();
            let mut take = self.take.key(key);
            let period = u64::try_from(quota.period.as_micros()).unwrap_or(u64::MAX).max(1);
            let wait: RedisResult<u64> = take.arg(period).arg(quota.burst).invoke_async(&mut manager).await;
            wait
        };
        let wait = match timeout(self.place.timeout, taking).await {
            Ok(wait) if !wait.as_ref().is_err_and(RedisError::is_timeout) => wait,
            _ => {
                connection.late.fetch_add(1, Ordering::Relaxed);
                return Err(Unreachable("no answer in time".into()));
            }
        };
        connection.late.store(0, Ordering::Relaxed);
        let wait = wait.map_err(unreachable)?;
        Ok((wait > 0).then(|| Duration::from_micros(wait)))
    }
}
