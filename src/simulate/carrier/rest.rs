//! The REST API: `/2010-04-01/Accounts/{sid}/Calls…`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::book::{Filter, Record, Status};
use super::faults::Fault;
use super::form::{Form, Refusal, Update};
use super::people::Person;
use super::report::RequestReport;
use super::{Shared, Waiting};
use crate::simulate::caller::EndedBy;
use crate::simulate::caller::leg::Order;

/// Calls on a page, unless asked for otherwise, and at most.
const PAGE_SIZE: usize = 50;
const LARGEST_PAGE: usize = 1000;

/// A request as it arrived.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) form: Vec<(String, String)>,
    pub(super) authorization: Option<String>,
    pub(super) is_form: bool,
}

/// What goes back.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    Json(u16, Value),
    Text(u16, &'static str),
    Nothing(u16),
    /// The connection is cut instead.
    Cut,
}

/// What a path names.
enum Target {
    Account,
    Calls,
    Call(String),
}

type Handled = Result<(Answer, Option<String>), Refusal>;

/// Answers a request, and keeps both in the report.
pub(super) async fn answer(shared: &Arc<Shared>, request: Request) -> Answer {
    let (_waiting, at_once) = Waiting::new(&shared.requests);
    let index = note(shared, &request);
    let (answer, fault, call_sid) = if at_once > shared.options.most_requests {
        (refusal(&too_many()), None, None)
    } else {
        decide(shared, &request).await
    };
    let mut state = shared.lock();
    let report = &mut state.requests[index];
    report.call_sid = call_sid;
    report.fault = fault.map(Fault::word);
    (report.status, report.code) = match &answer {
        Answer::Json(status, body) => {
            let code = body["code"].as_u64().filter(|_| *status >= 400);
            (Some(*status), code.map(|code| code as u32))
        }
        Answer::Text(status, _) | Answer::Nothing(status) => (Some(*status), None),
        Answer::Cut => (None, None),
    };
    answer
}

fn note(shared: &Shared, request: &Request) -> usize {
    let mut query = String::new();
    for (name, value) in &request.query {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        query.push_str(value);
    }
    let mut state = shared.lock();
    state.requests.push(RequestReport {
        at: shared.clock.now(),
        method: request.method.clone(),
        path: format!("{}{query}", request.path),
        parameters: request.form.clone(),
        status: None,
        code: None,
        call_sid: None,
        fault: None,
    });
    state.requests.len() - 1
}

async fn decide(shared: &Arc<Shared>, request: &Request) -> (Answer, Option<Fault>, Option<String>) {
    let target = match target(shared, request) {
        Ok(target) => target,
        Err(refused) => return (refusal(&refused), None, None),
    };
    let fault = {
        let mut state = shared.lock();
        let mut random = state.random.clone();
        let fault = if request.method == "POST" && matches!(target, Target::Calls) {
            state.asked += 1;
            state.faults.of_call(state.asked, &mut random)
        } else {
            state.faults.of_other(&mut random)
        };
        state.random = random;
        fault
    };
    match fault {
        Some(Fault::TooMany) => return (refusal(&too_many()), fault, None),
        Some(Fault::ErrorBefore) => return (Answer::Text(503, "upstream connect error"), fault, None),
        Some(Fault::LostBefore) => return (Answer::Cut, fault, None),
        _ => {}
    }
    debug_assert!(fault.is_none_or(Fault::is_carried_out), "the others have been answered");
    let (answer, call_sid) = match handle(shared, request, target) {
        Ok(handled) => handled,
        Err(refused) => (refusal(&refused), None),
    };
    let answer = match fault {
        Some(Fault::ErrorAfter) => {
            refusal(&Refusal::new(500, 20500, "An internal server error has occurred"))
        }
        Some(Fault::LostAfter) => Answer::Cut,
        Some(Fault::Slow) => {
            let slow = shared.lock().faults.slow;
            sleep(slow).await;
            answer
        }
        _ => answer,
    };
    (answer, fault, call_sid)
}

/// Who asks, and what for.
fn target(shared: &Shared, request: &Request) -> Result<Target, Refusal> {
    let options = &shared.options;
    let expected = format!("{}:{}", options.account_sid, options.auth_token.expose_secret());
    let given = request.authorization.as_deref().and_then(|header| header.strip_prefix("Basic "));
    let given = given.and_then(|encoded| STANDARD.decode(encoded).ok());
    if given.as_deref() != Some(expected.as_bytes()) {
        return Err(Refusal::new(401, 20003, "Authenticate"));
    }
    let not_found =
        || Refusal::new(404, 20404, format!("The requested resource {} was not found", request.path));
    let below = request.path.strip_prefix("/2010-04-01/Accounts/").ok_or_else(not_found)?;
    let below = below.strip_prefix(options.account_sid.as_str()).ok_or_else(not_found)?;
    Ok(match below {
        ".json" => Target::Account,
        "/Calls.json" => Target::Calls,
        _ => {
            let sid = below.strip_prefix("/Calls/").and_then(|rest| rest.strip_suffix(".json"));
            Target::Call(sid.filter(|sid| !sid.contains('/')).ok_or_else(not_found)?.to_owned())
        }
    })
}

