"""What the loyalty service knows, in SQLite: votes, fences, outcomes and points.

The rules are those of docs/participants.md. Every answer is on disk before it is sent: each `with book.changes():` is
one SQLite transaction with full synchronisation."""

import contextlib
import pathlib
import sqlite3
import threading
import time

ABSENT, PREPARED, COMMITTED, ABORTED = 1, 2, 3, 4

SCHEMA = """
CREATE TABLE IF NOT EXISTS votes (
    tx_id BLOB PRIMARY KEY,
    meta BLOB NOT NULL,
    deadline_ms INTEGER NOT NULL,
    state INTEGER NOT NULL,
    vote BLOB,
    user_id TEXT,
    points INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS users (
    user_id TEXT PRIMARY KEY,
    points INTEGER NOT NULL,
    blocked INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clock (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), latest_ms INTEGER NOT NULL);
"""


class Book:
    """Safe to use from several threads."""

    def __init__(self, path):
        self._lock = threading.Lock()
        self._db = sqlite3.connect(pathlib.Path(path), isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(SCHEMA)

    @contextlib.contextmanager
    def changes(self):
        """One durable change, or none."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def now_ms(self):
        """The clock by which deadlines are judged: it never goes back, not even over a restart, so that no
        vote follows a fence that was dropped."""
        row = self._db.execute("SELECT latest_ms FROM clock").fetchone()
        now = max(time.time_ns() // 1_000_000, row[0] if row else 0)
        self._db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (now,))
        return now

    def get(self, tx_id):
        """Returns (state, vote), or (ABSENT, None)."""
        row = self._db.execute("SELECT state, vote FROM votes WHERE tx_id = ?", (tx_id,)).fetchone()
        return row or (ABSENT, None)

    def prepared(self, tx, vote, user_id, points):
        """A YES. Points are promised, not given."""
        self._insert(tx, PREPARED, vote, user_id, points)

    def fenced(self, tx, vote=None):
        """A NO, or a bare fence."""
        self._insert(tx, ABORTED, vote, None, None)

    def _insert(self, tx, state, vote, user_id, points):
        row = (tx.tx_id, tx.SerializeToString(), tx.deadline_ms, state, vote, user_id, points)
        self._db.execute("INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def committed(self, tx_id):
        """Makes a YES final: the points are given."""
        self._db.execute(
            "INSERT INTO users (user_id, points) SELECT user_id, points FROM votes WHERE tx_id = ? "
            "ON CONFLICT (user_id) DO UPDATE SET points = users.points + excluded.points",
            (tx_id,),
        )
        self._db.execute("UPDATE votes SET state = ? WHERE tx_id = ?", (COMMITTED, tx_id))

    def aborted(self, tx_id):
        """Ends a YES without effect. Its vote is not repeated."""
        self._db.execute("UPDATE votes SET state = ?, vote = NULL WHERE tx_id = ?", (ABORTED, tx_id))

    def is_blocked(self, user_id):
        row = self._db.execute("SELECT blocked FROM users WHERE user_id = ?", (user_id,)).fetchone()
        return bool(row and row[0])

    def block(self, user_id):
        self._db.execute(
            "INSERT INTO users VALUES (?, 0, 1) ON CONFLICT (user_id) DO UPDATE SET blocked = 1", (user_id,)
        )

    def points(self):
        """By user."""
        with self._lock:
            return dict(self._db.execute("SELECT user_id, points FROM users WHERE points > 0"))

    def unresolved(self):
        """Transactions whose vote has no outcome and whose deadline is over."""
        query = "SELECT meta FROM votes WHERE state = ? AND deadline_ms < ? LIMIT 64"
        return [meta for (meta,) in self._db.execute(query, (PREPARED, self.now_ms()))]

    def forget(self):
        """Drops transactions that are final and past their deadline."""
        query = "DELETE FROM votes WHERE state <> ? AND deadline_ms < ?"
        self._db.execute(query, (PREPARED, self.now_ms()))
