-- From layout 1 to 2: an outbox for each sink, what it selects, and what is parked.

ALTER TABLE sink RENAME TO sink1;
ALTER TABLE outbox RENAME TO outbox1;

CREATE TABLE sink (
    name TEXT PRIMARY KEY,
    tenant TEXT,          -- what it selects; NULL: of all
    queue TEXT,
    finals INTEGER NOT NULL,
    position INTEGER NOT NULL, -- delivered or parked up to here
    lost INTEGER NOT NULL,     -- what fell out at a bound
    lost_at REAL,
    owner TEXT NOT NULL,
    until REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    sink TEXT NOT NULL,
    position INTEGER NOT NULL, -- that of the event
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    channel TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    epoch TEXT NOT NULL,
    offset INTEGER NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (sink, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE parked (
    sink TEXT NOT NULL,
    position INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    channel TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    epoch TEXT NOT NULL,
    offset INTEGER NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    reason TEXT NOT NULL,
    failed_at REAL,       -- NULL: waits behind an earlier one of its channel
    given_up INTEGER NOT NULL,
    PRIMARY KEY (sink, position)
) STRICT, WITHOUT ROWID;

INSERT INTO outbox (sink, position, tenant, queue, channel, thread_id, epoch, offset, at, kind, body)
    SELECT sink1.name, outbox1.* FROM sink1, outbox1
    WHERE outbox1.position > max(sink1.opened, CAST(sink1.position AS INTEGER));
INSERT INTO sink (name, finals, position, lost, owner, until)
    SELECT name, 0, max(opened, CAST(position AS INTEGER)), 0, ifnull(owner, ''), until FROM sink1;
DROP TABLE outbox1;
DROP TABLE sink1;
