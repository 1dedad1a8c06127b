// Markdown to DOM nodes. Nothing is ever parsed as HTML: every piece of text becomes a text node, so what a
// model writes cannot become markup. Covers what answers use: headings, lists, quotes, tables, code, emphasis,
// links (http, https, mailto only). Not here: images (they would call out), footnotes, raw HTML.

const SAFE_LINK = /^(https?:\/\/|mailto:)/i;

export function markdown(text) {
  const root = document.createDocumentFragment();
  blocks(text.replace(/\r\n?/g, "\n").split("\n"), root);
  return root;
}

function blocks(lines, parent) {
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = line.match(/^\s*(`{3,}|~{3,})\s*([\w+-]*)/);
    if (!line.trim()) at += 1;
    else if (fence) at = codeBlock(lines, at, fence[1], parent);
    else if (/^#{1,6}\s/.test(line)) at = heading(lines, at, parent);
    else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) { add(parent, "hr"); at += 1; }
    else if (/^\s*>/.test(line)) at = quote(lines, at, parent);
    else if (isTable(lines, at)) at = table(lines, at, parent);
    else if (item(line)) at = list(lines, at, parent);
    else at = paragraph(lines, at, parent);
  }
}

function codeBlock(lines, at, fence, parent) {
  const body = [];
  let end = at + 1;
  while (end < lines.length && !lines[end].trim().startsWith(fence)) body.push(lines[end++]);
  add(add(parent, "pre"), "code").textContent = body.join("\n");
  return end + 1;
}

function heading(lines, at, parent) {
  const [, marks, text] = lines[at].match(/^(#{1,6})\s+(.*?)\s*#*\s*$/);
  inline(text, add(parent, `h${Math.min(6, marks.length + 1)}`));
  return at + 1;
}

function quote(lines, at, parent) {
  const inner = [];
  while (at < lines.length && /^\s*>/.test(lines[at])) inner.push(lines[at++].replace(/^\s*>\s?/, ""));
  blocks(inner, add(parent, "blockquote"));
  return at;
}

const cells = (line) => line.trim().replace(/^\|/, "").replace(/\|$/, "").split("|").map((c) => c.trim());

function isTable(lines, at) {
  return at + 1 < lines.length && lines[at].includes("|") && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[at + 1]) && lines[at + 1].includes("-");
}

function table(lines, at, parent) {
  const made = add(parent, "table");
  const head = add(add(made, "thead"), "tr");
  for (const cell of cells(lines[at])) inline(cell, add(head, "th"));
  const body = add(made, "tbody");
  for (at += 2; at < lines.length && lines[at].includes("|"); at += 1) {
    const row = add(body, "tr");
    for (const cell of cells(lines[at])) inline(cell, add(row, "td"));
  }
  return at;
}

const item = (line) => line.match(/^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/);

function list(lines, at, parent) {
  const [, indent, mark] = item(lines[at]);
  const ordered = /\d/.test(mark);
  const made = add(parent, ordered ? "ol" : "ul");
  if (ordered) made.start = parseInt(mark, 10);
  while (at < lines.length) {
    const found = item(lines[at]);
    if (!found || found[1].length !== indent.length || /\d/.test(found[2]) !== ordered) break;
    const inner = [found[3]];
    const hanging = indent.length + found[2].length + 1;
    for (at += 1; at < lines.length; at += 1) {
      const deeper = lines[at].match(/^\s*/)[0].length > indent.length;
      if (!lines[at].trim() && at + 1 < lines.length && lines[at + 1].match(/^\s*/)[0].length > indent.length) inner.push("");
      else if (lines[at].trim() && deeper) inner.push(lines[at].slice(Math.min(hanging, lines[at].match(/^\s*/)[0].length)));
      else break;
    }
    const entry = add(made, "li");
    if (inner.length === 1) inline(inner[0], entry);
    else blocks(inner, entry);
  }
  return at;
}

function paragraph(lines, at, parent) {
  const words = [];
  while (at < lines.length && lines[at].trim() && !/^(#{1,6}\s|\s*>|\s*(`{3,}|~{3,}))/.test(lines[at]) && !(words.length && item(lines[at]))) words.push(lines[at++].trim());
  const made = add(parent, "p");
  words.forEach((line, number) => {
    if (number) add(made, "br");
    inline(line, made);
  });
  return at;
}

// The first of these that matches splits the text; what lies inside is looked at again.
const SPANS = [
  [/(`+)(.+?)\1(?!`)/, (m, parent) => { add(parent, "code").textContent = m[2].trim() || m[2]; }],
  [/\[([^\]]+)\]\(([^\s)]+)\)/, link],
  [/\*\*(\S(?:.*?\S)?)\*\*/, (m, parent) => inline(m[1], add(parent, "strong"))],
  [/(?<![\w*])\*(\S(?:.*?\S)?)\*(?![\w*])/, (m, parent) => inline(m[1], add(parent, "em"))],
  [/(?<![\w_])_(\S(?:.*?\S)?)_(?![\w_])/, (m, parent) => inline(m[1], add(parent, "em"))],
  [/~~(\S(?:.*?\S)?)~~/, (m, parent) => inline(m[1], add(parent, "s"))],
];

function inline(text, parent) {
  let first = null;
  for (const [pattern, make] of SPANS) {
    const match = text.match(pattern);
    if (match && (!first || match.index < first.match.index)) first = { match, make };
  }
  if (!first) { parent.append(text); return; }
  const { match, make } = first;
  if (match.index) parent.append(text.slice(0, match.index));
  make(match, parent);
  const rest = text.slice(match.index + match[0].length);
  if (rest) inline(rest, parent);
}

function link(match, parent) {
  if (!SAFE_LINK.test(match[2])) { parent.append(match[0]); return; }
  const made = add(parent, "a");
  made.href = match[2];
  made.rel = "noopener noreferrer";
  made.target = "_blank";
  inline(match[1], made);
}

function add(parent, tag) {
  const made = document.createElement(tag);
  parent.append(made);
  return made;
}