fn handle(shared: &Arc<Shared>, request: &Request, target: Target) -> Handled {
    if request.method == "POST" && !request.is_form {
        shared.complain("a body is not application/x-www-form-urlencoded".into());
    }
    match (request.method.as_str(), target) {
        ("GET", Target::Account) => {
            let account = json!({"sid": shared.options.account_sid, "status": "active", "type": "Full"});
            Ok((Answer::Json(200, account), None))
        }
        ("POST", Target::Calls) => create(shared, request),
        ("GET", Target::Calls) => Ok((list(shared, request), None)),
        ("GET", Target::Call(sid)) => {
            let found = shared.with_call(&sid, |record| record.resource(&shared.options.account_sid));
            let resource = found.ok_or_else(|| gone(&sid))?;
            Ok((Answer::Json(200, resource), Some(sid)))
        }
        ("POST", Target::Call(sid)) => update(shared, request, sid),
        ("DELETE", Target::Call(sid)) => {
            let over = shared.with_call(&sid, |record| record.status.is_over());
            match over {
                Some(true) => Ok((Answer::Nothing(204), Some(sid))),
                Some(false) => Err(Refusal::new(400, 20009, "A call in progress cannot be deleted")),
                None => Err(gone(&sid)),
            }
        }
        (method, _) => Err(Refusal::new(405, 20004, format!("Method {method} is not allowed"))),
    }
}

fn create(shared: &Arc<Shared>, request: &Request) -> Handled {
    let mut form = Form::new(&request.form);
    let wish = form.wish(&shared.options.numbers);
    for violation in form.violations {
        shared.complain(format!("POST Calls: {violation}"));
    }
    let wish = wish?;
    // Who refuses, refuses always.
    if let Person::Refused { code } = shared.options.people.who(&wish.to, 0, shared.options.seed) {
        return Err(Refusal::new(400, code, "The number cannot be called"));
    }
    let (sid, _) = shared.enter("outbound-api", None, wish);
    let resource = shared.with_call(&sid, |record| record.resource(&shared.options.account_sid));
    if !shared.queue(&sid) {
        shared.end(&sid, Status::Failed, 503);
        return Err(Refusal::new(400, 22005, "The queue of calls is full"));
    }
    Ok((Answer::Json(201, resource.unwrap_or_default()), Some(sid)))
}

fn update(shared: &Arc<Shared>, request: &Request, sid: String) -> Handled {
    let mut form = Form::new(&request.form);
    let update = form.update();
    for violation in form.violations {
        shared.complain(format!("POST Calls/{sid}: {violation}"));
    }
    let update = update?;
    let forgets = shared.options.forgets;
    let changed = shared.with_call(&sid, |record| change(record, update, forgets));
    let begins = changed.ok_or_else(|| gone(&sid))??;
    if begins {
        // Nobody waits for it in the queue any more.
        shared.end(&sid, Status::Canceled, super::life::REQUEST_TERMINATED);
    }
    let resource = shared.with_call(&sid, |record| record.resource(&shared.options.account_sid));
    Ok((Answer::Json(200, resource.unwrap_or_default()), Some(sid)))
}

/// Carries out an update; true when the call was still queued and is over with it.
fn change(record: &mut Record, update: Update, forgets: bool) -> Result<bool, Refusal> {
    let sid = record.log.sid.clone();
    let not_in_progress =
        |what: &str| Err(Refusal::new(400, 21220, format!("Call is not in-progress. Cannot {what}.")));
    match (record.status, update) {
        (_, Update::Nothing) => Ok(false),
        (status, _) if status.is_over() && forgets => Err(gone(&sid)),
        (status, Update::Follow(_)) if status != Status::InProgress && record.orders.is_none() => {
            not_in_progress("redirect")
        }
        (status, _) if status.is_over() => not_in_progress("update"),
        (Status::InProgress, Update::Cancel) => not_in_progress("cancel"),
        (_, Update::Follow(source)) => {
            obey(record, Order::Follow(source));
            Ok(false)
        }
        (Status::InProgress, _) => {
            obey(record, Order::End(EndedBy::Carrier));
            Ok(false)
        }
        (_, Update::Complete | Update::Cancel) => {
            let queued = record.log.dialed_at.is_none();
            obey(record, Order::End(EndedBy::Carrier));
            Ok(queued)
        }
    }
}

