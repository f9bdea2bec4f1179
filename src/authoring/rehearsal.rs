//! The gate, rehearsed: the walk that requests take, with a clock, keys and answers that stand in for those of the world.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderName, header};
use serde_json::{Map, Value};

use super::{
    answers::{Answer, Answers, Tables},
    bearer::{Bearer, StandIns, holds_keys, issuer_of, typed},
    call::Call,
};
use crate::{
    audit::{Record, Sink},
    base::{
        clock::{Clock, Timestamp},
        counters::Uncounted,
        files::Files,
        outside::Outside,
        problem::{Problem, Problems},
    },
    config::{Config, Loaded},
    entities::{hiding::Recording, lookup::plan::LookupConfig, recorded::RecordedQuestion},
    forward::Obligations,
    metrics::Metrics,
    pipeline::{Admission, Gate, Visit},
    policy::Explanation,
    refusal::Refusal,
    request::{certificate::Said, cors::CorsFields},
    snapshot::{Blueprint, Current},
    token::Trust,
};

/// A configuration, ready to be rehearsed.
#[derive(Debug)]
pub struct Stage {
    blueprint: Blueprint,
    /// Who is trusted where a token is not made here: those whose keys the configuration holds, by these alone.
    own: Trust,
    /// Issuers whose keys it does not hold.
    keyless: Vec<String>,
    config: Config,
    files: Files,
    stand_ins: StandIns,
    /// Who is asked what is not given.
    beyond: Option<Outside>,
}

/// What is to be rehearsed.
#[derive(Clone, Debug)]
pub struct Part {
    /// When.
    pub now: Timestamp,
    /// From where.
    pub peer: Option<SocketAddr>,
    /// What the client's certificate says, which an authority vouches for.
    pub certificate: Option<Said>,
    /// Whose token.
    pub token: Token,
    /// What others would answer.
    pub answers: Vec<Answer>,
    /// The request: a line, or a whole head.
    pub request: String,
}

/// The token of a request.
#[derive(Clone, Debug)]
pub enum Token {
    /// None, or whatever the request itself holds.
    AsIs,
    /// One that says this, under these further parameters of its header.
    Of(Map<String, Value>, Map<String, Value>),
    /// The same, where nothing is put in for these claims.
    Without(Map<String, Value>, Map<String, Value>, Vec<String>),
    /// The same of a token that somebody has, with the rest of its header: nothing is put in there.
    Again(Map<String, Value>, Map<String, Value>, Vec<String>),
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What is to be done, or why nothing is.
    pub result: Result<Admission, Refusal>,
    /// What web pages are told.
    pub cors: Option<CorsFields>,
    /// `WWW-Authenticate`.
    pub challenge: Option<String>,
    /// The body of a refusal.
    pub problem: Option<Value>,
    /// Why the policies said what they said, where they were asked.
    pub explanation: Option<Explanation>,
    /// What they were asked.
    pub question: Option<RecordedQuestion>,
    /// The record.
    pub record: Record,
    /// Questions to others that nobody answered.
    pub unanswered: Vec<String>,
    /// Answers that nobody asked for.
    pub unused: Vec<String>,
    /// The request as it was read.
    pub call: Call,
}

#[derive(Debug)]
struct Still(Timestamp);

impl Clock for Still {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// Keeps the last record.
#[derive(Debug, Default)]
struct Kept(Mutex<Option<Record>>);

impl Sink for Kept {
    fn write(&self, record: &Record) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(record.clone());
    }

    fn has_room(&self, _: usize) -> bool {
        true
    }
}

impl Stage {
    /// Compiles `loaded` with keys that stand in for those of its issuers; tokens that are not made here are verified by the
    /// keys that it holds itself. Its servers' sections are left out: nothing listens.
    ///
    /// # Errors
    /// Every [`Problem`] of the configuration.
    pub fn new(mut loaded: Loaded) -> Result<Self, Problems> {
        let stand_ins = stand_ins()?;
        loaded = loaded.unserved();
        let (mut own, files) = (loaded.clone(), loaded.files());
        let issuers = own.config.issuers.value.iter().filter(|it| !holds_keys(it, &files));
        let keyless = issuers.map(|it| it.settings().issuer.value.clone()).collect();
        stand_ins.stand_in(&mut own.config, |issuer| !holds_keys(issuer, &files));
        stand_ins.stand_in(&mut loaded.config, |_| true);
        Ok(Self { own: own.compile()?.blueprint.trust, keyless, ..Self::of(&loaded, stand_ins)? })
    }

