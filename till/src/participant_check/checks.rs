//! The checks of a participant, each with its rule in docs/participants.md.

use std::{future::Future, pin::Pin};

use proto::{
    participant::v1::{
        BranchState::{Aborted, Absent, Committed, Prepared},
        Operation, QueryRequest, Receipt,
        operation::Operation as Op,
        operation_result::Result as OpResult,
        vote::Vote as Is,
    },
    types::v1::{Branch, TxMeta},
};

use super::subject::{CheckResult, Participant, must_be, must_be_invalid, not_yes, yes};

/// What a check needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Only the service.
    Nothing,
    /// A payload that the service votes YES to.
    Payload,
    /// The payload, and a service that can be a primary.
    Primary,
}

impl Needs {
    /// How to have the check run.
    pub(super) const fn hint(self) -> &'static str {
        match self {
            Self::Nothing => "needs nothing",
            Self::Payload => "needs --payload-json or --payload-file",
            Self::Primary => "needs --primary",
        }
    }
}

type Running<'a> = Pin<Box<dyn Future<Output = CheckResult<()>> + Send + 'a>>;

/// One demand.
pub(super) struct Check {
    /// A sentence that is true of a conforming participant.
    pub(super) name: &'static str,
    /// Number of the rule in docs/participants.md; None for what the contract itself demands.
    pub(super) rule: Option<u8>,
    /// What the check needs.
    pub(super) needs: Needs,
    /// The test.
    pub(super) run: for<'a> fn(&'a Participant) -> Running<'a>,
}

/// All checks, in the order in which they build on each other.
pub(super) fn all() -> Vec<Check> {
    macro_rules! checks {
        ($($needs:ident $run:ident [$($rule:literal)?] $name:literal;)*) => {
            vec![$(Check {
                name: $name,
                rule: [$($rule)?].first().copied(),
                needs: Needs::$needs,
                run: |subject| Box::pin($run(subject)),
            }),*]
        };
    }
    checks! {
        Nothing describes_itself [] "it tells the same name and number of shards every time";
        Nothing knows_nothing [] "a query leaves nothing behind";
        Nothing fences [3] "after a fence there is no YES";
        Nothing aborts_the_unknown [3] "an abort without a vote leaves a fence";
        Nothing commits_the_forgotten [8] "a commit of what is not known is acknowledged";
        Nothing refuses_late_votes [4] "past the deadline it votes FENCED";
        Nothing forgets [] "a forget is always acknowledged";
        Nothing refuses_wrong_calls [11] "a call that is not for it is INVALID_ARGUMENT, and a shard that it does not have is ABORTED";
        Nothing applies [11] "a batch is answered in order, and each operation alone";
        Payload votes_once [2] "a repeated prepare gets the first answer";
        Payload votes_once_in_a_crowd [2] "prepares that come at once get one answer";
        Payload commits [8] "what is committed stays committed";
        Payload aborts [8] "what is aborted stays aborted";
        Payload never_both [3] "a vote and a fence exclude each other";
        Payload applies_votes [] "a batch may carry a whole transaction";
        Primary holds_without_evidence [12] "a primary aborts a YES on evidence only";
        Primary commits_on_proof [13] "a primary commits on every receipt only";
        Primary remembers_calls [14] "a primary commits one transaction of a call";
    }
}

/// Name and rule of the check that needs a restart.
pub(super) const RESTART: (&str, Option<u8>) = ("whatever it said survives a restart", Some(1));

async fn describes_itself(subject: &Participant) -> CheckResult<()> {
    let again = subject.describe().await?;
    if again == (subject.service.clone(), subject.shards) {
        return Ok(());
    }
    Err(format!("now it is {} with {} shards", again.0, again.1))
}

async fn state(
    subject: &Participant,
    tx: &TxMeta,
) -> CheckResult<proto::participant::v1::BranchState> {
    Ok(subject.query(tx, false).await?.state())
}

async fn knows_nothing(subject: &Participant) -> CheckResult<()> {
    let tx = subject.tx();
    must_be("a first query", state(subject, &tx).await?, Absent)?;
    must_be("a second query", state(subject, &tx).await?, Absent)
}

async fn fences(subject: &Participant) -> CheckResult<()> {
    let tx = subject.tx();
    must_be("a query that fences", subject.query(&tx, true).await?.state(), Aborted)?;
    must_be("a query after the fence", state(subject, &tx).await?, Aborted)?;
    not_yes(&subject.prepare(&tx).await?)?;
    must_be("a query after the late prepare", state(subject, &tx).await?, Aborted)
}

