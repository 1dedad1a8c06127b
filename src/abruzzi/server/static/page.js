// The page: one conversation at a time, streamed. What is shown is a reader of the server's events; the history
// that goes back with the next question is exactly what the server gave.
import { getJson, postJson, postStream, setKey, WireError } from "/page/stream.js";
import * as store from "/page/store.js";
import { element, TurnView } from "/page/view.js";

const $ = (id) => document.getElementById(id);
const state = { conversation: store.create(), model: null, running: null };

// The conversation on the screen

function show(conversation) {
  state.conversation = conversation;
  const transcript = $("transcript");
  transcript.replaceChildren();
  if (!conversation.turns.length) transcript.append(welcome());
  conversation.turns.forEach((turn, number) => drawTurn(transcript, turn, number === conversation.turns.length - 1));
  location.hash = conversation.turns.length ? conversation.id : "";
  listConversations();
  showContext();
  toBottom(true);
}

function welcome() {
  const box = element("div", "welcome");
  box.append(element("h1", "", "What shall we work out?"));
  box.append(element("p", "quiet", state.model?.note || "Everything stays on this machine."));
  const list = element("div", "suggestions");
  for (const text of state.model?.examples || []) {
    const button = element("button", "", text);
    button.addEventListener("click", () => ask(text));
    list.append(button);
  }
  box.append(list);
  return box;
}

function drawTurn(parent, turn, last) {
  parent.append(element("div", "user", turn.user));
  const view = new TurnView(parent);
  view.drawAll(turn.parts);
  view.foot(summary(turn.end), actions(turn, last));
  return view;
}

function actions(turn, last) {
  const answer = turn.parts.filter((p) => p.kind === "answer").map((p) => p.text).join("\n");
  return [
    ...(answer ? [["Copy", () => navigator.clipboard.writeText(answer)]] : []),
    ...(last ? [["Regenerate", regenerate]] : []),
  ];
}

function summary(end) {
  if (!end) return "not finished";
  const usage = end.usage || {};
  return [
    `${usage.completion_tokens ?? 0} tokens (${usage.reasoning_tokens ?? 0} thinking)`,
    usage.cached_tokens ? `${usage.cached_tokens} of ${usage.prompt_tokens} prompt tokens from cache` : "",
    end.decode_tok_s ? `${end.decode_tok_s.toFixed(0)} tok/s` : "",
    end.ttft_s != null ? `first token ${(end.ttft_s * 1000).toFixed(0)} ms` : "",
    end.cost_usd != null ? `$${end.cost_usd.toPrecision(2)} (${end.cost_basis})` : "cost not priced",
    end.stop_reason && end.stop_reason !== "answer" ? `ended: ${end.stop_reason.replaceAll("_", " ")}` : "",
  ].filter(Boolean).join(" · ");
}

function showContext() {
  const turns = state.conversation.turns;
  const used = turns.length ? turns[turns.length - 1].end?.context_tokens || 0 : 0;
  const size = state.model?.context || 0;
  $("context").value = size ? used / size : 0;
  $("context-text").textContent = size ? `${used} / ${size}` : "–";
}

function listConversations() {
  const list = $("conversations");
  list.replaceChildren();
  for (const conversation of store.all()) {
    const entry = element("div", conversation.id === state.conversation.id ? "entry current" : "entry");
    const open = element("button", "open", conversation.title || "Untitled");
    open.addEventListener("click", () => { stop(); show(conversation); drawer(false); });
    const gone = element("button", "delete", "✕");
    gone.setAttribute("aria-label", `Delete ${conversation.title}`);
    gone.addEventListener("click", () => forget(conversation));
    entry.append(open, gone);
    list.append(entry);
  }
}

function forget(conversation) {
  if (!confirm(`Delete “${conversation.title}”?`)) return;
  store.remove(conversation.id);
  if (conversation.id === state.conversation.id) { stop(); show(store.create()); }
  else listConversations();
}

// Asking

