// One turn of the assistant on the screen: parts in the order in which they came.
import { markdown } from "/page/markdown.js";

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export class TurnView {
  constructor(parent) {
    this.root = element("section", "turn");
    parent.append(this.root);
    this.open = null; // { part, node } that is being written
    this.frame = 0; // the pending redraw of it: at most one per frame, however fast tokens come
  }

  // Text that goes on in the part of its kind, or begins a new one. Returns the part, which grows.
  write(parts, kind, text, tokens) {
    let part = parts[parts.length - 1];
    if (!part || part.kind !== kind || !this.open || this.open.part !== part) {
      this.close();
      part = { kind, text: "", tokens: 0, started: performance.now(), seconds: 0 };
      parts.push(part);
      this.open = { part, node: this.draw(part, true) };
    }
    part.text += text;
    part.tokens += tokens || 0;
    part.seconds = (performance.now() - part.started) / 1000;
    this.frame ||= requestAnimationFrame(() => this.redraw());
    return part;
  }

  redraw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (this.open) this.refresh(this.open.part, this.open.node);
  }

  // End the part that is being written: a thought folds, an answer is final.
  close() {
    this.redraw();
    if (this.open?.part.kind === "thought") {
      this.open.node.classList.remove("live");
      this.open.node.open = false;
    }
    this.open = null;
  }

  call(parts, id, name, args) {
    this.close();
    const part = { kind: "call", id, name, arguments: args };
    parts.push(part);
    this.draw(part);
    return part;
  }

  result(part, ok, text, seconds) {
    Object.assign(part, { ok, result: text, seconds });
    const node = [...this.root.querySelectorAll(".call")].find((n) => n.dataset.id === part.id);
    if (node) this.fillResult(part, node);
  }

  note(parts, text) {
    this.close();
    const part = { kind: "note", text };
    parts.push(part);
    this.draw(part);
  }

  drawAll(parts) {
    for (const part of parts) this.draw(part);
  }

  draw(part, live = false) {
    const node = { thought: drawThought, call: drawCall, answer: drawAnswer, note: drawNote }[part.kind](part, live);
    this.root.append(node);
    if (part.kind === "call" && part.result !== undefined) this.fillResult(part, node);
    else if (part.kind !== "call") this.refresh(part, node);
    return node;
  }

  refresh(part, node) {
    if (part.kind === "thought") {
      node.querySelector("summary").textContent = `Thought for ${part.seconds.toFixed(1)} s · ${part.tokens} tokens`;
      node.querySelector("div").textContent = part.text;
    } else if (part.kind === "answer") {
      node.replaceChildren(markdown(part.text));
    }
  }

  fillResult(part, node) {
    node.classList.add(part.ok ? "ok" : "error");
    node.querySelector(".state").textContent = `${part.ok ? "done" : "error"} · ${part.seconds < 0.001 ? "under 1" : (part.seconds * 1000).toFixed(0)} ms`;
    node.append(element("pre", "result", part.result));
  }

  foot(text, actions) {
    const foot = element("div", "foot");
    foot.append(element("span", "", text));
    for (const [label, act] of actions) {
      const button = element("button", "link", label);
      button.type = "button";
      button.addEventListener("click", act);
      foot.append(button);
    }
    this.root.append(foot);
  }
}

function drawThought(part, live) {
  const node = element("details", live ? "thought live" : "thought");
  node.open = live;
  node.append(element("summary"), element("div"));
  return node;
}

function drawCall(part) {
  const node = element("article", "call");
  node.dataset.id = part.id;
  const head = element("header");
  head.append(element("span", "name", part.name), element("span", "grow"), element("span", "state", "running"));
  node.append(head, element("pre", "arguments", pretty(part.arguments)));
  return node;
}

// Arguments are shown as the model wrote them when they are no JSON.
function pretty(text) {
  try {
    const value = JSON.parse(text);
    const entries = Object.entries(value);
    if (entries.length && entries.every(([, v]) => typeof v !== "object")) return entries.map(([k, v]) => `${k}: ${v}`).join("\n");
    return JSON.stringify(value, null, 2);
  } catch {
    return text;
  }
}

const drawAnswer = () => element("div", "answer");
const drawNote = (part) => element("div", "note", part.text);
