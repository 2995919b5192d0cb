//! People whose telephones ring together.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::api::Api;
use crate::api::auth::Caller;
use crate::api::body::Problems;
use crate::api::error::{ApiError, Failure, Failures};
use crate::api::extract::{Json, Listing, PageQuery, Pagination, Path, Query, Success};
use crate::api::inbound::people_changed;
use crate::api::routes::Routes;
use crate::store::Deleted;
use crate::store::teams::{self, NewMember, Team, TeamPatch};

/// More than ring at once, because some are not enabled.
const MOST_MEMBERS: usize = 100;

/// Routes of teams.
pub fn router() -> Routes {
    Routes::new()
        .read(routes!(list_teams))
        .admin(routes!(create_team))
        .read(routes!(team))
        .admin(routes!(update_team, delete_team))
}

/// A person of a team.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EditMember {
    /// For people.
    #[serde(default)]
    #[schema(example = "Grace")]
    pub name: String,
    /// The telephone that rings, with `+` and country code; also tells who it is.
    #[schema(example = "+14155550101")]
    pub number: String,
    /// False: does not ring; true when absent.
    #[serde(default = "yes")]
    pub enabled: bool,
}

/// A team to add.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "Front desk", "ring_timeout_s": 20, "members": [{"name": "Grace", "number": "+14155550101"}]}))]
pub struct CreateTeam {
    /// For people.
    pub name: String,
    /// Seconds to ring, 5 to 600; 25 when absent.
    #[serde(default)]
    pub ring_timeout_s: Option<i32>,
    /// The people; the first ten of those who are enabled ring.
    #[serde(default)]
    pub members: Vec<EditMember>,
}

/// What to change. A member that is absent stays; `members` is replaced as a whole, and who keeps the number keeps the id.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"members": [{"name": "Grace", "number": "+14155550101", "enabled": false}]}))]
pub struct UpdateTeam {
    /// For people.
    pub name: Option<String>,
    /// Seconds to ring, 5 to 600.
    pub ring_timeout_s: Option<i32>,
    /// Everybody.
    pub members: Option<Vec<EditMember>>,
}

const fn yes() -> bool {
    true
}

/// Teams, by name.
#[utoipa::path(
    get, path = "/api/teams", tag = "teams", params(PageQuery),
    responses((status = 200, description = "Part of the list", body = Listing<Team>), Failures),
)]
async fn list_teams(caller: Caller, Query(page): Query<PageQuery>) -> Result<Listing<Team>, ApiError> {
    let PageQuery { limit, offset } = page.checked()?;
    let (data, total) = teams::list(&caller.store, caller.organization, limit, offset).await?;
    Ok(Listing { success: true, data, pagination: Pagination { limit, offset, total } })
}

/// Adds a team.
#[utoipa::path(
    post, path = "/api/teams", tag = "teams", request_body = CreateTeam,
    responses((status = 201, description = "The new team", body = Success<Team>, headers(("Location" = String, description = "The team"))), Failures),
)]
async fn create_team(caller: Caller, Json(body): Json<CreateTeam>) -> Result<impl IntoResponse, ApiError> {
    let CreateTeam { name, ring_timeout_s, members } = body;
    let TeamPatch { members, .. } = checked(Some(&name), ring_timeout_s, Some(members))?;
    let organization = caller.organization;
    let members = members.unwrap_or_default();
    let id = teams::create(&caller.store, organization, &name, ring_timeout_s, &members).await?;
    let record = teams::team(&caller.store, organization, id).await?.ok_or_else(gone)?;
    let location = format!("/api/teams/{}", record.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Success::new(record)))
}

/// A team.
#[utoipa::path(
    get, path = "/api/teams/{id}", tag = "teams", params(("id" = Uuid, Path, description = "The team")),
    responses((status = 200, description = "The team as it is now", body = Success<Team>), Failures),
)]
async fn team(caller: Caller, Path(id): Path<Uuid>) -> Result<Success<Team>, ApiError> {
    found(teams::team(&caller.store, caller.organization, id).await?)
}

/// Changes what the body names. The next call goes by it.
#[utoipa::path(
    patch, path = "/api/teams/{id}", tag = "teams", params(("id" = Uuid, Path, description = "The team")),
    request_body = UpdateTeam,
    responses((status = 200, description = "The team as it is now", body = Success<Team>), Failures),
)]
async fn update_team(
    State(api): State<Api>,
    caller: Caller,
    Path(id): Path<Uuid>,
    Json(body): Json<UpdateTeam>,
) -> Result<Success<Team>, ApiError> {
    let UpdateTeam { name, ring_timeout_s, members } = body;
    let patch = checked(name.as_deref(), ring_timeout_s, members)?;
    let organization = caller.organization;
    if !teams::update(&caller.store, organization, id, &patch).await? {
        return Err(gone());
    }
    caller.keep().await?;
    people_changed(&api, id).await;
    found(teams::team(&caller.store, organization, id).await?)
}

/// Removes a team that nobody puts callers through to.
#[utoipa::path(
    delete, path = "/api/teams/{id}", tag = "teams", params(("id" = Uuid, Path, description = "The team")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 409, description = "A number or an agent puts callers through to it", body = Failure),
        Failures,
    ),
)]
async fn delete_team(caller: Caller, Path(id): Path<Uuid>) -> Result<StatusCode, ApiError> {
    match teams::delete(&caller.store, caller.organization, id).await? {
        Deleted::Done => Ok(StatusCode::NO_CONTENT),
        Deleted::NotFound => Err(gone()),
        Deleted::InUse => Err(ApiError::conflict(
            "in_use",
            "a phone number or an agent goes by this team; give it another one, or none, first",
        )),
    }
}

fn found(record: Option<Team>) -> Result<Success<Team>, ApiError> {
    record.map(Success::new).ok_or_else(gone)
}

fn gone() -> ApiError {
    ApiError::not_found("there is no such team")
}

fn checked(
    name: Option<&str>,
    ring_timeout_s: Option<i32>,
    members: Option<Vec<EditMember>>,
) -> Result<TeamPatch, ApiError> {
    let mut problems = Problems::default();
    if let Some(name) = name {
        problems.length("name", name, 1, 200);
    }
    if let Some(seconds) = ring_timeout_s {
        problems.range("ring_timeout_s", seconds, 5, 600);
    }
    let members = members.map(|members| checked_members(&mut problems, members));
    problems.none()?;
    Ok(TeamPatch { name: name.map(str::to_owned), ring_timeout_s, members })
}

fn checked_members(problems: &mut Problems, members: Vec<EditMember>) -> Vec<NewMember> {
    problems.count("members", members.len(), MOST_MEMBERS);
    let mut checked: Vec<(usize, NewMember)> = Vec::new();
    for (index, EditMember { name, number, enabled }) in members.into_iter().enumerate().take(MOST_MEMBERS) {
        let field = format!("members[{index}]");
        problems.length(&format!("{field}.name"), &name, 0, 200);
        let Some(number) = problems.number(&format!("{field}.number"), &number) else { continue };
        if let Some((other, _)) = checked.iter().find(|(_, member)| member.number == number) {
            problems.note(&format!("{field}.number"), &format!("is the number of members[{other}]"));
        }
        checked.push((index, NewMember { name, number, enabled }));
    }
    checked.into_iter().map(|(_, member)| member).collect()
}
