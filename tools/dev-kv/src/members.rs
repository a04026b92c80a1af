//! The placement drivers of the store, one of which leads. Each can be made to hang.

use crate::problem::problem;
use crate::wire::pdpb;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

#[derive(Debug)]
struct Member {
    id: u64,
    name: String,
    /// URL at which clients reach it.
    url: String,
    hangs: watch::Sender<bool>,
}

/// All placement drivers; at least one.
#[derive(Debug)]
pub(crate) struct Members {
    all: Vec<Member>,
    /// The leader's id.
    leader: AtomicU64,
}

impl Members {
    /// Id of the first member. It leads until another one is told to.
    pub(crate) const FIRST: u64 = 1;

    /// Members at these URLs, with ids from [`Self::FIRST`] on. Those with an id in `hanging` hang.
    pub(crate) fn new(urls: impl IntoIterator<Item = String>, hanging: &[u64]) -> Self {
        let member = |(id, url): (u64, String)| {
            let name = if id == Self::FIRST { "dev-kv".into() } else { format!("dev-kv-{id}") };
            Member { id, name, url, hangs: watch::Sender::new(hanging.contains(&id)) }
        };
        Self {
            all: (Self::FIRST..).zip(urls).map(member).collect(),
            leader: AtomicU64::new(Self::FIRST),
        }
    }

    fn by_id(&self, id: u64) -> Option<&Member> {
        self.all.iter().find(|member| member.id == id)
    }

    pub(crate) fn leads(&self, id: u64) -> bool {
        self.leader.load(Ordering::Relaxed) == id
    }

    pub(crate) fn hangs(&self, id: u64) -> bool {
        self.by_id(id).is_some_and(|member| *member.hangs.borrow())
    }

    /// Waits while this member hangs.
    pub(crate) async fn while_hanging(&self, id: u64) {
        if let Some(member) = self.by_id(id) {
            let mut hangs = member.hangs.subscribe();
            // Cannot fail, because the member owns the sender.
            let _ended = hangs.wait_for(|hangs| !hangs).await;
        }
    }

    pub(crate) fn to_wire(&self) -> Vec<pdpb::Member> {
        self.all.iter().map(Member::to_wire).collect()
    }

    pub(crate) fn leader(&self) -> Option<pdpb::Member> {
        self.by_id(self.leader.load(Ordering::Relaxed)).map(Member::to_wire)
    }

    fn page(&self) -> Value {
        let all: Vec<Value> = self.all.iter().map(Member::page).collect();
        let leader = self.all.iter().find(|member| self.leads(member.id)).map(Member::page);
        json!({ "members": all, "leader": leader })
    }

    fn health(&self) -> Value {
        let health = |member: &Member| {
            let healthy = !*member.hangs.borrow();
            json!({ "name": member.name, "member_id": member.id, "health": healthy })
        };
        self.all.iter().map(health).collect()
    }
}

impl Member {
    fn to_wire(&self) -> pdpb::Member {
        pdpb::Member {
            name: self.name.clone(),
            member_id: self.id,
            peer_urls: vec![self.url.clone()],
            client_urls: vec![self.url.clone()],
        }
    }

    fn page(&self) -> Value {
        json!({ "name": self.name, "member_id": self.id, "client_urls": [self.url] })
    }
}

/// PD's pages about its members, and their administration.
pub(crate) fn pages(members: Arc<Members>) -> Router {
    Router::new()
        .route("/pd/api/v1/health", get(health))
        .route("/pd/api/v1/members", get(list))
        .route("/dev-kv/v1/members", get(list).post(change))
        .with_state(members)
}

async fn health(State(members): State<Arc<Members>>) -> Json<Value> {
    Json(members.health())
}

async fn list(State(members): State<Arc<Members>>) -> Json<Value> {
    Json(members.page())
}

/// A change to a member.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    member: u64,
    /// Absent means unchanged.
    hangs: Option<bool>,
    #[serde(default)]
    leads: bool,
}

async fn change(State(members): State<Arc<Members>>, Json(change): Json<Change>) -> Response {
    let Some(member) = members.by_id(change.member) else {
        let detail = format!("there is no member {}", change.member);
        return problem(StatusCode::NOT_FOUND, &detail);
    };
    if let Some(hangs) = change.hangs {
        member.hangs.send_replace(hangs);
    }
    if change.leads {
        members.leader.store(member.id, Ordering::Relaxed);
    }
    StatusCode::NO_CONTENT.into_response()
}
