// The wire: JSON requests, and server-sent events as they come. No state beside the key of this tab.

export class WireError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export async function getJson(path) {
  return (await checked(await fetch(path, { headers: headers() }))).json();
}

export async function postJson(path, body) {
  return (await checked(await post(path, body))).json();
}

// Calls onEvent with each event object; resolves when the server has ended the stream. Aborting `signal`
// closes the connection, which is how the server learns that nobody listens any more.
export async function postStream(path, body, signal, onEvent) {
  const answer = await checked(await post(path, body, signal));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    let end;
    while ((end = held.indexOf("\n\n")) >= 0) {
      const data = held.slice(0, end).split("\n").filter((l) => l.startsWith("data:")).map((l) => l.slice(5).trimStart()).join("\n");
      held = held.slice(end + 2);
      if (data) onEvent(JSON.parse(data));
    }
  }
}

export function setKey(key) {
  sessionStorage.setItem("abruzzi.key", key);
}

function headers() {
  const key = sessionStorage.getItem("abruzzi.key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

function post(path, body, signal) {
  return fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
}

async function checked(answer) {
  if (answer.ok) return answer;
  let said = `the server answered ${answer.status}`;
  try {
    said = (await answer.json()).error.message || said;
  } catch { /* no JSON body: the status says enough */ }
  throw new WireError(said, answer.status);
}
