"""Tables and statements of the SQLite bus. Only text: what they mean together is in `ichor.bus.sqlite`.

A row of ``delivery`` stands for a message that a group has *not* finished: finishing deletes it, so that a claim never
walks past finished ones, however many there are. ``due`` is when it may be handed out: at publication, after a retry's
delay, or (``owner`` set) when its lease ends.
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
        due REAL NOT NULL, owner TEXT, attempts INTEGER NOT NULL DEFAULT 0, dead INTEGER NOT NULL DEFAULT 0,
        reason TEXT, PRIMARY KEY (team, topic, rank, seq)) WITHOUT ROWID""",
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

HAND_TO_GROUPS = """INSERT INTO delivery (team, topic, rank, seq, subject, due)
    SELECT s.team, m.topic, m.rank, m.seq, m.subject, m.published FROM message m JOIN subscription s
    ON s.topic = m.topic WHERE m.seq = ?"""

HAND_HISTORY_TO_GROUP = """INSERT INTO delivery (team, topic, rank, seq, subject, due)
    SELECT :team, topic, rank, seq, subject, published FROM message WHERE topic = :topic"""

# The next delivery of one topic: due, nothing of its subject in other hands, and no earlier one of its rank waiting.
CANDIDATE = """SELECT rank, seq FROM delivery d WHERE team = :team AND topic = :topic AND due <= :now AND NOT EXISTS (
        SELECT 1 FROM delivery o WHERE o.team = d.team AND o.subject = d.subject AND o.due > :now
        AND o.owner IS NOT :me
        AND (o.owner IS NOT NULL OR (o.topic = d.topic AND o.rank = d.rank AND o.seq < d.seq)))
    ORDER BY rank, seq LIMIT 1"""

ONE = "team = :team AND topic = :topic AND rank = :rank AND seq = :seq"

# Only while it is still in these hands: `owner` names the member, `attempts` and `due` may have moved on.
MINE = f"{ONE} AND owner = :me AND handed = :handed"
