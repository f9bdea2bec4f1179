//! A gate at work in front of a real service, for a test to ask.

use std::{
    net::SocketAddr,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use portcullis::{
    app::App,
    audit::{Record, Sink},
    authoring::keys::SigningKey,
    base::{
        address::Address,
        clock::{Clock, Timestamp},
        files::Files,
        spanned::Spanned,
    },
    config::{self, Loaded},
    demo::service::Service,
    metrics::Metrics,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};

use crate::wire::{self, Answer};

/// When everything here happens: a little after the scenario's token was issued.
pub(crate) const NOW: u64 = 1_795_000_100;

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub(crate) struct Still(AtomicU64);

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(self.0.load(Ordering::SeqCst))
    }
}

struct Channel(UnboundedSender<Record>);

impl Sink for Channel {
    fn write(&self, record: &Record) {
        let _ = self.0.send(record.clone());
    }

    fn has_room(&self, _: usize) -> bool {
        true
    }
}

/// The keys that tokens of tests are signed with. `other` has the same name as `agents` and is another issuer's.
pub(crate) fn key(name: &str) -> &'static SigningKey {
    static KEYS: OnceLock<[SigningKey; 6]> = OnceLock::new();
    let [agents, agents_ec, other, stranger, holder, thief] = KEYS.get_or_init(|| {
        [
            SigningKey::rs256("agents/+=").unwrap(),
            SigningKey::es256("agents-ec").unwrap(),
            SigningKey::rs256("agents/+=").unwrap(),
            SigningKey::rs256("stranger").unwrap(),
            SigningKey::es256("holder").unwrap(),
            SigningKey::es256("thief").unwrap(),
        ]
    });
    match name {
        "agents" => agents,
        "agents-ec" => agents_ec,
        "other" => other,
        "stranger" => stranger,
        "holder" => holder,
        "thief" => thief,
        _ => panic!("no key `{name}`"),
    }
}

/// An RSA key's public half as bytes that somebody could take for a secret.
pub(crate) fn public_form(key: &SigningKey, form: &str) -> Vec<u8> {
    let jwk = key.jwk();
    let number = |name: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
        // An INTEGER is signed.
        if bytes[0] < 0x80 { bytes } else { [&[0][..], &bytes].concat() }
    };
    let tagged = |tag: u8, content: &[u8]| {
        let length = content.len();
        let head = match u8::try_from(length) {
            Ok(short @ 0..0x80) => vec![tag, short],
            _ => [vec![tag, 0x82], u16::try_from(length).unwrap().to_be_bytes().to_vec()].concat(),
        };
        [&head, content].concat()
    };
    let key = tagged(0x30, &[tagged(2, &number("n")), tagged(2, &number("e"))].concat());
    // RFC 8017 appendix A.1, RFC 5280 section 4.1.
    let algorithm = tagged(0x30, &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0]);
    let der = tagged(0x30, &[algorithm, tagged(3, &[&[0][..], &key].concat())].concat());
    match form {
        "jwk" => jwk.to_string().into_bytes(),
        "modulus" => URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap(),
        "der" => der,
        "pem" => {
            let lines: Vec<_> = STANDARD.encode(der).as_bytes().chunks(64).map(<[u8]>::to_vec).collect();
            let body = lines.join(&b'\n');
            [&b"-----BEGIN PUBLIC KEY-----\n"[..], &body, b"\n-----END PUBLIC KEY-----\n"].concat()
        }
        other => panic!("no form `{other}`"),
    }
}

