use super::super::listen::PORT_BASE_MAX;
use super::*;

fn shop_config(replicas: u16, pd_endpoints: Option<&str>) -> ShopConfig {
    ShopConfig {
        program: "till".into(),
        replicas,
        ports: Ports { http: 8000, grpc_base: 7000, kv: 2379 },
        listen: Vec::new(),
        pd_endpoints: pd_endpoints.map(str::to_owned),
        shards: Some(6),
        data_dir: "/data".into(),
        worker_threads: 1,
        log_format: "pretty".to_owned(),
        participants: vec!["loyalty=127.0.0.1:7400,127.0.0.1:7401".to_owned()],
        checkout_participants: vec!["loyalty".to_owned()],
        api_key_file: Some("/keys".into()),
        certificates: None,
    }
}

fn encrypted(pd_endpoints: Option<&str>) -> (ShopConfig, tempfile::TempDir) {
    let place = tempfile::tempdir().unwrap();
    let certificates = Some(crate::up::certificates::open(place.path(), &[]).unwrap());
    (ShopConfig { certificates, ..shop_config(2, pd_endpoints) }, place)
}

#[test]
fn every_role_proves_itself_with_a_certificate_of_its_own() {
    for (pd_endpoints, stores) in [(None, 8), (Some("pd:2379"), 0)] {
        let (config, _place) = encrypted(pd_endpoints);
        let specs = children(&config);
        for spec in &specs {
            let own = format!("/{}.pem", spec.role.name());
            assert!(spec.args.iter().any(|arg| arg.ends_with(&own)), "{}", spec.name);
        }
        let to_store = |spec: &&Spec| spec.args.contains(&"--store-cert-file".to_owned());
        assert_eq!(specs.iter().filter(to_store).count(), stores);
    }
}

#[test]
fn every_command_line_parses() {
    let (encrypted, _place) = encrypted(None);
    for spec in [children(&shop_config(3, None)), children(&encrypted)].concat() {
        crate::cli::parse(std::iter::once("till".to_owned()).chain(spec.args.clone()))
            .unwrap_or_else(|error| panic!("{}: {error}", spec.name));
    }
}

#[test]
fn who_wants_so_many_shards_gets_them_from_any_store() {
    let told = |pd_endpoints, shards| {
        let specs = children(&ShopConfig { shards, ..shop_config(1, pd_endpoints) });
        specs.iter().filter(|spec| spec.args.iter().any(|arg| arg == "--shards")).count()
    };
    assert_eq!((told(None, Some(6)), told(Some("pd:2379"), Some(6))), (3, 3));
    assert_eq!((told(None, None), told(Some("pd:2379"), None)), (0, 0));
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(shards_of_a_new_shop(dir.path(), 3), Some(3));
    std::fs::create_dir(kv_dir(dir.path())).unwrap();
    assert_eq!(shards_of_a_new_shop(dir.path(), 3), None);
}

#[test]
fn no_two_children_share_a_port() {
    let all = children(&shop_config(REPLICAS_MAX, None));
    let ports: BTreeSet<u16> =
        all.iter().flat_map(|spec| [spec.address.port(), spec.admin[0].port()]).collect();
    assert_eq!(ports.len(), 2 * all.len());
    assert_eq!(all.len(), 5 * usize::from(REPLICAS_MAX) + 1);
    assert_eq!(collision(&all), None);
}

#[test]
fn ports_that_were_chosen_for_two_are_told_before_anybody_starts() {
    let among = |ports| collision(&children(&ShopConfig { ports, ..shop_config(1, None) }));
    assert_eq!(among(Ports { http: 8000, grpc_base: 7000, kv: 2379 }), None);
    for (ports, children) in [
        (Ports { http: 7750, grpc_base: 7700, kv: 2379 }, ["http-bridge-0", "coordinator-0"]),
        (Ports { http: 8000, grpc_base: 7000, kv: 7100 }, ["dev-kv-0", "order-0"]),
        (Ports { http: 7450, grpc_base: 7000, kv: 2379 }, ["http-bridge-0", "http-bridge-0"]),
    ] {
        let told = among(ports).unwrap_or_default();
        assert!(children.iter().all(|child| told.contains(child)), "{told:?}");
    }
}

