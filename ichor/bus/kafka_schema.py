"""Tables and statements of a replica of the Kafka bus. Only text: what they mean together is in `ichor.bus.kafka_replica`.

A replica belongs to one process and at most one group and is thrown away with it. As in `ichor.bus.schema` a row of
``delivery`` stands for a message that the group has *not* finished, and ``due`` is when it may be handed out: 0 for a
new one, the end of a retry's delay, or (``owner`` set) the end of its lease. ``hand`` names one handing out.
"""

from __future__ import annotations

TABLES = (
    # seq is the place in the topic's log, from 1: the cursor of read(). place: where in it the content lies.
    """CREATE TABLE message (topic TEXT NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL, subject TEXT NOT NULL, body BLOB)""",
    "CREATE UNIQUE INDEX message_seq ON message (topic, seq)",
    "CREATE UNIQUE INDEX message_id ON message (topic, id)",
    "CREATE INDEX message_subject ON message (topic, subject, seq)",
    """CREATE TABLE delivery (
        topic TEXT NOT NULL, rank INTEGER NOT NULL, stamp INTEGER NOT NULL, seq INTEGER NOT NULL,
        subject TEXT NOT NULL, published REAL NOT NULL, due REAL NOT NULL DEFAULT 0, owner TEXT, hand TEXT,
        attempts INTEGER NOT NULL DEFAULT 0, dead INTEGER NOT NULL DEFAULT 0, reason TEXT,
        PRIMARY KEY (topic, rank, stamp, seq)) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX delivery_seq ON delivery (topic, seq)",
    "CREATE INDEX delivery_subject ON delivery (subject, due)",
    "CREATE INDEX delivery_owner ON delivery (owner) WHERE owner IS NOT NULL",
    "CREATE INDEX delivery_hand ON delivery (hand) WHERE hand IS NOT NULL",
    "CREATE INDEX delivery_due ON delivery (due)",
    """CREATE TABLE letter (
        letter_id TEXT PRIMARY KEY, topic TEXT NOT NULL, seq INTEGER NOT NULL, rank INTEGER NOT NULL,
        stamp INTEGER NOT NULL, subject TEXT NOT NULL, published REAL NOT NULL, attempts INTEGER NOT NULL,
        reason TEXT NOT NULL, at REAL NOT NULL)""",
    "CREATE TABLE subscription (topic TEXT PRIMARY KEY)",
)

# Of a table that a snapshot carries.
DELIVERY = "topic, rank, stamp, seq, subject, published, due, owner, hand, attempts, dead, reason"
LETTER = "letter_id, topic, seq, rank, stamp, subject, published, attempts, reason, at"

MESSAGE = """INSERT INTO message (topic, seq, id, subject, body) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING"""

NEW = "INSERT INTO delivery (topic, rank, stamp, seq, subject, published) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"

# Due, nothing of its subject in other hands, and no earlier one of its topic and rank waiting.
FREE = """due <= :now AND NOT EXISTS (
        SELECT 1 FROM delivery o WHERE o.subject = d.subject AND o.due > :now AND o.owner IS NOT :me
        AND (o.owner IS NOT NULL OR (o.topic = d.topic AND o.rank = d.rank AND o.seq < d.seq)))"""

CANDIDATE = f"""SELECT rank, stamp, seq, subject FROM delivery d WHERE topic = :topic AND {FREE}
    ORDER BY rank, stamp, seq LIMIT 1"""

CLAIMED = f"SELECT attempts, dead, reason FROM delivery d WHERE topic = :topic AND seq = :seq AND {FREE}"

CLAIM = """UPDATE delivery SET owner = :me, hand = :hand, due = :until, attempts = :attempts, dead = :dead
    WHERE topic = :topic AND seq = :seq"""

IN_HAND = """SELECT d.attempts, d.dead, m.body FROM delivery d LEFT JOIN message m ON m.topic = d.topic AND m.seq = d.seq
    WHERE d.hand = ?"""

FINISH = "DELETE FROM delivery WHERE hand = :hand"
EMPTY = "UPDATE message SET body = NULL WHERE topic = :topic AND seq = :seq"
WAIT = """UPDATE delivery SET owner = NULL, hand = NULL, due = :due, attempts = :left, reason = :reason
    WHERE hand = :hand"""
DIE = "UPDATE delivery SET owner = NULL, hand = NULL, due = 0, dead = 1 WHERE hand = :hand"
EXTEND = "UPDATE delivery SET due = :until WHERE hand = :hand"
GIVE_BACK = """UPDATE delivery SET owner = NULL, hand = NULL, due = 0, attempts = attempts - (dead = 0)
    WHERE hand = :hand"""
LEAVE = """UPDATE delivery SET owner = NULL, hand = NULL, due = 0, attempts = attempts - (dead = 0)
    WHERE owner = :me"""
# Whoever bore this name died: as if its leases had ended.
ORPHAN = "UPDATE delivery SET due = 0 WHERE owner = :me"

BURY = """INSERT OR IGNORE INTO letter
    SELECT :letter, topic, seq, rank, stamp, subject, published, attempts, :cause, :now FROM delivery
    WHERE topic = :topic AND seq = :seq"""

REPLAY = """INSERT INTO delivery (topic, rank, stamp, seq, subject, published)
    SELECT topic, rank, stamp, seq, subject, published FROM letter WHERE letter_id = :letter
    ON CONFLICT (topic, seq) DO UPDATE SET owner = NULL, hand = NULL, due = 0, attempts = 0, dead = 0, reason = NULL"""

NEXT_DUE = "SELECT min(due) FROM delivery WHERE due > :now"

LAG = """SELECT s.topic, count(d.seq), coalesce(sum(d.owner IS NOT NULL AND d.due > :now), 0),
        (SELECT published FROM delivery f WHERE f.topic = s.topic ORDER BY f.seq LIMIT 1)
    FROM subscription s LEFT JOIN delivery d ON d.topic = s.topic GROUP BY s.topic ORDER BY s.topic"""

LOWEST = """SELECT min(seq) FROM (SELECT seq FROM delivery WHERE topic = :topic
    UNION ALL SELECT seq FROM letter WHERE topic = :topic)"""
LOWEST_OPEN = "SELECT min(seq) FROM delivery WHERE topic = :topic"
