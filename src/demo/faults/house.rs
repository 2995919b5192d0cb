//! What runs: a database, two servers, a balancer before them and a model behind them.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::SecretString;
use uuid::Uuid;

use crate::app::process::{ProcessOptions, ServerProcess};
use crate::app::stage;
use crate::audio::AudioFormat;
use crate::simulate::balancer::Balancer;
use crate::simulate::model::{ModelOptions, ModelServer};
use crate::store::Store;
use crate::store::cluster::PrivateCluster;

/// A server with nothing to do stops within a moment.
const STOP_WITHIN: Duration = Duration::from_secs(30);

pub(super) struct House {
    pub(super) servers: [ServerProcess; 2],
    pub(super) model: ModelServer,
    pub(super) store: Store,
    pub(super) token: SecretString,
    balancer: Balancer,
    cluster: PrivateCluster,
}

impl House {
    pub(super) async fn start(format: AudioFormat, data_dir: &Path) -> anyhow::Result<Self> {
        crate::app::install_tls();
        // Hardly faster than it is heard, so that answers can be broken into.
        let options = ModelOptions { speed: 1.2, ..ModelOptions::default() };
        let model = ModelServer::on_any_port(options).await.context("cannot start the model")?;
        let balancer = Balancer::start().await.context("cannot start the balancer")?;
        let cluster = PrivateCluster::start_throwaway().await.context("cannot start the database")?;
        let store = Store::connect(cluster.connect_options(), 1).await.context("cannot use the database")?;
        let token = SecretString::from(Uuid::new_v4().simple().to_string());
        let admin_key = Uuid::new_v4().simple().to_string();
        let mut settings = vec![
            ("PUBLIC_URL", format!("http://{}", balancer.addr())),
            ("DATABASE_URL", cluster.url()),
            ("VOICEBRIDGE_ADMIN_KEY", admin_key),
        ];
        settings.extend(stage::far_ends(model.url(), &token, format));
        let start = async |name: &str| {
            let options = ProcessOptions::own(data_dir.join(name))?;
            let server =
                ServerProcess::start(ProcessOptions { settings: settings.clone(), ..options }).await?;
            balancer.add(server.addr);
            anyhow::Ok(server)
        };
        // The first brings the schema up to date.
        let servers = [start("server-1").await?, start("server-2").await?];
        Ok(Self { servers, model, store, token, balancer, cluster })
    }

    /// As Twilio and a user know it.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.balancer.addr())
    }

    pub(super) fn admin_key(&self) -> &str {
        &self.servers[0].admin_key
    }

    /// Which of them carries the call.
    pub(super) async fn server_of_the_call(&self) -> anyhow::Result<usize> {
        let first = self.servers[0].metric("calls_live").await?;
        Ok(usize::from(first == 0.0))
    }

    /// As a power failure would.
    pub(super) async fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        self.balancer.remove(self.servers[number].addr);
        self.servers[number].kill().await
    }

    pub(super) async fn start_again(&mut self, number: usize) -> anyhow::Result<()> {
        self.servers[number].start_again().await?;
        self.balancer.add(self.servers[number].addr);
        Ok(())
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.store.close().await;
        for server in self.servers {
            server.stop(STOP_WITHIN).await?;
        }
        self.model.stop().await;
        self.cluster.stop().await?;
        Ok(())
    }
}
