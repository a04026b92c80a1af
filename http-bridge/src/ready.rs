//! Whether the services behind the bridge would answer.

use std::time::Duration;

use futures::future::join_all;
use rpc::{
    admin::{Look, Report},
    routing::Router,
};
use serde_json::Map;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{bridge::Bridge, problem::Problem};

/// How long an answer stands: probes of many balancers cost the services one check a second.
const CACHED: Duration = Duration::from_secs(1);
/// Longest that one replica may take to answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// The last answer, and when it was found.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    last: Mutex<Option<(Instant, Vec<&'static str>)>>,
}

impl Bridge {
    /// Succeeds when this process is not draining and some replica of every service says that it is
    /// serving.
    ///
    /// # Errors
    /// UNAVAILABLE, naming the services that are missing.
    pub(crate) async fn ready(&self) -> Result<(), Problem> {
        if self.is_draining() {
            return Err(Problem::not_ready("The bridge is shutting down.".to_owned()));
        }
        let missing = self.missing_of_late().await;
        if missing.is_empty() {
            return Ok(());
        }
        let detail = format!("Not ready: {}.", missing.join(", "));
        Err(Problem::not_ready(detail))
    }

    /// The services of which no replica was serving, as of a moment ago.
    async fn missing_of_late(&self) -> Vec<&'static str> {
        // Held while the services are asked, so that many probes at once are one question.
        let mut last = self.readiness().last.lock().await;
        match last.as_ref() {
            Some((at, missing)) if at.elapsed() < CACHED => missing.clone(),
            _ => {
                let missing = self.missing().await;
                *last = Some((Instant::now(), missing.clone()));
                missing
            }
        }
    }

    async fn missing(&self) -> Vec<&'static str> {
        let checks = self.shop().all().map(|(name, service)| async move {
            let serving = is_serving(service).await;
            (!serving).then_some(name)
        });
        join_all(checks).await.into_iter().flatten().collect()
    }
}

#[tonic::async_trait]
impl Look for Bridge {
    async fn look(&self) -> Report {
        let draining = self.is_draining();
        let missing = self.missing_of_late().await;
        let details = Map::from_iter([
            ("draining".to_owned(), draining.into()),
            ("missing".to_owned(), missing.clone().into()),
        ]);
        Report { ready: !draining && missing.is_empty(), details }
    }
}

async fn is_serving(service: &Router) -> bool {
    for _ in 0..service.endpoints().len() {
        let Ok(route) = service.any() else {
            return false;
        };
        let check = async {
            let request = HealthCheckRequest { service: String::new() };
            HealthClient::new(route.transport).check(request).await
        };
        if let Ok(Ok(response)) = timeout(PATIENCE, check).await
            && response.into_inner().status() == ServingStatus::Serving
        {
            return true;
        }
    }
    false
}
