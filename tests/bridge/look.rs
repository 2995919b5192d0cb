//! Looking at a server from all sides: webhooks, database, metrics.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use serde_json::Value;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Postgres};
use tokio::time::{Instant, sleep};
use voicebridge::wire::signature::sign;

use crate::world::World;

/// How long anything that must become true may take on a slow machine.
const SOON: Duration = Duration::from_secs(60);

/// Waits for what must become true.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not so in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

impl World {
    /// Waits until nothing of any call is left: no task, and every record is written or given up.
    pub(crate) async fn settled(&self) {
        until("every task of a call has ended", async || self.running.tasks.running() == 0).await;
    }

    /// Changes the default agent; `columns` is what stands after `set` in SQL.
    pub(crate) async fn change_agent(&self, columns: &str) {
        let change = format!("update agents set {columns} where is_default");
        let changed = sqlx::query(AssertSqlSafe(change)).execute(self.running.store.pool()).await;
        assert_eq!(changed.expect("the change is good SQL").rows_affected(), 1);
    }

    /// The database, for another server.
    pub(crate) fn database(&self) -> String {
        self.running.store.pool().connect_options().to_url_lossy().to_string()
    }

    /// Asks for something with the key; status and answer.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.http.post(self.running.public_url.join(path)).json(body);
        let answer = request.bearer_auth(self.running.admin_key.expose_secret()).send().await;
        let answer = answer.expect("the server answers");
        (answer.status().as_u16(), answer.json().await.expect("with JSON"))
    }

    /// One value out of the database.
    pub(crate) async fn value<T>(&self, query: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
    {
        let value = sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(self.running.store.pool());
        value.await.expect("the query is good SQL and finds something")
    }

    /// One count of `/metrics`, such as `frames_dropped_total{why="not_audio"}`; 0 where there is none yet.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = self.running.metrics.encode();
        let wanted = format!("voicebridge_{series} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&wanted));
        value.map_or(0, |value| value.parse().expect("a whole number"))
    }

    /// What a webhook answers to these parameters, signed.
    pub(crate) async fn webhook(&self, path: &str, fields: &[(&str, &str)]) -> String {
        let url = self.running.public_url.join(path);
        let signature = sign(self.token.expose_secret(), &url, fields);
        let request = self.http.post(url).header("x-twilio-signature", signature).form(fields);
        request.send().await.expect("the server answers").text().await.expect("with a text")
    }

    /// Asks without a key and gives the status.
    pub(crate) async fn status(&self, path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = self.http.get(self.running.public_url.join(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.expect("the server answers").status().as_u16()
    }
}
