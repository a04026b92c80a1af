//! Finds the placement driver that leads and answers.
//!
//! The client asks one member after the other, and waits as long as one of them hangs: first each
//! configured address, then every other member that PD lists, and only then the leader. So this
//! module asks all members at once, each with its own deadline, until one says that it is the
//! leader. [`super::front`] tells the client about that member only.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use types::error::chain;

use super::{TikvConfig, TikvTls};

#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    let_underscore_drop,
    unused_qualifications,
    clippy::pedantic,
    clippy::wildcard_enum_match_arm,
    clippy::large_futures,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub(super) mod wire {
    tonic::include_proto!("pdpb");
}

use wire::{GetMembersRequest, GetMembersResponse, Member, pd_client::PdClient};

/// Pause between two requests to one member, short so that a starting store is found at once.
const ASK_GAP: Duration = Duration::from_millis(50);
const ASK_GAP_MAX: Duration = Duration::from_secs(1);
/// How long to wait, after the first leader was found, for the other addresses to confirm that they
/// are in its cluster.
const AGREE: Duration = Duration::from_millis(500);

/// The leading member, with an address at which it answers.
#[derive(Debug, Clone)]
pub(super) struct Leader {
    pub(super) cluster_id: u64,
    pub(super) member: Member,
}

impl Leader {
    /// The address at which it answers.
    pub(super) fn address(&self) -> &str {
        self.member.client_urls.first().map_or("", |url| bare(url))
    }
}

/// The known addresses of members, and the settings for asking them.
#[derive(Debug)]
pub(super) struct Members {
    configured: BTreeSet<String>,
    /// Addresses that the last leader listed.
    listed: BTreeSet<String>,
    /// Set by the first leader. Another cluster would hold other data.
    cluster_id: Option<u64>,
    tls: Option<TikvTls>,
    patience: Duration,
}

/// A member's answer, or why it is not usable.
type MembersResult = Result<GetMembersResponse, String>;

impl Members {
    pub(super) fn new(config: &TikvConfig) -> Self {
        Self {
            configured: config
                .pd_endpoints
                .iter()
                .map(|address| bare(address).to_owned())
                .collect(),
            listed: BTreeSet::new(),
            cluster_id: None,
            tls: config.tls.clone(),
            patience: Duration::from_millis(config.request_timeout_ms),
        }
    }

    /// Finds the leader, however long it takes until one answers.
    pub(super) async fn leader(&mut self) -> Leader {
        let (leader, listed) = self.search().await;
        self.cluster_id = Some(leader.cluster_id);
        self.listed = listed;
        leader
    }

    async fn search(&self) -> (Leader, BTreeSet<String>) {
        let addresses: BTreeSet<String> = self.configured.union(&self.listed).cloned().collect();
        let ask = |address: &String| self.ask_after(Duration::ZERO, address.clone());
        let mut asking: FuturesUnordered<_> = addresses.iter().map(ask).collect();
        let mut search = Search::new(self.cluster_id, addresses);
        let mut found = None;
        while let Some((address, pause, answer)) = asking.next().await {
            match search.weigh(&address, answer) {
                Said::Leads(leader, listed) if self.cluster_id.is_some() => {
                    return (leader, listed);
                }
                Said::Leads(leader, listed) => {
                    found.get_or_insert((Instant::now(), leader, listed));
                }
                Said::Follows(leaders) => asking.extend(leaders.iter().map(ask)),
                Said::Nothing => {}
            }
            asking.push(self.ask_after((pause * 2).clamp(ASK_GAP, ASK_GAP_MAX), address));
            // The leader is asked repeatedly, so this check runs often.
            if let Some((_, leader, listed)) =
                found.take_if(|(at, ..)| search.agrees(&self.configured, at.elapsed()))
            {
                return (leader, listed);
            }
        }
        // Unreachable: each address is asked over and over, and there is at least one.
        std::future::pending().await
    }

    async fn ask_after(
        &self,
        pause: Duration,
        address: String,
    ) -> (String, Duration, MembersResult) {
        sleep(pause).await;
        let answer = match timeout(self.patience, self.ask(&address)).await {
            Ok(answer) => answer.map_err(|error| chain(&*error)),
            Err(_) => Err(format!("no answer in {} ms", self.patience.as_millis())),
        };
        (address, pause, answer)
    }

