"""Tables and statements of the SQLite bus. Only text: what they mean together is in `ichor.bus.sqlite`.

A row of ``delivery`` stands for a message that a group has *not* finished: finishing deletes it, so that a claim never
walks past finished ones, however many there are. ``due`` is when it may be handed out: 0 for a new one (not the time
of publication, or a clock set back would hide it), the end of a retry's delay, or (``owner`` set) the end of its lease.
"""

from __future__ import annotations

VERSION = 1
APPLICATION_ID = 0x49434852  # "ICHR"

TABLES = (
    # seq is the order of publication and the cursor of read(); AUTOINCREMENT: never used twice, also after pruning.
    """CREATE TABLE message (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, id TEXT NOT NULL, subject TEXT NOT NULL,
        rank INTEGER NOT NULL, published REAL NOT NULL, body BLOB NOT NULL)""",
    "CREATE UNIQUE INDEX message_id ON message (topic, id)",
    "CREATE INDEX message_topic ON message (topic)",  # (topic, seq): SQLite ends every index with the rowid
    "CREATE INDEX message_subject ON message (topic, subject)",
    "CREATE TABLE subscription (team TEXT NOT NULL, topic TEXT NOT NULL, PRIMARY KEY (team, topic)) WITHOUT ROWID",
    """CREATE TABLE delivery (
        team TEXT NOT NULL, topic TEXT NOT NULL, rank INTEGER NOT NULL, seq INTEGER NOT NULL, subject TEXT NOT NULL,
        due REAL NOT NULL DEFAULT 0, owner TEXT, handed INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0, dead INTEGER NOT NULL DEFAULT 0, reason TEXT,
        PRIMARY KEY (team, topic, rank, seq)) WITHOUT ROWID""",
    "CREATE INDEX delivery_subject ON delivery (team, subject, due)",
    "CREATE INDEX delivery_seq ON delivery (seq)",
    "CREATE INDEX delivery_owner ON delivery (owner) WHERE owner IS NOT NULL",
    """CREATE TABLE letter (
        letter_id TEXT PRIMARY KEY, team TEXT NOT NULL, topic TEXT NOT NULL, seq INTEGER NOT NULL,
        attempts INTEGER NOT NULL, reason TEXT NOT NULL, at REAL NOT NULL)""",
    "CREATE INDEX letter_seq ON letter (seq)",
)

PUBLISH = """INSERT INTO message (topic, id, subject, rank, published, body) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (topic, id) DO NOTHING"""

HAND_TO_GROUPS = """INSERT INTO delivery (team, topic, rank, seq, subject)
    SELECT s.team, m.topic, m.rank, m.seq, m.subject FROM message m JOIN subscription s
    ON s.topic = m.topic WHERE m.seq = ?"""

HAND_HISTORY_TO_GROUP = """INSERT INTO delivery (team, topic, rank, seq, subject)
    SELECT :team, topic, rank, seq, subject FROM message WHERE topic = :topic"""

# The next delivery of one topic: due, nothing of its subject in other hands, and no earlier one of its rank waiting.
CANDIDATE = """SELECT rank, seq FROM delivery d WHERE team = :team AND topic = :topic AND due <= :now AND NOT EXISTS (
        SELECT 1 FROM delivery o WHERE o.team = d.team AND o.subject = d.subject AND o.due > :now
        AND o.owner IS NOT :me
        AND (o.owner IS NOT NULL OR (o.topic = d.topic AND o.rank = d.rank AND o.seq < d.seq)))
    ORDER BY rank, seq LIMIT 1"""

ONE = "team = :team AND topic = :topic AND rank = :rank AND seq = :seq"

# Only while it is still in the same hands as when it was handed out: a lost lease ends nothing.
MINE = f"{ONE} AND owner = :me AND handed = :handed"

CLAIM = f"""UPDATE delivery SET owner = :me, due = :until, handed = handed + 1, attempts = :attempts, dead = :dead
    WHERE {ONE}"""

RELEASE = "UPDATE delivery SET owner = NULL, due = 0, attempts = attempts - (dead = 0) WHERE owner = :me"

# The owner died: as if its leases had ended.
ORPHAN = "UPDATE delivery SET due = 0 WHERE owner = :owner"

OWNERS = "SELECT DISTINCT owner FROM delivery WHERE owner IS NOT NULL AND owner IS NOT :me AND due > :now"

NEXT_DUE = "SELECT min(due) FROM delivery WHERE team = :team AND due > :now"

LAG = """SELECT s.topic, s.team, count(d.seq), coalesce(sum(d.owner IS NOT NULL AND d.due > :now), 0), min(d.seq)
    FROM subscription s LEFT JOIN delivery d ON d.team = s.team AND d.topic = s.topic
    GROUP BY s.team, s.topic ORDER BY s.topic, s.team"""

LETTERS = """SELECT l.letter_id, l.topic, l.team, m.body, l.attempts, l.reason, l.at
    FROM letter l JOIN message m ON m.seq = l.seq ORDER BY l.at, l.letter_id"""

REPLAY = """INSERT INTO delivery (team, topic, rank, seq, subject)
    SELECT :team, topic, rank, seq, subject FROM message WHERE seq = :seq
    ON CONFLICT DO UPDATE SET owner = NULL, due = 0, attempts = 0, dead = 0, reason = NULL"""

FINISHED = """SELECT seq, published, NOT EXISTS (SELECT 1 FROM delivery d WHERE d.seq = m.seq)
    AND NOT EXISTS (SELECT 1 FROM letter l WHERE l.seq = m.seq)
    FROM message m WHERE topic = :topic AND seq > :after ORDER BY seq LIMIT 500"""
FORGET = """DELETE FROM message WHERE seq = ? AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.seq = message.seq)
    AND NOT EXISTS (SELECT 1 FROM letter l WHERE l.seq = message.seq)"""
