//! Token buckets in Redis or Valkey, for gates that share them. One script decides and counts at once (GCRA), by the
//! server's own clock, so that gates need not agree on the time. Connects when first asked, and again when it must.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{
    Client, IntoConnectionInfo, RedisResult, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::{sync::OnceCell, time::timeout};

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

/// Dials Redis.
#[derive(Clone, Copy, Debug, Default)]
pub struct Redis;

/// The buckets of one server.
struct Buckets {
    place: Place,
    connection: OnceCell<ConnectionManager>,
    take: Script,
}

impl Open for Redis {
    fn counters(&self, place: &Place) -> Arc<dyn Counters> {
        Arc::new(Buckets { place: place.clone(), connection: OnceCell::new(), take: Script::new(TAKE) })
    }
}

impl Buckets {
    /// A connection that is made when it is used, and again when it breaks.
    async fn connection(&self) -> RedisResult<ConnectionManager> {
        let made = self.connection.get_or_try_init(|| async {
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
        });
        made.await.cloned()
    }
}

#[async_trait]
impl Counters for Buckets {
    async fn take(&self, key: &str, quota: Quota) -> Result<Option<Duration>, Unreachable> {
        let taking = async {
            let mut connection = self.connection().await?;
            let mut take = self.take.key(key);
            let period = u64::try_from(quota.period.as_micros()).unwrap_or(u64::MAX).max(1);
            let wait: RedisResult<u64> = take.arg(period).arg(quota.burst).invoke_async(&mut connection).await;
            wait
        };
        let wait = timeout(self.place.timeout, taking).await.map_err(|_| Unreachable("no answer in time".into()))?;
        let wait = wait.map_err(|error| Unreachable(error.to_string()))?;
        Ok((wait > 0).then(|| Duration::from_micros(wait)))
    }
}
