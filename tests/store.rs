//! The store against a real PostgreSQL.

mod support;

#[tokio::test]
async fn smoke() {
    let store = support::store(4).await;
    store.ping().await.unwrap();
    let agent = voicebridge::store::agents::default_agent(&store).await.unwrap().unwrap();
    assert_eq!(agent.name, "Receptionist");
}
