//! The node's certificate: read at the start, watched from then on.

use std::sync::Arc;
use std::time::Duration;

use flotilla_tls::{Certificate, File, Files, Role, Tls};
use tokio::time::Instant;

use crate::config::{Config, ConfigError, Loaded, Names};
use crate::metrics::NetworkMetrics;
use crate::net::{Allowed, Security};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A certificate that expires so soon ...
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);
/// ... is spoken of so often.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);

impl Loaded {
    /// What the settings `security.*` say; `None`: connections are plain.
    ///
    /// # Errors
    /// A file that cannot be used, or a certificate that others would refuse.
    pub fn security(&self) -> Result<Option<Security>, ConfigError> {
        let Config { ca, cert, key, .. } = &self.config;
        let (Some(ca), Some(cert), Some(key)) = (ca.clone(), cert.clone(), key.clone()) else {
            return Ok(None);
        };
        let host = self.config.advertised(0).host;
        let loaded = Tls::load(Files { ca, cert, key }, Role::Node(host));
        let tls = loaded.map_err(|error| self.contradiction(setting(error.file), error.why))?;
        let allowed = self.allowed(&tls.certificate())?;
        Ok(Some(Security { tls, allowed }))
    }

    fn allowed(&self, own: &Certificate) -> Result<Allowed, ConfigError> {
        let config = &self.config;
        let node = match (&config.node_names, &own.common_name) {
            (Some(names), _) if names.has_any(&own.names) => names.clone(),
            (Some(_), _) => {
                let names = own.names.join(", ");
                let rule = format!(
                    "does not name this node's own certificate, which is of {names}: other nodes would refuse it"
                );
                return Err(self.contradiction("security.node-names", rule));
            }
            (None, Some(name)) => Names::one(name.clone()),
            (None, None) => {
                let rule = "has no common name: set security.node-names to names of all nodes' certificates";
                return Err(self.contradiction("security.cert", rule.to_owned()));
            }
        };
        Ok(Allowed {
            node,
            admin: config.admin_names.clone(),
            client: config.client_names.clone(),
        })
    }
}

fn setting(file: File) -> &'static str {
    match file {
        File::Ca => "security.ca",
        File::Cert => "security.cert",
        File::Key => "security.key",
    }
}

/// Takes changed files into use, and tells how long the certificate still holds. Never ends.
pub(crate) async fn watch(tls: Tls, metrics: Arc<NetworkMetrics>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let mut told = String::new();
    let mut warned: Option<Instant> = None;
    loop {
        ticks.tick().await;
        let files = tls.clone();
        let looked = tokio::task::spawn_blocking(move || files.reload()).await;
        match looked {
            // The node stops.
            Err(_) => return,
            Ok(Ok(None)) => told.clear(),
            Ok(Ok(Some(Certificate { serial, names, .. }))) => {
                told.clear();
                warned = None;
                metrics.certificate_reloads.increment(1);
                tracing::info!(
                    serial,
                    names = names.join(", "),
                    "new connections use the new certificate"
                );
            }
            Ok(Err(error)) => {
                let why = error.to_string();
                if why != told {
                    tracing::error!(
                        why,
                        "the new files of the certificate are not good; the old ones stay in use"
                    );
                    told = why;
                }
            }
        }
        metrics
            .certificate_refused
            .set(if told.is_empty() { 0.0 } else { 1.0 });
        let left = tls.certificate().left();
        metrics.certificate_left.set(left.as_secs_f64());
        let again = warned.is_none_or(|at| at.elapsed() >= WARN_EVERY);
        if left < SOON && again {
            warned = Some(Instant::now());
            let left = humantime::format_duration(Duration::from_secs(left.as_secs())).to_string();
            tracing::warn!(
                left,
                "the node's certificate expires soon: replace its files, nothing has to be stopped"
            );
        }
    }
}