    /// Compiles `loaded` as it is: tokens are verified by the keys of those who issued them.
    ///
    /// # Errors
    /// Every [`Problem`] of the configuration.
    pub fn real(loaded: &Loaded) -> Result<Self, Problems> {
        Self::of(loaded, stand_ins()?)
    }

    fn of(loaded: &Loaded, stand_ins: StandIns) -> Result<Self, Problems> {
        let mut blueprint = loaded.compile()?.blueprint;
        // What is rehearsed is shown to whoever rehearses it, and asked of nobody else.
        blueprint.records.recording = Recording::default();
        blueprint.candidate = None;
        let (own, config, files) = (blueprint.trust.clone(), loaded.config.clone(), loaded.files());
        Ok(Self { blueprint, own, keyless: Vec::new(), config, files, stand_ins, beyond: None })
    }

    /// The same, where the sources and issuers are asked that are `beyond`.
    pub fn with(mut self, beyond: Outside) -> Self {
        self.beyond = Some(beyond);
        self
    }

    /// What is compiled.
    pub const fn blueprint(&self) -> &Blueprint {
        &self.blueprint
    }

    /// Rehearses `part` by itself: nothing is remembered of what was rehearsed before.
    ///
    /// # Errors
    /// Why `part` is none that could come to a gate.
    pub async fn rehearse(&self, part: &Part) -> Result<Outcome, String> {
        self.tells_apart(&part.answers)?;
        let make = |claims: &Map<String, Value>, header: &Map<String, Value>, without: &[String]| {
            self.stand_ins.token(&self.config, claims, header, without, part.now)
        };
        let bearer = match &part.token {
            Token::AsIs => self.can_verify(&part.request).map(|()| Bearer::default())?,
            Token::Of(claims, header) => make(claims, &typed(&self.config, claims, header), &[])?,
            Token::Without(claims, header, without) => make(claims, &typed(&self.config, claims, header), without)?,
            Token::Again(claims, header, without) => make(claims, header, without)?,
        };
        let told = bearer.token.clone().zip(bearer.said.clone());
        let answers = Arc::new(Answers::new(part.answers.clone(), told.into_iter().collect(), self.beyond.clone()));
        let outside = Outside {
            clock: Arc::new(Still(part.now)),
            fetch: answers.clone(),
            databases: Arc::new(Tables(answers.clone())),
            // A rehearsal is one request: no limit is used up.
            counters: Arc::new(Uncounted),
            files: self.files.clone(),
        };
        let mut outcome = self.walk(part, &bearer, &outside).await?;
        (outcome.unanswered, outcome.unused) = (answers.open(), answers.unused());
        Ok(outcome)
    }

