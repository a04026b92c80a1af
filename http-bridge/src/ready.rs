//! Readiness: whether the services behind the bridge would answer.

use std::time::Duration;

use futures::future::join_all;
use rpc::routing::Router;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::shop::Shop;

/// How long an answer is reused, so that the probes of many load balancers cause one check a
/// second.
const CACHED: Duration = Duration::from_secs(1);
/// Longest time that one replica may take to answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// The last answer, and when it was found.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    last: Mutex<Option<(Instant, Vec<&'static str>)>>,
}

impl Readiness {
    /// The services without a serving replica, as of at most [`CACHED`] ago.
    pub(crate) async fn missing(&self, shop: &Shop) -> Vec<&'static str> {
        // Held while the services are asked, so that concurrent probes share one check.
        let mut last = self.last.lock().await;
        match last.as_ref() {
            Some((at, missing)) if at.elapsed() < CACHED => missing.clone(),
            _ => {
                let missing = missing_now(shop).await;
                *last = Some((Instant::now(), missing.clone()));
                missing
            }
        }
    }
}

async fn missing_now(shop: &Shop) -> Vec<&'static str> {
    let checks = shop.all().map(|(role, service)| async move {
        let serving = is_serving(service).await;
        (!serving).then_some(role.name())
    });
    join_all(checks).await.into_iter().flatten().collect()
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
