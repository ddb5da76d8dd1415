// What the page asks the server over HTTP, and who it is there.

let csrf = null; // goes with the session's cookie, which no script can read
export const session = { scopes: new Set(), subject: "" };

export class Refused extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `status ${status}`);
    this.status = status;
    this.code = body?.error?.code;
  }
}

export async function ask(method, path, body, headers = {}) {
  const token = csrf && method !== "GET" ? { "X-CSRF-Token": csrf } : {};
  const content = body === undefined ? {} : { "Content-Type": "application/json" };
  const answer = await fetch(`api/${path}`, {
    method, headers: { ...content, ...token, ...headers }, credentials: "same-origin",
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const told = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer.status, told);
  return told;
}

// Raises `Refused` with 401 where somebody has to sign in first.
export async function lookWho() {
  const who = await ask("GET", "session");
  csrf = who.csrf ?? null;
  session.scopes = new Set(who.scopes);
  session.subject = who.subject;
  session.tenant = who.tenant;
  session.isSigned = csrf !== null;
  return session;
}

export const may = (scope) => session.scopes.has(scope) || session.scopes.has("admin");

export async function signIn(key) {
  await ask("POST", "session", undefined, { Authorization: `Bearer ${key}` });
}

export const signOut = () => ask("DELETE", "session").catch(() => null);

export const readiness = () => fetch("readyz").then((answer) => answer.json()).catch(() => ({}));