async fn aborts_the_unknown(subject: &Participant) -> CheckResult<()> {
    let tx = subject.tx();
    must_be("an abort", subject.abort(&tx, None).await?, Aborted)?;
    must_be("the same abort again", subject.abort(&tx, None).await?, Aborted)?;
    not_yes(&subject.prepare(&tx).await?)
}

async fn commits_the_forgotten(subject: &Participant) -> CheckResult<()> {
    let tx = subject.tx();
    must_be("a commit of the unknown", subject.commit(&tx, Vec::new()).await?, Committed)
}

async fn refuses_late_votes(subject: &Participant) -> CheckResult<()> {
    let tx = TxMeta { deadline_ms: 1_000, ..subject.tx() };
    match subject.prepare(&tx).await?.vote {
        Some(Is::Fenced(_)) => {}
        other => return Err(format!("a FENCED was expected, not {other:?}")),
    }
    let afterwards = state(subject, &tx).await?;
    if matches!(afterwards, Absent | Aborted) {
        return Ok(());
    }
    Err(format!("afterwards it says {}", afterwards.as_str_name()))
}

async fn forgets(subject: &Participant) -> CheckResult<()> {
    let tx = subject.tx();
    subject.forget(&tx).await?;
    subject.forget(&tx).await
}

async fn refuses_wrong_calls(subject: &Participant) -> CheckResult<()> {
    let tx = subject.tx();
    let proper = subject.query_request(&tx, false);
    let stranger = Branch { service: "nobody-we-know".to_owned(), ..subject.branch() };
    let elsewhere = QueryRequest { branch: Some(stranger), ..proper.clone() };
    must_be_invalid("a branch of another service", subject.try_query(elsewhere).await)?;
    let beyond = Branch { shard: subject.shards, ..subject.branch() };
    let planned = TxMeta { branches: vec![Participant::other(), beyond.clone()], ..tx.clone() };
    let beyond = QueryRequest { tx: Some(planned), branch: Some(beyond), ..proper.clone() };
    let beyond = subject.try_query(beyond).await;
    let beyond =
        beyond.map_err(|status| format!("a query of a shard that is not there: {status}"))?;
    must_be("a shard that does not exist", beyond.state(), Aborted)?;
    let uninvited = TxMeta { branches: vec![Participant::other()], ..tx.clone() };
    let uninvited = QueryRequest { tx: Some(uninvited), ..proper.clone() };
    must_be_invalid("a branch that is not in tx.branches", subject.try_query(uninvited).await)?;
    let short = TxMeta { tx_id: vec![1, 2, 3].into(), ..tx };
    let short = QueryRequest { tx: Some(short), ..proper };
    must_be_invalid("a TxId of three bytes", subject.try_query(short).await)
}

fn operation(operation: Op) -> Operation {
    Operation { operation: Some(operation) }
}

async fn applies(subject: &Participant) -> CheckResult<()> {
    let (first, second) = (subject.tx(), subject.tx());
    let short = TxMeta { tx_id: vec![1].into(), ..first.clone() };
    let operations = vec![
        operation(Op::Query(subject.query_request(&first, true))),
        operation(Op::Query(subject.query_request(&short, true))),
        operation(Op::Query(subject.query_request(&second, false))),
    ];
    let results = subject.apply(operations).await?;
    let kinds: Vec<_> = results.into_iter().map(|result| result.result).collect();
    match kinds.as_slice() {
        [
            Some(OpResult::Query(fenced)),
            Some(OpResult::Error(_)),
            Some(OpResult::Query(unknown)),
        ] => {
            must_be("the first of the batch", fenced.state(), Aborted)?;
            must_be("the third of the batch", unknown.state(), Absent)?;
        }
        other => return Err(format!("the answers do not match the operations: {other:?}")),
    }
    if subject.apply(Vec::new()).await?.is_empty() {
        return Ok(());
    }
    Err("an empty batch has answers".to_owned())
}

