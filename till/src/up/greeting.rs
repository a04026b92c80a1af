//! What the user is told when the shop is ready.

use std::{fmt::Write as _, path::Path, time::Duration};

use rpc::tls::TlsDir;
use types::Role;

use super::plan::{Runs, ShopConfig, Spec};

/// The URL by which this machine reaches REST.
pub(super) fn rest(specs: &[Spec]) -> String {
    let bridge = specs.iter().find(|spec| spec.role == Runs::Role(Role::HttpBridge));
    let address = bridge.map(|bridge| bridge.address);
    match address {
        Some(address) if !address.ip().is_loopback() => format!("http://{address}"),
        Some(address) => format!("http://localhost:{}", address.port()),
        None => String::new(),
    }
}

/// Where things are, and what to try.
pub(super) fn text(config: &ShopConfig, specs: &[Spec], log_dir: &Path, took: Duration) -> String {
    let rest = rest(specs);
    let mut text = format!("\nThe shop is ready, after {:.1} s.\n\n", took.as_secs_f64());
    let mut line = |what: &str, place: String| {
        // Writing to a String cannot fail.
        let _never = writeln!(text, "  {what:<17} {place}");
    };
    line("REST", rest.clone());
    line("its docs", format!("{rest}/docs"));
    line("it listens on", bound(specs, Runs::Role(Role::HttpBridge)));
    for role in Role::SERVICES.into_iter().chain([Role::Coordinator]) {
        line(&format!("{} gRPC", role.name()), bound(specs, Runs::Role(role)));
    }
    match &config.pd_endpoints {
        Some(endpoints) => line("storage", format!("TiKV, placement drivers {endpoints}")),
        None => line(
            "storage",
            format!("dev-kv on {} (one node, for development)", bound(specs, Runs::DevKv)),
        ),
    }
    line("data", config.data_dir.display().to_string());
    line("logs", log_dir.display().to_string());
    if let Some(certificates) = &config.certificates {
        line("certificates", certificates.path().display().to_string());
    }
    text.push_str("\nTry, in another terminal:\n\n");
    for call in [
        "{stock/batch_init/10/100/5,payment/batch_init/10/1000,orders/batch_init/10/10/10/5}",
        "orders/checkout/0",
    ] {
        let _never = writeln!(text, "  curl -s -X POST '{rest}/{call}'");
    }
    let _never = writeln!(text, "  curl -s {rest}/orders/find/0");
    if let Some(certificates) = &config.certificates {
        let _never = writeln!(text, "  {}", operators(config, certificates));
    }
    text.push_str("\nCtrl-C stops it.\n\n");
    text
}

/// A command to type as an operator of an encrypted shop.
fn operators(config: &ShopConfig, certificates: &TlsDir) -> String {
    let coordinator = config.ports.address(Runs::Role(Role::Coordinator), 0);
    format!(
        "till tx list --coordinator {coordinator} --tls-ca-file {} --tls-cert-file {} \
         --tls-key-file {}",
        certificates.ca().display(),
        certificates.certificate("operator").display(),
        certificates.key("operator").display(),
    )
}

/// The addresses on which the replicas of a role listen, one after the other.
fn bound(specs: &[Spec], role: Runs) -> String {
    let all = specs.iter().filter(|spec| spec.role == role).flat_map(|spec| &spec.listen);
    all.map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::plan::{self, Ports};

    #[test]
    fn the_user_is_told_every_address_that_was_bound() {
        let config = ShopConfig {
            program: "till".into(),
            replicas: 2,
            ports: Ports { http: 8000, grpc_base: 7000, kv: 2379 },
            listen: Vec::new(),
            pd_endpoints: None,
            shards: None,
            data_dir: "/data".into(),
            worker_threads: 1,
            log_format: "pretty".to_owned(),
            participants: Vec::new(),
            checkout_participants: Vec::new(),
            api_key_file: None,
            certificates: None,
        };
        let mut specs = plan::children(&config);
        // This one's IPv6 address could not be bound.
        let stock = specs.iter_mut().find(|spec| spec.name == "stock-1").unwrap();
        stock.bound(vec!["127.0.0.1:7201".parse().unwrap()]);
        let text = text(&config, &specs, Path::new("/data/logs"), Duration::from_secs(1));
        for line in [
            "it listens on     127.0.0.1:8000 [::1]:8000 127.0.0.1:8001 [::1]:8001\n",
            "order gRPC        127.0.0.1:7100 [::1]:7100 127.0.0.1:7101 [::1]:7101\n",
            "stock gRPC        127.0.0.1:7200 [::1]:7200 127.0.0.1:7201\n",
            "payment gRPC      127.0.0.1:7300 [::1]:7300 127.0.0.1:7301 [::1]:7301\n",
            "coordinator gRPC  127.0.0.1:7000 [::1]:7000 127.0.0.1:7001 [::1]:7001\n",
            "storage           dev-kv on 127.0.0.1:2379 (",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