    async fn ask(&self, address: &str) -> Result<GetMembersResponse, Box<dyn Error + Send + Sync>> {
        let endpoint = endpoint(address, self.tls.as_ref()).await?;
        let mut client = PdClient::new(endpoint.connect().await?);
        Ok(client.get_members(GetMembersRequest { header: None }).await?.into_inner())
    }
}

/// The endpoint of a member. If the store has TLS, it uses the certificates as they are now.
pub(super) async fn endpoint(
    address: &str,
    tls: Option<&TikvTls>,
) -> Result<Endpoint, Box<dyn Error + Send + Sync>> {
    let Some(TikvTls { ca, cert, key }) = tls else {
        return Ok(Endpoint::from_shared(format!("http://{address}"))?);
    };
    let (ca, cert) = (tokio::fs::read(ca).await?, tokio::fs::read(cert).await?);
    let identity = Identity::from_pem(cert, tokio::fs::read(key).await?);
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).identity(identity);
    Ok(Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?)
}

/// The meaning of one answer.
enum Said {
    /// The member leads, and knows these addresses.
    Leads(Leader, BTreeSet<String>),
    /// Another member leads, at these addresses, which have not been asked yet.
    Follows(Vec<String>),
    Nothing,
}

/// The answers so far.
#[derive(Debug)]
struct Search {
    asked: BTreeSet<String>,
    cluster_id: Option<u64>,
    /// The last answer of each address.
    heard: BTreeMap<String, String>,
    /// Addresses of a cluster other than the first one found.
    foreign: BTreeSet<String>,
    found: bool,
    told: bool,
}

impl Search {
    fn new(cluster_id: Option<u64>, asked: BTreeSet<String>) -> Self {
        let (heard, foreign) = (BTreeMap::new(), BTreeSet::new());
        Self { asked, cluster_id, heard, foreign, found: false, told: false }
    }

    /// Whether nothing contradicts the leader found `found_ago` ago. Addresses of two clusters are
    /// an operator's mistake; choosing one of them could split the data.
    fn agrees(&self, configured: &BTreeSet<String>, found_ago: Duration) -> bool {
        let all_heard = configured.iter().all(|address| self.heard.contains_key(address));
        self.foreign.is_empty() && (all_heard || found_ago >= AGREE)
    }

    fn weigh(&mut self, address: &str, answer: MembersResult) -> Said {
        let (said, text) = match answer.and_then(|answer| leader_of(address, answer)) {
            Err(problem) => (Said::Nothing, problem),
            Ok((leader, listed, leads)) => {
                let cluster_id = *self.cluster_id.get_or_insert(leader.cluster_id);
                if cluster_id != leader.cluster_id {
                    self.foreign.insert(address.to_owned());
                    let text = format!("is of cluster {}, not {cluster_id}", leader.cluster_id);
                    (Said::Nothing, text)
                } else if leads {
                    self.foreign.remove(address);
                    self.found = true;
                    (Said::Leads(leader, listed), "leads".to_owned())
                } else {
                    self.foreign.remove(address);
                    let urls = leader.member.client_urls.iter().map(|url| bare(url).to_owned());
                    let new = urls.filter(|url| self.asked.insert(url.clone())).collect();
                    (Said::Follows(new), format!("follows {}", leader.member.name))
                }
            }
        };
        self.heard.insert(address.to_owned(), text);
        if !self.told && self.is_worth_telling() {
            tracing::warn!(members = ?self.heard, "cannot reach the store yet");
            self.told = true;
        }
        said
    }

    /// Whether an operator should know why the search goes on: all addresses have answered and none
    /// leads, or some are of another cluster.
    fn is_worth_telling(&self) -> bool {
        let has_no_leader = !self.found && self.heard.len() >= self.asked.len();
        has_no_leader || !self.foreign.is_empty()
    }
}