/// The key sets of the first and the second issuer.
fn key_sets() -> [(&'static str, String); 2] {
    let set =
        |names: &[&str]| json!({ "keys": names.iter().map(|name| key(name).jwk()).collect::<Vec<_>>() }).to_string();
    [("keys-0.json", set(&["agents", "agents-ec"])), ("keys-1.json", set(&["other"]))]
}

/// A configuration with one route, to users' data; settings may follow.
pub(crate) const ROUTES: &str = "\
listen: 127.0.0.1:0
upstream: { url: 'http://127.0.0.1:1' }
issuers:
  - cognito_access:
      issuer: https://cognito-idp.us-east-1.amazonaws.com/us-east-1_agents
      client_ids: [1example23456789]
      scope_prefix: crossDomainService/
routes:
  - { methods: [GET, POST, PUT], path: '/users/{id}/data', action: readOnly, resource: 'UserData::\"{path.id}\"', attributes: { owner: 'User::\"{path.id}\"' } }
";

/// A token of the scenario's claims.
pub(crate) fn good_token() -> String {
    key("agents").sign(&claims()).unwrap()
}

/// That, as a field.
pub(crate) fn bearer() -> (String, String) {
    ("authorization".into(), format!("Bearer {}", good_token()))
}

/// The scenario's claims.
pub(crate) fn claims() -> Value {
    json!({
        "sub": "1example23456789", "iss": "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_agents", "version": 2,
        "onBehalfOf": { "sub": "user-1", "username": "jane", "groups": ["readaccess"] },
        "client_id": "1example23456789", "callerApp": "ExampleChatApplication", "token_use": "access",
        "scope": "crossDomainService/read userData/read", "auth_time": 1_795_000_000, "exp": 1_795_003_600,
        "iat": 1_795_000_000, "jti": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    })
}

/// The first folder with all of these programs: one of `folders`, or else of the path. `make test` installs what is needed and
/// asks that nothing be skipped.
pub(crate) fn folder_with(programs: &[&str], folders: Vec<PathBuf>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = folders.into_iter().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into()]);
    let found = all.find(|folder| programs.iter().all(|program| folder.join(program).exists()));
    let skips = std::env::var_os("PORTCULLIS_TEST_SKIPS_NOTHING").is_none();
    assert!(found.is_some() || skips, "{programs:?} are not installed");
    if found.is_none() {
        println!("SKIPPED: {programs:?} are not installed");
    }
    found
}

/// Whether a program is there.
pub(crate) fn present(program: &str) -> bool {
    folder_with(&[program], Vec::new()).is_some()
}

/// The repository's own files.
pub(crate) fn repository(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

pub(crate) const fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::nowhere(value)
}

pub(crate) async fn loopback() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

pub(crate) fn anywhere() -> Spanned<Address> {
    spanned(SocketAddr::from(([127, 0, 0, 1], 0)).into())
}

/// A gate at work on TCP.
pub(crate) struct Gate(pub(crate) App);

impl Deref for Gate {
    type Target = App;

    fn deref(&self) -> &App {
        &self.0
    }
}

impl DerefMut for Gate {
    fn deref_mut(&mut self) -> &mut App {
        &mut self.0
    }
}

impl Gate {
    /// Where agents connect first of all.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.addresses()[0].tcp().unwrap()
    }

    /// Where operators connect.
    pub(crate) const fn admin_address(&self) -> SocketAddr {
        self.0.admin_address().tcp().unwrap()
    }

    pub(crate) async fn stop(self, patience: Duration) {
        self.0.stop(patience).await;
    }
}

/// The gate, its upstream and its records.
pub(crate) struct House {
    pub(crate) app: Gate,
    pub(crate) service: Service,
    clock: Arc<Still>,
    records: UnboundedReceiver<Record>,
}

impl House {
    /// A gate of `config`, by default the repository's own, with `policies` in place of the repository's where given;
    /// issuers' keys come from this test's key sets.
    pub(crate) async fn build(config: Option<&str>, policies: &[(String, String)], now: u64) -> Self {
        Self::of(Self::load(config, policies), now).await
    }

    /// That configuration, before it is at work.
    pub(crate) fn load(config: Option<&str>, policies: &[(String, String)]) -> Loaded {
        let text = config.map_or_else(|| repository("config.yaml"), str::to_owned);
        let mut files: Vec<(String, String)> = key_sets().map(|(name, text)| (name.into(), text)).into();
        for name in ["policies/schema.cedarschema", "policies/users.cedar"] {
            files.push((name.into(), repository(name)));
        }
        files.push(("nonce-secret".into(), "for tests only\n".into()));
        files.extend_from_slice(policies);
        let files = Files::memory(files.iter().map(|(name, text)| (name.as_str(), text.as_str())));
        let mut loaded = config::parse("config.yaml".into(), text, files).unwrap_or_else(|error| panic!("{error}"));
        for (index, issuer) in loaded.config.issuers.value.iter_mut().enumerate() {
            let settings = issuer.settings_mut();
            if settings.introspection_uri.is_some() {
                continue;
            }
            settings.jwks_uri = None;
            settings.jwks_file = Some(spanned(format!("keys-{index}.json").into()));
        }
        loaded
    }

