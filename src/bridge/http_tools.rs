//! Runs an agent's HTTP functions and turns whatever happens into an answer for the model.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::call::tools::{ToolRequest, ToolResult, error};
use crate::ids::{CallSid, ToolCallId};
use crate::store::agents::HttpTool;
use crate::telemetry::{Metrics, ToolOutcome};

/// More than a model can use in one answer; the rest is cut off and said to be.
const MAX_ANSWER_BYTES: usize = 16 * 1024;

/// One function, ready to be called.
struct Tool {
    url: reqwest::Url,
    headers: HeaderMap,
    timeout: Duration,
    arguments: jsonschema::Validator,
}

/// A function that cannot be called as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ToolConfigError {
    /// The address is not one.
    #[error("the address of function {name} must be https, or http to this machine")]
    Url {
        /// The function.
        name: String,
    },
    /// The header cannot be sent.
    #[error("the secret header of function {name} cannot be sent")]
    Header {
        /// The function.
        name: String,
    },
    /// The schema is not one.
    #[error("the parameters of function {name} are not a JSON Schema: {problem}")]
    Schema {
        /// The function.
        name: String,
        /// What the validator says.
        problem: String,
    },
}

/// The functions of one call, and those that are running.
pub(super) struct HttpTools {
    client: reqwest::Client,
    metrics: Metrics,
    call_sid: CallSid,
    tools: BTreeMap<String, std::sync::Arc<Tool>>,
    running: JoinSet<(ToolResult, ToolOutcome)>,
    handles: HashMap<ToolCallId, AbortHandle>,
}

impl HttpTools {
    /// Tools that are not usable are left out and logged: a call is worth more than one function.
    pub(super) fn new(
        client: reqwest::Client,
        metrics: Metrics,
        call_sid: CallSid,
        tools: &[HttpTool],
    ) -> Self {
        let mut usable = BTreeMap::new();
        for tool in tools {
            match prepare(tool) {
                Ok(prepared) => {
                    usable.insert(tool.name.clone(), std::sync::Arc::new(prepared));
                }
                Err(problem) => tracing::error!(%problem, "a function of the agent is not usable"),
            }
        }
        Self { client, metrics, call_sid, tools: usable, running: JoinSet::new(), handles: HashMap::new() }
    }

    /// Starts a function.
    pub(super) fn start(&mut self, request: ToolRequest) {
        let tool = self.tools.get(&request.name).cloned();
        let (client, call_sid, call) = (self.client.clone(), self.call_sid.clone(), request.call.clone());
        let handle = self.running.spawn(async move {
            let call = request.call.clone();
            let (output, outcome) = match tool {
                Some(tool) => run(&client, &tool, &call_sid, request).await,
                None => (error("this function is not available"), ToolOutcome::Refused),
            };
            (ToolResult { call, output }, outcome)
        });
        self.handles.insert(call, handle);
    }

    /// Stops a function whose answer nobody wants any more.
    pub(super) fn cancel(&mut self, call: &ToolCallId) {
        if let Some(handle) = self.handles.remove(call) {
            handle.abort();
            self.metrics.tool_called(ToolOutcome::Cancelled);
        }
    }

    /// The next answer; waits for ever when nothing runs. Cancel-safe.
    pub(super) async fn next(&mut self) -> ToolResult {
        loop {
            match self.running.join_next().await {
                Some(Ok((result, outcome))) => {
                    if self.handles.remove(&result.call).is_some() {
                        self.metrics.tool_called(outcome);
                        return result;
                    }
                }
                Some(Err(_)) => {} // Cancelled, or it panicked: the call's own deadline answers for it.
                None => std::future::pending().await,
            }
        }
    }
}

/// Checks a function as configured.
pub fn check(tool: &HttpTool) -> Result<(), ToolConfigError> {
    prepare(tool).map(|_| ())
}

fn prepare(tool: &HttpTool) -> Result<Tool, ToolConfigError> {
    let name = || tool.name.clone();
    let url = reqwest::Url::parse(&tool.url).map_err(|_| ToolConfigError::Url { name: name() })?;
    let here = url.host_str().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"));
    if url.scheme() != "https" && !(url.scheme() == "http" && here) {
        return Err(ToolConfigError::Url { name: name() });
    }
    let mut headers = HeaderMap::new();
    if let Some(secret) = &tool.secret_header {
        let header = HeaderName::from_bytes(secret.name.as_bytes());
        let value = HeaderValue::from_str(secret.value.expose_secret());
        let (Ok(header), Ok(mut value)) = (header, value) else {
            return Err(ToolConfigError::Header { name: name() });
        };
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    let arguments = jsonschema::validator_for(&tool.parameters)
        .map_err(|problem| ToolConfigError::Schema { name: name(), problem: problem.to_string() })?;
    Ok(Tool { url, headers, timeout: Duration::from_millis(tool.timeout_ms), arguments })
}

async fn run(
    client: &reqwest::Client,
    tool: &Tool,
    call_sid: &CallSid,
    request: ToolRequest,
) -> (String, ToolOutcome) {
    let Ok(arguments) = serde_json::from_str::<Value>(&request.arguments) else {
        return (error("the arguments are not valid JSON"), ToolOutcome::Refused);
    };
    if let Err(problem) = tool.arguments.validate(&arguments) {
        return (error(&format!("the arguments do not fit the function: {problem}")), ToolOutcome::Refused);
    }
    let body = serde_json::json!({
        "call_sid": call_sid, "tool_call_id": request.call, "name": request.name, "arguments": arguments,
    });
    let answer = async {
        let response = client.post(tool.url.clone()).headers(tool.headers.clone()).json(&body).send().await?;
        let status = response.status();
        read(response).await.map(|text| (status, text))
    };
    match timeout(tool.timeout, answer).await {
        Err(_) => (error("the function did not answer in time"), ToolOutcome::TimedOut),
        // The error of the client names the address; the model need not know it.
        Ok(Err(_)) => (error("the function could not be reached"), ToolOutcome::Failed),
        Ok(Ok((status, text))) if status.is_success() => (text, ToolOutcome::Answered),
        Ok(Ok((status, _))) => {
            (error(&format!("the function answered with HTTP {}", status.as_u16())), ToolOutcome::Failed)
        }
    }
}

async fn read(mut response: reqwest::Response) -> reqwest::Result<String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_ANSWER_BYTES {
            bytes.truncate(MAX_ANSWER_BYTES);
            let cut = String::from_utf8_lossy(&bytes).into_owned();
            return Ok(format!("{cut}… (cut off)"));
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