async fn votes_once(subject: &Participant) -> CheckResult<()> {
    let tx = subject.tx();
    let receipt = yes(&subject.prepare(&tx).await?)?;
    let again = yes(&subject.prepare(&tx).await?)?;
    let told = subject.query(&tx, false).await?;
    let outcome = async {
        must_be("a query after the YES", told.state(), Prepared)?;
        let vote = told.vote.as_ref().ok_or("a query does not tell the vote")?;
        if again != receipt || yes(vote)? != receipt {
            return Err("the receipt is not the first one".to_owned());
        }
        Ok(())
    };
    let outcome = outcome.await;
    must_be("an abort of the YES", subject.abort(&tx, None).await?, Aborted)?;
    outcome
}

async fn votes_once_in_a_crowd(subject: &Participant) -> CheckResult<()> {
    let tx = subject.tx();
    let votes = futures::future::join_all((0..8).map(|_| subject.prepare(&tx))).await;
    must_be("an abort of the YES", subject.abort(&tx, None).await?, Aborted)?;
    let receipts = votes.into_iter().map(|vote| yes(&vote?)).collect::<CheckResult<Vec<_>>>()?;
    if receipts.windows(2).all(|pair| pair[0] == pair[1]) {
        return Ok(());
    }
    Err("they got different receipts".to_owned())
}

async fn commits(subject: &Participant) -> CheckResult<()> {
    let tx = subject.tx();
    let receipt = yes(&subject.prepare(&tx).await?)?;
    must_be("a commit", subject.commit(&tx, Vec::new()).await?, Committed)?;
    must_be("the same commit again", subject.commit(&tx, Vec::new()).await?, Committed)?;
    must_be("a query after the commit", state(subject, &tx).await?, Committed)?;
    if yes(&subject.prepare(&tx).await?)? != receipt {
        return Err("a late prepare gets another receipt".to_owned());
    }
    must_be("an abort after the commit", subject.abort(&tx, None).await?, Committed)?;
    must_be("a query after all that", state(subject, &tx).await?, Committed)
}

async fn aborts(subject: &Participant) -> CheckResult<()> {
    let tx = subject.tx();
    yes(&subject.prepare(&tx).await?)?;
    must_be("an abort", subject.abort(&tx, None).await?, Aborted)?;
    must_be("the same abort again", subject.abort(&tx, None).await?, Aborted)?;
    not_yes(&subject.prepare(&tx).await?)?;
    let told = subject.query(&tx, true).await?;
    must_be("a query after the abort", told.state(), Aborted)?;
    match told.vote {
        Some(vote) => not_yes(&vote),
        None => Ok(()),
    }
}

async fn never_both(subject: &Participant) -> CheckResult<()> {
    for _ in 0..20 {
        let tx = subject.tx();
        let (vote, fenced) = tokio::join!(subject.prepare(&tx), subject.query(&tx, true));
        let (vote, fenced) = (vote?, fenced?.state());
        let voted = yes(&vote).is_ok();
        must_be("an abort", subject.abort(&tx, None).await?, Aborted)?;
        let agree = if voted { fenced == Prepared } else { fenced == Aborted };
        if !agree {
            let vote = if voted { "YES" } else { "no YES" };
            return Err(format!("it voted {vote} and answered {}", fenced.as_str_name()));
        }
    }
    Ok(())
}

async fn applies_votes(subject: &Participant) -> CheckResult<()> {
    let tx = subject.tx();
    let prepare = operation(Op::Prepare(subject.prepare_request(&tx)));
    let results = subject.apply(vec![prepare]).await?;
    match results.first().and_then(|result| result.result.as_ref()) {
        Some(OpResult::Prepare(response)) => {
            let vote = response.vote.as_ref().ok_or("an answer without a vote")?;
            yes(vote)?;
        }
        // The service has to wait, so it is asked by a Prepare instead.
        Some(OpResult::Waiting(_)) => {
            yes(&subject.prepare(&tx).await?)?;
        }
        other => return Err(format!("a vote was expected, not {other:?}")),
    }
    must_be("an abort", subject.abort(&tx, None).await?, Aborted)
}

async fn holds_without_evidence(subject: &Participant) -> CheckResult<()> {
    let tx = subject.tx_as_primary();
    yes(&subject.prepare(&tx).await?)?;
    must_be("an abort without evidence", subject.abort(&tx, None).await?, Prepared)?;
    let evidence = Some(Participant::other());
    must_be("an abort with evidence", subject.abort(&tx, evidence.clone()).await?, Aborted)?;
    let unknown = subject.tx_as_primary();
    must_be("an abort of the unknown", subject.abort(&unknown, None).await?, Aborted)?;
    subject.forget(&tx).await
}