    /// Whether it is plain which database gives which of `answers`.
    fn tells_apart(&self, answers: &[Answer]) -> Result<(), String> {
        let sources = self.config.entities.sources.iter().map(|source| &source.lookup);
        let lookups = sources.chain(&self.config.consents.lookup);
        let statements: Vec<_> = lookups
            .filter_map(|lookup| match lookup {
                LookupConfig::Sql(sql) => Some(sql.statement.value.as_str()),
                LookupConfig::Http(_) => None,
            })
            .collect();
        for answer in answers.iter().filter(|answer| answer.rows.is_some()) {
            match &answer.statement {
                None if statements.len() > 1 => {
                    return Err(
                        "an answer gives `rows` and no `statement`, and there are several to choose from".into()
                    );
                }
                Some(statement) if !statements.contains(&statement.as_str()) => {
                    return Err(format!(
                        "no database is asked `{statement}`: write the `statement` as the configuration has it"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the keys are at hand of whoever issued the token in `request`.
    fn can_verify(&self, request: &str) -> Result<(), String> {
        let call = Call::parse(request, &[])?;
        let issuer = call.only(&header::AUTHORIZATION).and_then(issuer_of);
        match issuer.filter(|issuer| self.keyless.contains(issuer)) {
            Some(issuer) => Err(format!(
                "the configuration does not hold the keys of `{issuer}`, and nobody is asked for them here: give `claims` \
                 in place of the token"
            )),
            None => Ok(()),
        }
    }

    async fn walk(&self, part: &Part, bearer: &Bearer, outside: &Outside) -> Result<Outcome, String> {
        let kept = Arc::new(Kept::default());
        let mut blueprint = self.blueprint.clone();
        if matches!(part.token, Token::AsIs) {
            blueprint.trust = self.own.clone();
        }
        let snapshot = blueprint.start(outside, None);
        snapshot.issuers().first_attempts().await;
        let current = Arc::new(Current::new(snapshot));
        let metrics = Metrics::new().map_err(|error| error.to_string())?;
        let gate = Gate::new(current, outside.clock.clone(), kept.clone(), Arc::new(metrics));
        let mut nonce = None;
        let certificate = bearer.shown(part.certificate.as_ref());
        loop {
            let bare = Call::parse(&part.request, &[])?;
            let fields = self.stand_ins.fields(bearer, &bare, nonce.as_deref(), part.now)?;
            let call = Call::parse(&part.request, &fields)?;
            let mut visit = gate.receive();
            let result = visit.admit(&call.head(part.peer, certificate.as_ref())).await;
            if let (None, Err(refusal)) = (&nonce, &result)
                && let Some(asked) = refusal.nonce()
            {
                nonce = Some(asked.as_str().to_owned());
                continue;
            }
            return Ok(ended(visit, result, call, &kept));
        }
    }
}

impl Outcome {
    /// What is to be done, where it is forwarded.
    pub const fn obligations(&self) -> Option<&Obligations> {
        match &self.result {
            Ok(Admission::Forward(obligations)) => Some(obligations),
            _ => None,
        }
    }

    /// The field of this name that the upstream gets, if it gets one; several values as one.
    pub fn forwarded(&self, name: &str) -> Option<String> {
        let obligations = self.obligations()?;
        let name: HeaderName = name.parse().ok()?;
        let set = obligations.set().iter().find(|(set, _)| *set == name).map(|(_, value)| value);
        let upstream = obligations.pool().upstream();
        let host = Some(&upstream.host).filter(|_| name == header::HOST && !upstream.sees_host);
        match set.or(host) {
            Some(value) => Some(String::from_utf8_lossy(value.as_bytes()).into_owned()),
            None if obligations.removes(&name) => None,
            None => self.call.passed_on(&name),
        }
    }

    /// The field of this name of what is answered here, to a client that is refused or to a preflight; several values as one.
    pub fn answered(&self, name: &str) -> Option<String> {
        let told =
            self.cors.iter().flat_map(CorsFields::iter).filter(|(told, _)| told.as_str().eq_ignore_ascii_case(name));
        let told: Vec<_> = told.map(|(_, value)| String::from_utf8_lossy(value.as_bytes())).collect();
        if !told.is_empty() && self.obligations().is_none() {
            return Some(told.join(", "));
        }
        if let Ok(Admission::Page(page)) = &self.result {
            let told = page.fields().iter().find(|(told, _)| told.as_str().eq_ignore_ascii_case(name));
            return told.map(|(_, value)| String::from_utf8_lossy(value.as_bytes()).into_owned());
        }
        let refusal = self.result.as_ref().err()?;
        match name.to_lowercase().as_str() {
            "www-authenticate" => self.challenge.clone(),
            "dpop-nonce" => refusal.nonce().map(|nonce| nonce.as_str().to_owned()),
            "retry-after" => refusal.retry_after_s().map(|after| after.to_string()),
            "content-type" => Some("application/problem+json".to_owned()),
            "cache-control" => Some("no-store".to_owned()),
            _ => None,
        }
    }
}

fn stand_ins() -> Result<StandIns, Problems> {
    StandIns::new().map_err(|_| Problem::new("the machine gives no randomness").into())
}

fn ended(mut visit: Visit, result: Result<Admission, Refusal>, call: Call, kept: &Kept) -> Outcome {
    let status = match &result {
        Ok(Admission::Forward(_)) => 200,
        Ok(Admission::Preflight(_)) => 204,
        Ok(Admission::Page(_)) => 200,
        Err(refusal) => refusal.status().as_u16(),
    };
    visit.answered(status);
    let cors = match &result {
        Ok(Admission::Preflight(fields)) => Some(fields.clone()),
        _ => visit.cors().cloned(),
    };
    let refusal = result.as_ref().err();
    let challenge = refusal.and_then(|refusal| visit.challenge(refusal));
    let problem = refusal.and_then(|refusal| serde_json::to_value(refusal.problem(visit.decision_id())).ok());
    let explanation = visit.explain();
    let question = visit.question().and_then(|question| question.recorded(&Recording::default()));
    drop(visit);
    let record = kept.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
    Outcome {
        result,
        cors,
        challenge,
        problem,
        explanation,
        question,
        record,
        unanswered: Vec::new(),
        unused: Vec::new(),
        call,
    }
}