#[test]
fn ports_never_run_over() {
    let ports = Ports { http: PORT_BASE_MAX, grpc_base: PORT_BASE_MAX, kv: u16::MAX };
    for role in Runs::all() {
        assert!(ports.of(role, REPLICAS_MAX - 1) >= PORT_BASE_MAX);
        assert!(ports.admin_of(role, REPLICAS_MAX - 1) >= PORT_BASE_MAX);
    }
}

#[test]
fn a_cluster_of_ones_own_replaces_dev_kv() {
    let all = children(&shop_config(2, Some("10.0.0.1:2379")));
    assert!(all.iter().all(|spec| spec.role != Runs::DevKv));
    let order = all.iter().find(|spec| spec.name == "order-1").unwrap();
    assert!(order.args.contains(&"10.0.0.1:2379".to_owned()));
}

#[test]
fn nothing_listens_beyond_this_machine_but_rest_that_is_told_to() {
    let open = |spec: &Spec| {
        let all = spec.listen.iter().chain(&spec.admin);
        all.into_iter().any(|address| !address.ip().is_loopback())
    };
    assert!(!children(&shop_config(2, None)).iter().any(open));
    let listen = vec!["0.0.0.0".parse().unwrap(), "[::]:9000".parse().unwrap()];
    let told = children(&ShopConfig { listen, ..shop_config(2, None) });
    for spec in &told {
        assert_eq!(open(spec), spec.role == Runs::Role(Role::HttpBridge), "{}", spec.name);
    }
    let rest = told.iter().find(|spec| spec.name == "http-bridge-1").unwrap();
    let rest: Vec<String> = rest.listen.iter().map(ToString::to_string).collect();
    assert_eq!(rest, ["0.0.0.0:8001", "[::]:9001"]);
}

#[test]
fn children_are_told_to_listen_on_loopback_of_both_families() {
    for spec in children(&shop_config(2, None)) {
        let told = |flag: &str| -> Vec<SocketAddr> {
            let flags = spec.args.windows(2).filter(|pair| pair[0] == flag);
            flags.map(|pair| pair[1].parse().unwrap()).collect()
        };
        let port = spec.address.port();
        let work = rpc::listen::loopback(port);
        let work = if spec.role == Runs::DevKv { &work[..1] } else { &work };
        assert_eq!(told("--listen"), work, "{}", spec.name);
        let admin = rpc::listen::loopback(spec.admin[0].port());
        assert_eq!(told("--admin-listen"), admin, "{}", spec.name);
    }
}

#[test]
fn a_child_is_asked_where_it_listens() {
    let listen = |listen: &[&str]| {
        let mut spec = children(&shop_config(1, None)).remove(1);
        assert_eq!(spec.role, Runs::Role(Role::HttpBridge));
        spec.bound(listen.iter().map(|address| address.parse().unwrap()).collect());
        spec.address.to_string()
    };
    assert_eq!(listen(&["127.0.0.1:8000", "[::1]:8000"]), "127.0.0.1:8000");
    assert_eq!(listen(&["[::]:8000", "0.0.0.0:8001"]), "127.0.0.1:8001");
    assert_eq!(listen(&["[::]:8000"]), "[::1]:8000");
    assert_eq!(listen(&["10.1.2.3:8000"]), "10.1.2.3:8000");
}

#[test]
fn callers_are_stopped_before_the_services_that_they_call() {
    let wave = |role| Runs::Role(role).wave();
    for role in Role::ALL.into_iter().filter(|role| !role.is_service()) {
        let services = role.calls().iter().filter(|callee| callee.is_service());
        services.for_each(|service| assert!(wave(role) < wave(*service), "{role:?}"));
    }
    assert!(Runs::all().all(|runs| runs.wave() < Runs::WAVES));
}
