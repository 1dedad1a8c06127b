// Conversations in this browser's localStorage, newest first. One key per conversation, so that a full disk
// or a broken entry costs that one only.
//
// A conversation: { id, title, created, changed, turns: [{ user, parts, messages, end }] }
//   parts:    what was shown, in order: {kind: "thought" | "call" | "answer" | "note", ...}
//   messages: what the server gave to append to the history; the next request sends exactly these back.

const PREFIX = "abruzzi.conversation.";

export function all() {
  const found = [];
  for (let n = 0; n < localStorage.length; n += 1) {
    const key = localStorage.key(n);
    if (!key.startsWith(PREFIX)) continue;
    try {
      found.push(JSON.parse(localStorage.getItem(key)));
    } catch { /* not ours to repair: leave it where it is */ }
  }
  return found.sort((a, b) => b.changed - a.changed);
}

export function create() {
  return { id: crypto.randomUUID(), title: "", created: Date.now(), changed: Date.now(), turns: [] };
}

// Throws when the browser's storage is full; the caller says so.
export function save(conversation) {
  conversation.changed = Date.now();
  if (!conversation.title && conversation.turns.length) conversation.title = conversation.turns[0].user.slice(0, 80);
  localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
}

export function remove(id) {
  localStorage.removeItem(PREFIX + id);
}

export function history(conversation) {
  return conversation.turns.flatMap((turn) => [{ role: "user", content: turn.user }, ...turn.messages]);
}

export function asMarkdown(conversation) {
  const out = [`# ${conversation.title || "Conversation"}`, ""];
  for (const turn of conversation.turns) {
    out.push("## User", "", turn.user, "", "## Assistant", "");
    for (const part of turn.parts) {
      if (part.kind === "thought") out.push("> *Thinking*", ...part.text.split("\n").map((l) => `> ${l}`), "");
      else if (part.kind === "call") out.push(`**${part.name}**`, ...fenced(part.arguments), ...(part.result === undefined ? [] : fenced(part.result)), "");
      else out.push(part.text, "");
    }
  }
  return out.join("\n");
}

// A fence longer than any run of backticks inside, so that the text cannot end it.
function fenced(text) {
  const longest = Math.max(2, ...(text.match(/`+/g) || []).map((run) => run.length));
  const fence = "`".repeat(longest + 1);
  return [fence, text, fence];
}

export function download(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
