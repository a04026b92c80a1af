use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::workload::{Stockroom, Workload};

/// A shop that gives every request this answer. The very first one takes as long as `stall`.
async fn shop(stall: Duration, answer: &'static str) -> Endpoints {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let first = Arc::new(Mutex::new(Some(stall)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&first), answer));
        }
    });
    Endpoints { rest: vec![address.into()], grpc: Vec::new() }
}

async fn serve(mut stream: TcpStream, first: Arc<Mutex<Option<Duration>>>, answer: &'static str) {
    let mut asked = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut asked).await {
        while let Some(end) = asked.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            asked.drain(..end + 4);
            let stall = first.lock().unwrap().take();
            sleep(stall.unwrap_or_default()).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const NO: &str = "HTTP/1.1 409 Conflict\r\ncontent-length: 25\r\n\r\n{\"reason\":\"OUT_OF_STOCK\"}";

fn board(workload: Workload, orders: usize) -> WorkloadState {
    let room = Stockroom {
        items: 5,
        users: 5,
        orders: (0..orders).map(|id| id.to_string()).collect(),
        lacking_stock: orders..orders,
        lacking_credit: orders..orders,
        ..Stockroom::default()
    };
    WorkloadState::new(workload, room, [1, 0, 0], 7)
}

async fn run(endpoints: &Endpoints, board: WorkloadState, pace: Pace) -> (WorkloadState, Tally) {
    let plan = Plan {
        pace,
        warm_up: Duration::ZERO,
        window: Duration::from_millis(800),
        seed: 7,
        may_shed: false,
    };
    let (board, tally, _) = drive(endpoints, board, plan, async || Ok(())).await.unwrap();
    (board, tally)
}

#[tokio::test]
async fn a_stall_is_felt_by_every_call_that_was_due_meanwhile() {
    let stall = Duration::from_millis(400);
    // There is one caller: while it waits, all other calls that are due wait for it.
    let endpoints = shop(stall, OK).await;
    let open = Pace::Open { rate: 200.0, callers: 1 };
    let (_, tally) = run(&endpoints, board(Workload::Stress, 9), open).await;
    let slow = tally.latencies().map(|(_, found)| found.p50).max().unwrap();
    assert!(slow > 50_000, "half of all calls were due while the shop stood still: {slow} us");
    // A caller that asks only after it has been answered does not notice.
    let endpoints = shop(stall, OK).await;
    let (_, tally) = run(&endpoints, board(Workload::Stress, 9), Pace::Closed { callers: 1 }).await;
    let blind = tally.latencies().map(|(_, found)| found.p50).max().unwrap();
    assert!(blind < 50_000, "{blind} us");
}

#[tokio::test]
async fn an_overload_ends_with_its_window() {
    let endpoints = shop(Duration::ZERO, OK).await;
    let plan = Plan {
        pace: Pace::Open { rate: 200_000.0, callers: 1 },
        warm_up: Duration::ZERO,
        window: Duration::from_millis(800),
        seed: 7,
        may_shed: true,
    };
    let board = board(Workload::Stress, 9);
    let (_, tally, _) = drive(&endpoints, board, plan, async || Ok(())).await.unwrap();
    // 160,000 calls are due, far more than one caller can make in that time.
    let sent: u64 = tally.latencies().map(|(_, found)| found.count).sum();
    assert!((1..100_000).contains(&sent), "{sent}");
}

#[tokio::test]
async fn an_open_loop_keeps_its_rate() {
    let endpoints = shop(Duration::ZERO, OK).await;
    let open = Pace::Open { rate: 500.0, callers: 64 };
    let (_, tally) = run(&endpoints, board(Workload::Find, 9), open).await;
    let rate = tally.rate(tally.total());
    assert!((200.0..650.0).contains(&rate), "{rate}");
}

#[tokio::test]
async fn users_think_between_two_calls() {
    let endpoints = shop(Duration::ZERO, OK).await;
    let pace = Pace::Thinking { callers: 10, think: Duration::from_millis(200) };
    let (_, tally) = run(&endpoints, board(Workload::Find, 9), pace).await;
    assert!((10..=45).contains(&tally.total()), "{}", tally.total());
}

#[tokio::test]
async fn the_window_ends_when_everything_is_bought() {
    let endpoints = shop(Duration::ZERO, OK).await;
    let pace = Pace::Closed { callers: 4 };
    let (board, tally) = run(&endpoints, board(Workload::Fresh, 30), pace).await;
    assert_eq!(board.into_parts().1.values().filter(|fate| fate.paid).count(), 30);
    assert!(tally.seconds() < 0.7, "{}", tally.seconds());
    assert_eq!(tally.problems(), Vec::<String>::new());
}

#[tokio::test]
async fn a_refusal_that_nobody_can_explain_is_a_problem() {
    let endpoints = shop(Duration::ZERO, NO).await;
    let pace = Pace::Closed { callers: 1 };
    let (_, tally) = run(&endpoints, board(Workload::Fresh, 1), pace).await;
    assert_eq!(tally.problems(), ["1 unexplained refusals: OUT_OF_STOCK"]);
}

#[tokio::test]
async fn a_shop_that_is_not_there_is_a_problem() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let endpoints = Endpoints { rest: vec![address.into()], grpc: Vec::new() };
    let pace = Pace::Closed { callers: 1 };
    let (board, tally) = run(&endpoints, board(Workload::Fresh, 1), pace).await;
    assert_eq!(tally.problems().len(), 1);
    assert!(board.into_parts().1[&0].doubtful);
}