function ask(text) {
  if (!text.trim() || state.running) return;
  if (!state.conversation.turns.length) $("transcript").replaceChildren();
  else document.querySelectorAll(".foot button").forEach((b) => { if (b.textContent === "Regenerate") b.remove(); });
  const turn = { user: text, parts: [], messages: [], end: null };
  const before = store.history(state.conversation);
  state.conversation.turns.push(turn);
  $("transcript").append(element("div", "user", text));
  return run(turn, [...before, { role: "user", content: text }]);
}

function regenerate() {
  if (state.running) return;
  const turn = state.conversation.turns.pop();
  if (!turn) return;
  show(state.conversation);
  return ask(turn.user);
}

async function run(turn, messages) {
  const conversation = state.conversation;
  const view = new TurnView($("transcript"));
  const running = { control: new AbortController(), id: null };
  state.running = running;
  busy(true);
  toBottom(true);
  try {
    await postStream("/page/turn", request(messages), running.control.signal, (event) => {
      see(event, turn, view, running);
      toBottom();
    });
    if (!turn.end) view.note(turn.parts, "The connection ended before the answer did.");
    else if (turn.end.stop_reason === "stopped") view.note(turn.parts, "Stopped.");
  } catch (error) {
    if (error.name === "AbortError") view.note(turn.parts, "Stopped.");
    else view.note(turn.parts, error.message || String(error));
    if (error instanceof WireError && error.status === 401) askKey();
  } finally {
    view.close();
    state.running = null;
    busy(false);
  }
  keep(conversation, turn, view);
}

function keep(conversation, turn, view) {
  try {
    store.save(conversation);
  } catch {
    view.note(turn.parts, "This browser's storage is full: the conversation is not kept. Export it, or delete old ones.");
  }
  if (conversation !== state.conversation) return;
  view.foot(summary(turn.end), actions(turn, true));
  location.hash = conversation.id;
  listConversations();
  showContext();
  toBottom();
}

function request(messages) {
  const number = (id) => ($(id).value === "" ? null : Number($(id).value));
  return {
    messages,
    tools: $("tools").checked,
    reasoning_effort: $("effort").value,
    thinking_token_budget: number("budget"),
    temperature: number("temperature"),
  };
}

function see(event, turn, view, running) {
  if (event.type === "start") running.id = event.id;
  else if (event.type === "reasoning") view.write(turn.parts, "thought", event.text, event.tokens);
  else if (event.type === "content") view.write(turn.parts, "answer", event.text, event.tokens);
  else if (event.type === "tool_call") view.call(turn.parts, event.id, event.name, event.arguments);
  else if (event.type === "tool_result") {
    const part = turn.parts.find((p) => p.kind === "call" && p.id === event.id);
    if (part) view.result(part, event.ok, event.result, event.seconds);
  } else if (event.type === "error") view.note(turn.parts, event.message);
  else if (event.type === "end") {
    turn.messages = event.messages;
    turn.end = event;
    delete turn.end.messages;
  }
}

// The server ends the turn where it is and says what to keep. One that does not answer is left.
function stop() {
  const running = state.running;
  if (!running) return;
  if (!running.id) running.control.abort();
  else postJson("/page/stop", { id: running.id }).catch(() => running.control.abort());
  setTimeout(() => running.control.abort(), 3000);
}

function answerNow() {
  if (state.running?.id) postJson("/page/answer_now", { id: state.running.id }).catch((error) => alert(error.message));
}

function busy(yes) {
  $("send").hidden = yes;
  $("stop").hidden = !yes;
  $("answer-now").hidden = !yes;
  $("transcript").setAttribute("aria-busy", String(yes));
}

// Follow the stream unless the reader has scrolled up.
function toBottom(always = false) {
  const box = $("scroll");
  if (always || box.scrollHeight - box.scrollTop - box.clientHeight < 120) box.scrollTop = box.scrollHeight;
}

// Dialogs, keys, the rest