/// The leader that a member names, all addresses that it knows, and whether it is the leader
/// itself.
fn leader_of(
    address: &str,
    answer: GetMembersResponse,
) -> Result<(Leader, BTreeSet<String>, bool), String> {
    let header = answer.header.ok_or("its answer has no header")?;
    if let Some(error) = header.error {
        return Err(error.message);
    }
    let mut member = answer.leader.ok_or("knows no leader")?;
    let urls = answer.members.iter().flat_map(|member| &member.client_urls);
    let listed = urls.map(|url| bare(url).to_owned()).collect();
    let itself = member.client_urls.iter().any(|url| bare(url) == address);
    if itself {
        member.client_urls.retain(|url| bare(url) == address);
    }
    Ok((Leader { cluster_id: header.cluster_id, member }, listed, itself))
}

/// `host:port` without a scheme.
fn bare(url: &str) -> &str {
    let url = url.trim();
    let bare = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    bare.unwrap_or(url).trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use wire::ResponseHeader;

    use super::*;

    fn member(id: u64, urls: &[&str]) -> Member {
        let client_urls = urls.iter().map(ToString::to_string).collect();
        Member { name: format!("pd-{id}"), member_id: id, client_urls, ..Member::default() }
    }

    #[allow(clippy::unnecessary_wraps, reason = "as a member answers")]
    fn answer(cluster_id: u64, leader: Member) -> MembersResult {
        let members = vec![leader.clone(), member(9, &["http://c:1"])];
        let header = Some(ResponseHeader { cluster_id, error: None });
        Ok(GetMembersResponse { header, members, leader: Some(leader) })
    }

    fn addresses(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_a_member_that_names_itself_leads() {
        let mut search = Search::new(None, addresses(&["a:1"]));
        let said = search.weigh("a:1", answer(7, member(2, &["http://b:1", "https://b2:1/"])));
        assert!(matches!(said, Said::Follows(urls) if urls == ["b:1", "b2:1"]));
        let said = search.weigh("a:1", answer(7, member(2, &["http://b:1"])));
        assert!(matches!(said, Said::Follows(urls) if urls.is_empty()), "it is asked already");
        let said = search.weigh("b2:1", answer(7, member(2, &["http://b:1", "https://b2:1/"])));
        let Said::Leads(leader, listed) = said else { panic!("it names itself") };
        assert_eq!((leader.address(), leader.cluster_id), ("b2:1", 7));
        assert_eq!(listed, addresses(&["b:1", "b2:1", "c:1"]));
    }

    #[test]
    fn addresses_of_two_clusters_agree_on_no_leader() {
        let both = addresses(&["a:1", "b:1"]);
        let mut search = Search::new(None, both.clone());
        search.weigh("a:1", answer(7, member(1, &["http://a:1"])));
        assert!(!search.agrees(&both, Duration::ZERO), "the other may be of another cluster");
        assert!(search.agrees(&both, AGREE), "it may hang");
        search.weigh("b:1", answer(8, member(1, &["http://b:1"])));
        assert!(!search.agrees(&both, AGREE));
        search.weigh("b:1", answer(7, member(1, &["http://a:1"])));
        assert!(search.agrees(&both, Duration::ZERO));
    }

    #[test]
    fn a_search_that_found_the_leader_warns_of_nothing() {
        let mut search = Search::new(None, addresses(&["a:1", "b:1"]));
        search.weigh("a:1", answer(7, member(1, &["http://a:1"])));
        search.weigh("b:1", answer(7, member(1, &["http://a:1"])));
        assert!(!search.told, "the last answer is a follower's, but the leader is known");
        let mut search = Search::new(None, addresses(&["a:1", "b:1"]));
        search.weigh("a:1", answer(7, member(2, &["http://c:1"])));
        search.weigh("b:1", answer(7, member(2, &["http://c:1"])));
        assert!(!search.told, "the leader has not been asked yet");
        search.weigh("c:1", Err("no answer in 3000 ms".to_owned()));
        assert!(search.told);
    }

    #[test]
    fn what_is_no_answer_of_a_leader_says_why() {
        let mut search = Search::new(Some(7), addresses(&["a:1", "b:1"]));
        search.weigh("a:1", Err("connection refused".to_owned()));
        search.weigh("b:1", Ok(GetMembersResponse::default()));
        assert_eq!(search.heard["a:1"], "connection refused");
        assert_eq!(search.heard["b:1"], "its answer has no header");
    }
}
