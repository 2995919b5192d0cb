//! Numbers that are not called.

use std::collections::HashSet;

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::UtoipaMethodRouterExt as _;
use utoipa_axum::routes;

use crate::api::auth::Caller;
use crate::api::body::{NAME, Problems};
use crate::api::error::{ApiError, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::routes::Routes;
use crate::api::upload::{BadRow, BadRows, Column, Fields, MOST_BYTES, Table, ValueClass};
use crate::ids::PhoneNumber;
use crate::store::do_not_call::{self, Added, Entry, Source};

/// What is read of a table.
const COLUMNS: [Column; 2] = [("number", &["phone", "to"]), ("reason", &["note", "notes"])];
/// Rows read at a time: that takes a few milliseconds of a thread that carries calls.
const BATCH: usize = 250;

/// Routes of the list.
pub fn router() -> Routes {
    let upload = routes!(import_do_not_call).layer(DefaultBodyLimit::max(MOST_BYTES));
    Routes::new()
        .read(routes!(list_do_not_call))
        .operate(routes!(add_do_not_call))
        .operate(routes!(remove_do_not_call))
        .operate(upload)
}

/// A number that is not to be called.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddNumber {
    /// Telephone with `+` and country code.
    #[schema(example = "+14155550123")]
    pub number: String,
    /// Free text.
    #[serde(default)]
    #[schema(example = "asked by mail")]
    pub reason: String,
}

/// Which numbers are wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NumberQuery {
    /// Only this one, with `+` (in an address: `%2B`) and country code.
    pub number: Option<String>,
}

/// What came of a table of numbers.
#[derive(Serialize, ToSchema)]
pub struct NumbersImported {
    /// Rows below the header.
    pub rows: u64,
    /// What came of the good ones.
    #[serde(flatten)]
    pub added: Added,
    /// The others.
    #[serde(flatten)]
    pub bad: BadRows,
    /// Columns that were not read.
    pub ignored_columns: Vec<String>,
}

/// Numbers that are not called, newest first.
#[utoipa::path(
    get, path = "/api/do-not-call", tag = "do-not-call", params(PageQuery, NumberQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Entry>), Failures),
)]
async fn list_do_not_call(
    caller: Caller,
    Query(page): Query<PageQuery>,
    Query(query): Query<NumberQuery>,
) -> Result<Listing<Entry>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let number = query.number.as_deref().map(PhoneNumber::parse).transpose();
    let number =
        number.map_err(|error| ApiError::bad_request("invalid_query", format!("number: {error}")))?;
    let organization = caller.organization;
    let (data, total) =
        do_not_call::list(&caller.store, organization, number.as_ref(), limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Adds a number. Calls to it that wait in the queue fail at once. Twice is as good as once.
#[utoipa::path(
    post, path = "/api/do-not-call", tag = "do-not-call", request_body = AddNumber,
    responses((status = 200, description = "What came of it", body = Success<Added>), Failures),
)]
async fn add_do_not_call(caller: Caller, Json(body): Json<AddNumber>) -> Result<Success<Added>, ApiError> {
    let mut problems = Problems::default();
    problems.length("reason", &body.reason, 0, NAME);
    let Some(number) = problems.number("number", &body.number) else { return Err(problems.into_error()) };
    problems.none()?;
    let entries = [(number, body.reason)];
    Ok(Success::new(do_not_call::add(&caller.store, caller.organization, &entries, Source::Api).await?))
}

/// Takes a number off the list. Calls that failed because of it stay as they are.
#[utoipa::path(
    delete, path = "/api/do-not-call/{number}", tag = "do-not-call",
    params(("number" = String, Path, description = "Telephone with `+` and country code", example = "+14155550123")),
    responses((status = 204, description = "It is off the list"), Failures),
)]
async fn remove_do_not_call(caller: Caller, Path(number): Path<String>) -> Result<StatusCode, ApiError> {
    let number = PhoneNumber::parse(&number)
        .map_err(|error| ApiError::bad_request("invalid_path", format!("number: {error}")))?;
    if do_not_call::remove(&caller.store, caller.organization, &number).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found("the number is not on the do-not-call list"))
    }
}

/// Adds the numbers of a table: a column `number`, and `reason` where you have one. Good rows are kept.
#[utoipa::path(
    post, path = "/api/do-not-call.csv", tag = "do-not-call",
    request_body(content = String, content_type = "text/csv", example = "number,reason\n+14155550123,asked by mail\n"),
    responses((status = 200, description = "What came of each row", body = Success<NumbersImported>), Failures),
)]
async fn import_do_not_call(
    caller: Caller,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Success<NumbersImported>, ApiError> {
    let mut table = Table::open(&headers, body, &COLUMNS)?;
    let organization = caller.organization;
    let (mut rows, mut added, mut bad) = (0, Added::default(), BadRows::default());
    let mut seen = HashSet::new();
    let mut is_more = true;
    while is_more {
        let mut batch = Vec::new();
        for _ in 0..BATCH {
            let Some(row) = table.next() else {
                is_more = false;
                break;
            };
            rows += 1;
            match row.and_then(|fields| entry(fields, &mut seen)) {
                Ok(entry) => batch.push(entry),
                Err(row) => bad.add(row),
            }
        }
        added.add(do_not_call::add(&caller.store, organization, &batch, Source::Import).await?);
        // Nobody waits for the rest of a large table to be told that these are not called.
        caller.keep().await?;
    }
    Ok(Success::new(NumbersImported { rows, added, bad, ignored_columns: table.ignored }))
}

fn entry(mut fields: Fields, seen: &mut HashSet<PhoneNumber>) -> Result<(PhoneNumber, String), BadRow> {
    let number = fields.phone("number")?;
    let reason = fields.text("reason", NAME)?.unwrap_or_default();
    if seen.insert(number.clone()) {
        Ok((number, reason))
    } else {
        let reason = "an earlier row has this number".to_owned();
        Err(fields.bad("number", ValueClass::Duplicate, reason))
    }
}