    /// A gate of `config` in front of `upstream`.
    pub(crate) async fn build_for(config: &str, upstream: &str) -> Self {
        Self::before(Self::load(Some(config), &[]), upstream).await
    }

    /// A gate of `loaded` in front of `upstream`.
    pub(crate) async fn before(loaded: Loaded, upstream: &str) -> Self {
        Self::at_work(loaded, house_service().await, upstream.to_owned(), NOW).await
    }

    /// A gate of `loaded` with addresses of its own, in front of a service of its own.
    pub(crate) async fn of(loaded: Loaded, now: u64) -> Self {
        let service = house_service().await;
        let upstream = format!("http://{}", service.address());
        Self::at_work(loaded, service, upstream, now).await
    }

    async fn at_work(mut loaded: Loaded, service: Service, upstream: String, now: u64) -> Self {
        loaded.config.upstream.url = spanned(upstream);
        loaded.config.listen = anywhere();
        loaded.config.admin = Some(anywhere());
        let (sender, records) = unbounded_channel();
        let clock = Arc::new(Still(AtomicU64::new(now)));
        let app =
            App::start(&loaded, clock.clone(), Arc::new(Channel(sender)), Arc::new(Metrics::new().unwrap())).await;
        Self { app: Gate(app.unwrap_or_else(|error| panic!("{error}"))), service, clock, records }
    }

    /// A gate that follows the configuration it finds in `folder`, where `UPSTREAM` stands for the service behind it. Both
    /// addresses are to be port 0.
    pub(crate) async fn following(folder: &Path, config: &str) -> Self {
        let service = house_service().await;
        let path = folder.join("config.yaml");
        std::fs::write(&path, config.replace("UPSTREAM", &format!("http://{}", service.address()))).unwrap();
        let sights = Arc::default();
        let loaded = config::load_noting(&path, &sights).unwrap_or_else(|error| panic!("{error}"));
        let upstream = loaded.config.upstream.url.value.clone();
        let mut house = Self::at_work(loaded, service, upstream, NOW).await;
        house.app.follow(path, sights);
        house
    }

    /// What the gate tells operators at `path`.
    pub(crate) async fn operators(&self, path: &str) -> Answer {
        Answer::parse(&wire::send(self.app.admin_address(), &wire::request("GET", path, &[])).await)
    }

    /// The gate and its records, the rest let go.
    pub(crate) fn part(self) -> (Gate, UnboundedReceiver<Record>) {
        (self.app, self.records)
    }

    /// Makes it `now`.
    pub(crate) fn at(&self, now: u64) {
        self.clock.0.store(now, Ordering::SeqCst);
    }

    /// Sends bytes; gives back the first answer and the record of the request, if the gate wrote one.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> (Answer, Option<Record>) {
        let answer = Answer::parse(&wire::send(self.app.address(), request).await);
        (answer, self.record().await)
    }

    /// The next record, which is as its schema says. A connection is closed only after its records were written, so there is little
    /// to wait for.
    pub(crate) async fn record(&mut self) -> Option<Record> {
        let record = timeout(Duration::from_millis(300), self.records.recv()).await.ok().flatten();
        if let Some(record) = &record {
            conforms(&serde_json::to_value(record).unwrap());
        }
        record
    }
}

/// Sees that a record is as its schema says, and has no more.
#[track_caller]
pub(crate) fn conforms(record: &serde_json::Value) {
    static SCHEMA: OnceLock<jsonschema::Validator> = OnceLock::new();
    let schema = SCHEMA.get_or_init(|| {
        let mut schema = portcullis::audit::schema();
        schema["additionalProperties"] = false.into();
        jsonschema::draft202012::new(&schema).unwrap()
    });
    let wrong: Vec<_> = schema.iter_errors(record).map(|it| format!("{}: {it}", it.instance_path)).collect();
    assert!(wrong.is_empty(), "{record}: {wrong:#?}");
}

async fn house_service() -> Service {
    Service::start(loopback().await).unwrap()
}
