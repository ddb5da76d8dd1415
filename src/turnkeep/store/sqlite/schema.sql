-- Layout 4. A thread is one row with its head as JSON; whatever grows beside it is rows by the thread's id.
-- Columns beside `head` exist to be searched: what they say is in the head as well.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value ANY
) STRICT, WITHOUT ROWID;

CREATE TABLE thread (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    channel TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    state TEXT NOT NULL,
    paused INTEGER NOT NULL,
    wake REAL,            -- when somebody has to look at it; NULL: not before somebody acts
    owner TEXT,           -- whose lease it is, while leased
    open INTEGER NOT NULL,
    created_at REAL NOT NULL,
    active_at REAL NOT NULL,
    active_minute INTEGER NOT NULL, -- the same in minutes, which an act seldom changes, so that its index is seldom written
    expires_at REAL,      -- NULL while it cannot expire
    floor INTEGER NOT NULL DEFAULT 0, -- highest offset that was taken out of the log
    damaged INTEGER,      -- 1: its stored state could not be read, nobody claims it
    head TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX thread_channel ON thread (tenant, queue, channel);
CREATE UNIQUE INDEX thread_thread_id ON thread (tenant, queue, thread_id);
CREATE INDEX thread_active ON thread (tenant, queue, active_minute);
CREATE INDEX thread_wake ON thread (tenant, queue, wake, channel) WHERE wake IS NOT NULL;
CREATE INDEX thread_owner ON thread (owner) WHERE owner IS NOT NULL;
CREATE INDEX thread_paused ON thread (tenant, queue) WHERE paused = 1;
CREATE INDEX thread_expires_at ON thread (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE message (
    thread INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    n INTEGER NOT NULL,   -- the order of acceptance
    body TEXT NOT NULL,
    PRIMARY KEY (thread, message_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE known (
    thread INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    forget_at REAL,       -- NULL while the message is open
    body TEXT NOT NULL,
    PRIMARY KEY (thread, message_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX known_forget_at ON known (forget_at) WHERE forget_at IS NOT NULL;

CREATE TABLE past_id (  -- message ids of threads that were deleted
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    channel TEXT NOT NULL,
    message_id TEXT NOT NULL,
    forget_at REAL NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (tenant, queue, channel, message_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX past_id_forget_at ON past_id (forget_at);

CREATE TABLE journal (
    thread INTEGER NOT NULL,
    n INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (thread, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE entry (
    id INTEGER PRIMARY KEY, -- the order within a turn
    thread INTEGER NOT NULL,
    turn INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    at REAL NOT NULL,
    size INTEGER NOT NULL,
    item TEXT NOT NULL
) STRICT;
CREATE INDEX entry_thread ON entry (thread, turn);

CREATE TABLE run (
    id INTEGER PRIMARY KEY, -- the order of their ends
    thread INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX run_thread ON run (thread);

CREATE TABLE event (
    position INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice: positions of sinks and followers compare with it
    thread INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX event_thread ON event (thread, offset, kind); -- trimming reads nothing else

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

CREATE TABLE dead (
    dead_id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    body TEXT NOT NULL,
    channel TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
CREATE INDEX dead_queue ON dead (tenant, queue, thread_id);
CREATE INDEX dead_channel ON dead (tenant, queue, channel);

CREATE TABLE redriven (
    dead_id TEXT PRIMARY KEY,
    forget_at REAL NOT NULL,
    receipt TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX redriven_forget_at ON redriven (forget_at);

CREATE TABLE operation (
    id TEXT PRIMARY KEY,
    until REAL NOT NULL,
    result TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX operation_until ON operation (until);

CREATE TABLE total (
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    completed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    PRIMARY KEY (tenant, queue)
) STRICT, WITHOUT ROWID;

CREATE TABLE served (
    tenant TEXT PRIMARY KEY,
    claims REAL NOT NULL,
    floor REAL NOT NULL   -- where the last claim for it began; the highest one counts
) STRICT, WITHOUT ROWID;

CREATE TABLE nudge (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    owner TEXT NOT NULL,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    channel TEXT NOT NULL,
    at REAL NOT NULL
) STRICT;

CREATE TABLE document (
    kind TEXT NOT NULL,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    updated_at REAL NOT NULL,
    expires_at REAL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, tenant, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX document_expires_at ON document (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE account (
    tenant TEXT NOT NULL,
    account TEXT NOT NULL,
    settled INTEGER NOT NULL,
    reserved INTEGER NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (tenant, account)
) STRICT, WITHOUT ROWID;
CREATE INDEX account_until ON account (until);

CREATE TABLE reservation (
    tenant TEXT NOT NULL,
    run_id TEXT NOT NULL,
    amount INTEGER NOT NULL,
    at REAL NOT NULL,
    limits TEXT NOT NULL,
    PRIMARY KEY (tenant, run_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE bucket (
    key TEXT NOT NULL,
    name TEXT NOT NULL,
    level REAL NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (key, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE slowed (
    key TEXT PRIMARY KEY,
    until REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE circuit (
    endpoint TEXT PRIMARY KEY,
    opened_at REAL NOT NULL,
    probe_at REAL NOT NULL,
    fault TEXT NOT NULL
) STRICT, WITHOUT ROWID;
