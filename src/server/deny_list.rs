//! The deny-list on the admin listener: `GET /deny-list`, `POST /deny-list` with an entry, `DELETE /deny-list/{id}`.
//! It names users and can lock anybody out, so operators must show a token, whatever address they come from.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::json;

use super::{admin::State, http1::json as answer, operator, operator::error};
use crate::token::{
    denied::ChangeError,
    deny_list::{DenyListError, Entry},
};

/// Where the list is.
pub(super) const PATH: &str = "/deny-list";

/// Where its entries are.
pub(super) const BELOW: &str = "/deny-list/";

/// Bytes of an entry.
const ENTRY_BYTES_MAX: usize = 16 * 1024;

pub(super) async fn respond(request: Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    if let Some(refusal) = operator::refuse(&request, state) {
        return refusal;
    }
    let snapshot = state.current.load();
    let denied = snapshot.issuers().denied();
    let id = request.uri().path().strip_prefix(BELOW).map(str::to_owned);
    match (request.method().clone(), id) {
        (Method::GET, None) => {
            let entries: Vec<_> =
                denied.list().entries().iter().map(|(id, entry)| json!({ "id": id, "entry": entry })).collect();
            answer(StatusCode::OK, &json!({ "entries": entries, "failing": denied.state().failing }))
        }
        (Method::POST, None) => match entry(request).await {
            Ok(entry) => match denied.add(entry).await {
                Ok(id) => {
                    tracing::info!(id, "an entry was added to the deny-list");
                    answer(StatusCode::CREATED, &json!({ "id": id }))
                }
                Err(error) => failed(&error),
            },
            Err((status, reason)) => error(status, &reason),
        },
        (Method::DELETE, Some(id)) => match denied.remove(id.clone()).await {
            Ok(0) => error(StatusCode::NOT_FOUND, "no such entry"),
            Ok(removed) => {
                tracing::info!(id, "an entry was removed from the deny-list");
                answer(StatusCode::OK, &json!({ "removed": removed }))
            }
            Err(error) => failed(&error),
        },
        _ => error(StatusCode::METHOD_NOT_ALLOWED, "GET or POST /deny-list, DELETE /deny-list/{id}"),
    }
}

async fn entry(request: Request<Incoming>) -> Result<Entry, (StatusCode, String)> {
    let is_json = request.headers().get(header::CONTENT_TYPE).is_some_and(|it| it == "application/json");
    if !is_json {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json only".into()));
    }
    let body = Limited::new(request.into_body(), ENTRY_BYTES_MAX).collect().await;
    let body =
        body.map_err(|_| (StatusCode::PAYLOAD_TOO_LARGE, "the entry did not come whole, or is too large".to_owned()))?;
    Entry::parse(&body.to_bytes()).map_err(|reason| (StatusCode::BAD_REQUEST, reason))
}

fn failed(failure: &ChangeError) -> Response<Full<Bytes>> {
    let status = match failure {
        ChangeError::NoList => StatusCode::NOT_FOUND,
        ChangeError::List(DenyListError::TooMany) => StatusCode::INSUFFICIENT_STORAGE,
        ChangeError::List(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    tracing::error!(error = %failure, "the deny-list could not be changed");
    error(status, &failure.to_string())
}
