// The dashboard: how much waits, who is dead, who does not answer. Whatever somebody wrote is put in as text.

const $ = (id) => document.getElementById(id);
let csrf = null; // goes with the session's cookie, which no script can read

async function ask(method, path, headers = {}) {
  const token = csrf && method !== "GET" ? { "X-CSRF-Token": csrf } : {};
  const answer = await fetch(`api/${path}`, { method, headers: { ...headers, ...token }, credentials: "same-origin" });
  const body = answer.status === 204 ? null : await answer.json();
  if (!answer.ok) throw Object.assign(new Error(body?.error?.message ?? `status ${answer.status}`), { status: answer.status });
  return body;
}

function trouble(words) {
  $("trouble").textContent = words;
  $("trouble").hidden = !words;
}

const when = (seconds) => new Date(seconds * 1000).toLocaleString();

// ------------------------------------------------------------- coming in

async function enter() {
  try {
    const session = await ask("GET", "session");
    csrf = session.csrf;
    $("who").textContent = `${session.tenant} · ${session.subject}`;
    $("door").hidden = true;
    $("house").hidden = false;
    $("leave").hidden = !csrf;
    await look();
  } catch (error) {
    $("door").hidden = error.status !== 401;
    $("house").hidden = true;
    trouble(error.status === 401 ? "" : error.message);
  }
}

$("door").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("POST", "session", { Authorization: `Bearer ${$("key").value.trim()}` });
    trouble("");
    await enter();
  } catch (error) {
    trouble(error.message);
  } finally {
    $("key").value = "";
  }
});

$("leave").addEventListener("click", async () => {
  await ask("DELETE", "session").catch(() => {});
  location.reload();
});

// ------------------------------------------------------------- looking

async function look() {
  const [queue, dead, threads] = await Promise.all([ask("GET", "queue"), ask("GET", "dead"), ask("GET", "threads")]);
  showCounts(queue);
  show("dead", dead.dead, letter);
  show("threads", threads.threads, thread);
  $("circuits").hidden = queue.details.circuits.length === 0;
  $("circuits").querySelector("ul").replaceChildren(...queue.details.circuits.map((circuit) => {
    const line = document.createElement("li");
    line.textContent = `${circuit.message} (${circuit.code}, since ${when(circuit.since)})`;
    return line;
  }));
}

function showCounts(queue) {
  const told = {
    "being answered": queue.activeCount, waiting: queue.waitingCount, delayed: queue.delayedCount,
    answered: queue.completedCount, dead: queue.details.dead_letters, threads: queue.details.threads,
  };
  $("counts").replaceChildren(...Object.entries(told).map(([name, count]) => {
    const [pair, term, value] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    term.textContent = name;
    value.textContent = count;
    pair.append(term, value);
    return pair;
  }));
}

function show(id, records, made) {
  $(id).replaceChildren(...records.map(made));
  $(id).parentElement.querySelector(".none").hidden = records.length > 0;
}

function letter(record) {
  const line = $("letter").content.cloneNode(true).firstElementChild;
  line.querySelector("b").textContent = record.channel;
  line.querySelector("small").textContent = when(record.at);
  line.querySelector("p").textContent = `${record.error.code}: ${record.error.details || record.error.message}`;
  line.querySelector("pre").textContent = record.content.map((part) => part.text ?? `[${part.type}]`).join("\n");
  const path = `dead/${encodeURIComponent(record.dead_id)}`;
  line.querySelector(".redrive").addEventListener("click", () => act("POST", `${path}/redrive`));
  line.querySelector(".discard").addEventListener("click", () => confirm("Forget this message?") && act("DELETE", path));
  return line;
}

function thread(record) {
  const line = $("thread").content.cloneNode(true).firstElementChild;
  line.querySelector("b").textContent = record.channel;
  line.querySelector("small").textContent =
    `${record.paused ? "paused" : record.state} · ${record.turns} turns · ${when(record.active_at)}`;
  return line;
}

async function act(method, path) {
  try {
    await ask(method, path);
    trouble("");
  } catch (error) {
    trouble(error.message);
  }
  await look();
}

enter();
setInterval(() => { if (!$("house").hidden && !document.hidden) look().catch((error) => error.status === 401 ? enter() : trouble(error.message)); }, 5000);