/// Tells the call, in whichever way it can be told.
fn obey(record: &mut Record, order: Order) {
    match &record.orders {
        // A call that has so many orders waiting obeys the first.
        Some(orders) => drop(orders.try_send(order)),
        None => record.cancel.cancel(),
    }
}

fn list(shared: &Shared, request: &Request) -> Answer {
    let (filter, unknown) = Filter::read(&request.query);
    for name in unknown {
        shared.complain(format!("GET Calls: `{name}` is not understood"));
    }
    let given = |name: &str| {
        let found = request.query.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    };
    let size = given("PageSize").and_then(|text| text.parse().ok()).unwrap_or(PAGE_SIZE);
    let size = size.clamp(1, LARGEST_PAGE);
    let page: u64 = given("Page").and_then(|text| text.parse().ok()).unwrap_or(0);
    let account = &shared.options.account_sid;
    let state = shared.lock();
    let found = state.book.list(&filter, shared.options.list_lag);
    // A page goes on after the last call of the one before, whatever was added since.
    let after = given("PageToken").and_then(|token| token.strip_prefix("PA"));
    let from =
        after.and_then(|sid| found.iter().position(|record| record.log.sid == sid)).map_or(0, |at| at + 1);
    let end = found.len().min(from + size);
    let calls: Vec<Value> = found[from..end].iter().map(|record| record.resource(account)).collect();
    let uri = |page: u64, token: Option<&str>| {
        let mut url = reqwest::Url::parse("http://x/").expect("this is a URL");
        url.set_path(&request.path);
        let kept = request
            .query
            .iter()
            .filter(|(name, _)| !["Page", "PageToken", "PageSize"].contains(&name.as_str()));
        url.query_pairs_mut().extend_pairs(kept);
        url.query_pairs_mut()
            .append_pair("PageSize", &size.to_string())
            .append_pair("Page", &page.to_string());
        if let Some(token) = token {
            url.query_pairs_mut().append_pair("PageToken", &format!("PA{token}"));
        }
        format!("{}?{}", url.path(), url.query().unwrap_or_default())
    };
    let next =
        (end < found.len()).then(|| uri(page + 1, found.get(end - 1).map(|last| last.log.sid.as_str())));
    Answer::Json(
        200,
        json!({
            "calls": calls,
            "first_page_uri": uri(0, None),
            "next_page_uri": next,
            "previous_page_uri": null,
            "page": page,
            "page_size": size,
            "start": from,
            "end": end.saturating_sub(1),
            "uri": uri(page, None),
        }),
    )
}

fn gone(sid: &str) -> Refusal {
    Refusal::new(404, 20404, format!("The requested resource /Calls/{sid}.json was not found"))
}

fn too_many() -> Refusal {
    Refusal::new(429, 20429, "Too Many Requests")
}

fn refusal(refused: &Refusal) -> Answer {
    let body = json!({
        "code": refused.code,
        "message": refused.message,
        "more_info": format!("https://www.twilio.com/docs/errors/{}", refused.code),
        "status": refused.status,
    });
    Answer::Json(refused.status, body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::caller::leg::Source;
    use crate::simulate::carrier::plain_wish;

    #[test]
    fn an_update_fits_how_the_call_stands() {
        let redirect = || Update::Follow(Source::Text("<Response/>".into()));
        let code = |status: Status, update: Update, forgets: bool| {
            let wish = plain_wish("+14155550123", "+14155550100", Source::Text(String::new()), None);
            let mut record = Record::new(0, "outbound-api", None, wish, jiff::Timestamp::UNIX_EPOCH);
            record.set(status);
            change(&mut record, update, forgets).map_err(|refused| refused.code)
        };
        assert_eq!(code(Status::Queued, Update::Cancel, false), Ok(true));
        assert_eq!(code(Status::Queued, Update::Complete, false), Ok(true));
        assert_eq!(code(Status::InProgress, Update::Complete, false), Ok(false));
        assert_eq!(code(Status::InProgress, redirect(), false), Ok(false));
        assert_eq!(code(Status::InProgress, Update::Cancel, false), Err(21220));
        assert_eq!(code(Status::Ringing, redirect(), false), Err(21220));
        assert_eq!(code(Status::Completed, Update::Complete, false), Err(21220));
        assert_eq!(code(Status::Completed, Update::Complete, true), Err(20404));
    }
}