async function showRaw() {
  const box = $("raw-tokens");
  const typed = $("prompt").value.trim();
  const messages = [...store.history(state.conversation), ...(typed ? [{ role: "user", content: typed }] : [])];
  if (!messages.length) return alert("Nothing to show yet: write a message first.");
  try {
    const { tokens } = await postJson("/page/prompt", request(messages));
    $("raw-count").textContent = `${tokens.length} tokens`;
    box.replaceChildren(...tokens.map(({ id, text, sampled, control }) => {
      const node = element("span", [sampled ? "sampled" : "", control ? "control" : ""].join(" ").trim(), text);
      node.title = `${id}${sampled ? ", sampled" : ""}`;
      node.tabIndex = 0;
      node.append(element("sub", "", String(id)));
      return node;
    }));
    $("raw-dialog").showModal();
  } catch (error) {
    alert(error.message);
  }
}

function exportAs(kind) {
  const name = (state.conversation.title || "conversation").replace(/[^\w]+/g, "-").slice(0, 40);
  if (kind === "markdown") store.download(`${name}.md`, store.asMarkdown(state.conversation), "text/markdown");
  else store.download(`${name}.json`, JSON.stringify(state.conversation, null, 2), "application/json");
}

function askKey() {
  $("key-dialog").showModal();
}

function drawer(open) {
  const narrow = matchMedia("(max-width: 46rem)").matches;
  $("drawer").classList.toggle(narrow ? "open" : "shut", narrow ? open : !open);
  $("shade").hidden = !(narrow && open);
  $("menu").setAttribute("aria-expanded", String(open));
}

function drawerIsOpen() {
  return matchMedia("(max-width: 46rem)").matches ? $("drawer").classList.contains("open") : !$("drawer").classList.contains("shut");
}

function theme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("abruzzi.theme", document.documentElement.dataset.theme);
}

function fit(area) {
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

function submit() {
  const text = $("prompt").value;
  if (!text.trim() || state.running) return;
  $("prompt").value = "";
  fit($("prompt"));
  ask(text);
}

function onKey(event) {
  const typing = /^(TEXTAREA|INPUT|SELECT)$/.test(document.activeElement?.tagName || "");
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && state.running) stop();
  else if (event.key === "Enter" && event.ctrlKey && state.running) answerNow();
  else if (event.key === "Enter" && !event.shiftKey && !event.isComposing && document.activeElement === $("prompt")) submit();
  else if (event.altKey && event.code === "KeyR") regenerate();
  else if (event.altKey && event.code === "KeyN") { stop(); show(store.create()); $("prompt").focus(); }
  else if (event.key === "/" && !typing) $("prompt").focus();
  else if (event.key === "?" && !typing) $("help-dialog").showModal();
  else return;
  event.preventDefault();
}

async function start() {
  const kept = localStorage.getItem("abruzzi.theme");
  if (kept) document.documentElement.dataset.theme = kept;
  $("form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  $("prompt").addEventListener("input", () => fit($("prompt")));
  const clicks = {
    stop, raw: showRaw, theme, "answer-now": answerNow,
    new: () => { stop(); show(store.create()); drawer(!matchMedia("(max-width: 46rem)").matches); $("prompt").focus(); },
    menu: () => drawer(!drawerIsOpen()), shade: () => drawer(false), help: () => $("help-dialog").showModal(),
    "export-markdown": () => exportAs("markdown"), "export-json": () => exportAs("json"),
  };
  for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
  for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
  $("key-form").addEventListener("submit", () => { setKey($("key").value); loadModel(); });
  document.addEventListener("keydown", onKey);
  const wanted = store.all().find((c) => c.id === location.hash.slice(1));
  await loadModel();
  show(wanted || store.create());
}

async function loadModel() {
  try {
    state.model = await getJson("/page/model");
    $("model").textContent = state.model.name;
    document.title = `abruzzi · ${state.model.name}`;
    showContext();
  } catch (error) {
    if (error.status === 401) askKey();
    else $("model").textContent = error.message;
  }
}

start();
