//! `voicebridge keys …`: the same life of a key, without a server.

use clap::Parser;
use serde_json::json;
use voicebridge::app::keys::{KeysCommand, carry_out};

use crate::surface::Server;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: KeysCommand,
}

impl Server {
    async fn keys(&self, line: &[&str]) -> anyhow::Result<String> {
        let line = Line::parse_from(["keys"].iter().chain(line));
        carry_out(&self.store, line.command).await
    }

    /// What the audit log has of keys, oldest first.
    async fn done_to_keys(&self) -> String {
        self.scalar(
            "select coalesce(string_agg(actor || ' ' || action, ', ' order by id), '') from audit_log",
        )
        .await
    }
}

#[tokio::test]
async fn what_is_done_to_a_key_by_a_command_is_on_record() {
    let server = Server::new().await;
    let made = server.keys(&["create", "--name", "desk", "--scopes", "read,review"]).await.unwrap();
    assert!(made.starts_with("vb_"), "{made}");
    let id: String = server.scalar("select id::text from api_keys").await;
    server.keys(&["rotate", &id]).await.unwrap();
    server.keys(&["revoke", &id]).await.unwrap();
    server.keys(&["rotate", &id]).await.unwrap_err();
    let expected =
        ["created", "rotated", "revoked"].map(|verb| format!("command line api_key.{verb}")).join(", ");
    assert_eq!(server.done_to_keys().await, expected);
    let listed = server.get("/api/api-keys").await.data();
    assert_eq!(
        (&listed[0]["scopes"], &listed[0]["created_by"]),
        (&json!(["read", "review"]), &json!("command line"))
    );
    assert!(listed[0]["revoked_at"].is_string());
}

#[tokio::test]
async fn nothing_is_done_to_a_key_by_a_command_without_its_being_on_record() {
    let server = Server::new().await;
    server.keys(&["create", "--name", "desk", "--scopes", "read"]).await.unwrap();
    let id: String = server.scalar("select id::text from api_keys").await;
    let before = "select k::text || string_agg(s::text, ' ' order by prefix) from api_keys k, api_key_secrets s group by k";
    let was: String = server.scalar(before).await;
    server.execute("create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$").await;
    server
        .execute("create trigger refuse after insert on audit_log for each row execute function refuse()")
        .await;
    for line in
        [vec!["create", "--name", "other", "--scopes", "admin"], vec!["rotate", &id], vec!["revoke", &id]]
    {
        server.keys(&line).await.unwrap_err();
        assert_eq!(server.scalar::<String>(before).await, was, "{line:?}");
    }
}
