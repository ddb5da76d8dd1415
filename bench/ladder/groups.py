"""What the page says of the rows: which belong together, what stands beside them, and what would make them better."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that belong together: what the product does for them, and what stands beside it."""

    title: str
    rows: tuple[int, ...]
    work: str
    program: str
    floor: str = ""
    remedy: str = ""
    """What would be needed, said where a figure of them does not reach what it must."""


GROUPS = (
    Group(
        "The first token",
        (1, 2),
        "a message is sent on a socket, its window is 0, and the first token comes back",
        "first_event commands",
        "the same model, asked directly; the difference is told",
        "the path is one write that is made durable (the message; embedded, its claim with it) and one request. What "
        "is left is Python: embedded with two hand-overs to the thread that writes and the sync of the disk between "
        "them, apart with three scripts between four processes. Less takes first words that who is in the same "
        "process sees before the log has them. A sync in a thread of its own was tried: receipts came later, first "
        "words no sooner, and of two syncs at once only one is told that the disk has failed.",
    ),
    Group(
        "A token",
        (3, 4, 5, 7),
        "{streams} streams of ten tokens a second, each with a subscriber, from the first message to the last answer",
        "tokens",
        "a pump of bytes between as many callers and the model, which understands nothing",
        "deltas of all runs of a process are one publication a tick already. What is left is Python for each token and "
        "stream: the event of the model, and one frame. Less takes a reader and an encoder that are compiled.",
    ),
    Group(
        "A thousand subscribers of one answer",
        (6,),
        "one answer is streamed to all of them",
        "fanout",
        "one prepared frame for each token, written to as many sockets",
        "the frame is prepared once; what is left is the look at each socket (is it behind?) before its write.",
    ),
    Group(
        "The life of a message on Redis",
        (9,),
        "a message is accepted, claimed and answered, with all that is promised of it; Redis has an append-only file",
        "queue_life",
        "a job of BullMQ on Node, which calls a function that does nothing; three small Lua scripts",
        "three scripts, and no one thing in them. Of the server's CPU Lua has two fifths (its steps, tables and "
        "strings a tenth each, then collection), commands with the append-only file a quarter, memory and the "
        "making of numbers a fifth, the system the rest. Opening and sealing records is a tenth at most of a new "
        "thread; of one with a past it is 28 of 100 instructions. Less takes fields beside the head for what changes "
        "(settlements, the end of a lease), fewer scripts for a message, or code of ours in the server.",
    ),
    Group(
        "SQLite",
        (10,),
        "WAL mode with `synchronous=FULL`, on the disk of this machine",
        "sqlite_rates",
        "bare inserts",
        "one thread writes. Of what a message to a new thread costs it, three fifths are Python (rules, and the making "
        "of rows), a sixth SQLite, an eighth the garbage collector. Less takes a "
        "layout with one row for an open message and its id, where there are two, or rules that are compiled.",
    ),
    Group(
        "HTTP",
        (11,),
        "twenty clients POST a message and read twenty tokens from the event stream",
        "http_runs",
        "an ASGI program that streams the same bytes",
        "a run is a whole turn of the store beside two requests, and the bare program keeps nothing. What is left is "
        "the turn.",
    ),
    Group(
        "Growth",
        (12, 13),
        "a message with much behind it, beside it or around it",
        "growth idle_threads shards processes",
        "the same message with little",
        "see [what grows with what](scale.md).",
    ),
    Group(
        "An empty process",
        (8, 14, 15),
        "it starts, holds sockets, and does nothing",
        "start fanout tokens",
        remedy="a start is imports: less takes fewer libraries. A socket is pinged every thirty seconds and holds what "
        "uvicorn and websockets keep of it: less takes a protocol of our own.",
    ),
)
PEERS = "peers: "
"""What the names of figures begin with that hold others beside the floor."""
SHORT = {
    "added to the first token, p50, embedded": "The first token comes {} later than from the model itself.",
    "receipt, p50, embedded": "A receipt, which is given when the message is durable: {}.",
    "CPU of a token / byte pump, embedded": "A token from the model to its reader: {} the CPU of a pump of bytes.",
    "tokens/s of a gateway's core": "Tokens that one core of a gateway hands on: {}.",
    "life of a message on Redis / BullMQ, single": "A message on Redis, from receipt to answer: {} the CPU of BullMQ.",
    "life of a message on Redis / BullMQ, bursts of 20": "… in bursts of twenty: {}.",
    "life of a message on SQLite / bare inserts": "A message on SQLite, from receipt to answer: {} the CPU of inserts.",
    "CPU of a message, 0 to 1,000,000 idle threads, Redis": "Beside a million idle threads a message costs {} as much.",
    "an empty process, dev": "`turnkeep dev`, all in one process: {} of memory.",
    "dev is ready": "From its start until it is ready: {}.",
}
"""What is said first, of the figures with these names."""
