"""Workflows of DBOS in SQLite that do nothing: COUNT of them are put into a queue and waited for. JSON on the output.

dbos_app.py COUNT FOLDER
"""

import json
import resource
import sys

from dbos import DBOS

COUNT, FOLDER = int(sys.argv[1]), sys.argv[2]
DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{FOLDER}/dbos.sqlite", "log_level": "ERROR"})


@DBOS.workflow()
def answer(words: str) -> str:
    return words


def used() -> float:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


DBOS.launch()
DBOS.register_queue("bench", concurrency=64)
QUEUE = DBOS.retrieve_queue("bench")
before = used()
handles = [
    QUEUE.enqueue(answer, "a message of about a hundred bytes, as people send them to an assistant")
    for _ in range(COUNT)
]
for handle in handles:
    handle.get_result(polling_interval_sec=0.01)
print(json.dumps({"client": (used() - before) / COUNT * 1e6}), flush=True)
DBOS.destroy()