async fn commits_on_proof(subject: &Participant) -> CheckResult<()> {
    let tx = subject.tx_as_primary();
    let receipt = yes(&subject.prepare(&tx).await?)?;
    must_be_invalid("a commit without receipts", subject.try_commit(&tx, Vec::new()).await)?;
    let receipts = vec![
        Receipt { branch: Some(subject.branch()), receipt: receipt.into() },
        Receipt { branch: Some(Participant::other()), ..Receipt::default() },
    ];
    must_be("a commit", subject.commit(&tx, receipts).await?, Committed)?;
    let evidence = Some(Participant::other());
    must_be("an abort after the commit", subject.abort(&tx, evidence).await?, Committed)?;
    subject.forget(&tx).await
}

async fn remembers_calls(subject: &Participant) -> CheckResult<()> {
    let call = subject.tx_as_primary();
    let attempt = || TxMeta {
        request_id: format!("check-{:x?}", call.tx_id.as_ref()),
        request_fingerprint: 7,
        not_after_ms: call.deadline_ms,
        ..subject.tx_as_primary()
    };
    let (first, second) = (attempt(), attempt());
    let receipt = yes(&subject.prepare(&first).await?)?;
    let receipts = vec![
        Receipt { branch: Some(subject.branch()), receipt: receipt.into() },
        Receipt { branch: Some(Participant::other()), ..Receipt::default() },
    ];
    must_be("a commit", subject.commit(&first, receipts).await?, Committed)?;
    subject.forget(&first).await?;
    match subject.prepare(&second).await?.vote {
        Some(Is::No(no)) if no.reason == "ALREADY_DONE" && no.metadata.contains_key("tx_id") => {
            Ok(())
        }
        other => Err(format!("a NO with ALREADY_DONE and the tx_id was expected, not {other:?}")),
    }
}

/// Checks that votes, fences and outcomes survive a restart by this command.
pub(super) async fn survives_a_restart(subject: &Participant, command: &str) -> CheckResult<()> {
    let (fenced, held, sold) = (subject.tx(), subject.tx(), subject.tx());
    must_be("a fence", subject.query(&fenced, true).await?.state(), Aborted)?;
    let mut receipt = None;
    if subject.has_payload() {
        receipt = Some(yes(&subject.prepare(&held).await?)?);
        yes(&subject.prepare(&sold).await?)?;
        must_be("a commit", subject.commit(&sold, Vec::new()).await?, Committed)?;
    }
    let ended = tokio::process::Command::new("sh").arg("-c").arg(command).status().await;
    let ended = ended.map_err(|error| format!("the command does not run: {error}"))?;
    if !ended.success() {
        return Err(format!("the command ended with {ended}"));
    }
    subject.wait().await?;
    must_be("the fence afterwards", state(subject, &fenced).await?, Aborted)?;
    not_yes(&subject.prepare(&fenced).await?)?;
    if let Some(receipt) = receipt {
        must_be("the YES afterwards", state(subject, &held).await?, Prepared)?;
        if yes(&subject.prepare(&held).await?)? != receipt {
            return Err("the receipt is another one afterwards".to_owned());
        }
        must_be("an abort", subject.abort(&held, None).await?, Aborted)?;
        must_be("the commit afterwards", state(subject, &sold).await?, Committed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_one_of_the_page_for_participants() {
        let page = include_str!("../../../docs/participants.md");
        let title = |rule: u8| {
            let line = page.lines().find_map(|line| line.strip_prefix(&format!("{rule}. **")));
            line.and_then(|line| line.split("**").next())
        };
        let said = all().into_iter().map(|check| (check.name, check.rule));
        for (name, rule) in said.chain([RESTART]) {
            if let Some(rule) = rule {
                assert!(title(rule).is_some(), "{name}: the page has no rule {rule}");
            }
        }
        for (rule, wanted) in [
            (1, "Durable before it is said."),
            (2, "One vote."),
            (3, "A vote and a fence exclude each other."),
            (4, "No vote past the deadline."),
            (8, "Final states stay."),
            (11, "Wrong calls"),
            (12, "An abort of a YES needs evidence."),
            (13, "A commit needs every receipt."),
            (14, "A call happens once."),
        ] {
            assert_eq!(title(rule), Some(wanted));
        }
    }
}
