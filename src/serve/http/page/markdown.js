// Markdown to DOM nodes. Text only ever becomes text nodes: nothing a model writes is parsed as HTML.
// Understood: headings, paragraphs, lists, quotes, fenced code, tables, rules, code, emphasis, links.

const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

// Only links that lead somewhere harmless; everything else stays text.
const safeLink = (target) => {
  try {
    const url = new URL(target);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
};

// Each rule sees this many characters: a mark that closes later than that does not close.
const WINDOW = 600;
const DEPTH = 8;

const RULES = [
  [/^\*\*(?=\S)([\s\S]*?\S)\*\*/, (m, d) => [wrap("strong", m[1], d)]],
  [/^__(?=\S)([\s\S]*?\S)__(?!\w)/, (m, d) => [wrap("strong", m[1], d)]],
  [/^\*(?=[^\s*])([\s\S]*?[^\s*])\*(?!\*)/, (m, d) => [wrap("em", m[1], d)]],
  [/^_(?=[^\s_])([\s\S]*?[^\s_])_(?!\w)/, (m, d) => [wrap("em", m[1], d)]],
  [/^~~(?=\S)([\s\S]*?\S)~~/, (m, d) => [wrap("del", m[1], d)]],
  // A picture would be a request to somewhere: its words are shown.
  [/^!?\[([^\[\]]*)\]\(([^\s()]+)(?:\s+"[^"]*")?\)/, (m) => link(m[2], m[1], m[0])],
  [/^<(https?:\/\/[^\s<>]+)>/, (m) => link(m[1], m[1], m[0])],
  [/^https?:\/\/[^\s<>"'()\[\]]*[^\s<>"'()\[\].,;:!?]/, (m) => link(m[0], m[0], m[0])],
  [/^\\([\\`*_{}\[\]()#+\-.!~|>])/, (m) => [document.createTextNode(m[1])]],
];

const wrap = (tag, text, depth = 0) => {
  const node = make(tag);
  node.append(...inline(text, depth + 1));
  return node;
};

const link = (target, text, raw) => {
  const href = safeLink(target);
  if (!href) return [document.createTextNode(raw)];
  const node = make("a", "", text || target);
  node.href = href;
  node.rel = "noopener noreferrer nofollow";
  node.target = "_blank";
  return [node];
};

// `code` at `at`: as many backticks close it as opened it. The nodes and where it ends.
const codeSpan = (text, at) => {
  const ticks = /^`+/.exec(text.slice(at, at + WINDOW))[0];
  for (let end = text.indexOf(ticks, at + ticks.length); end >= 0; end = text.indexOf(ticks, end)) {
    let after = end + ticks.length;
    if (text[after] !== "`") return [make("code", "", text.slice(at + ticks.length, end).replace(/^ (.*) $/, "$1")), after];
    while (text[after] === "`") after += 1;
    end = after;
  }
  return [document.createTextNode(ticks), at + ticks.length];
};

export const inline = (text, depth = 0) => {
  const nodes = [];
  let plain = "";
  const flush = () => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
  };
  for (let at = 0; at < text.length; ) {
    const c = text[at];
    const before = text[at - 1] || "";
    if (c === "`") {
      const [node, end] = codeSpan(text, at);
      flush();
      nodes.push(node);
      at = end;
      continue;
    }
    // A long run of one mark is decoration, and `_` inside a word is part of it.
    const run = "*_~".includes(c) ? new RegExp(`^\\${c}{4,}`).exec(text.slice(at, at + WINDOW)) : null;
    if (run) {
      plain += run[0];
      at += run[0].length;
      continue;
    }
    const asWord = "_h".includes(c) && /\w/.test(before);
    if (depth < DEPTH && "*_~![<\\h".includes(c) && !asWord) {
      const rest = text.slice(at, at + WINDOW);
      const hit = RULES.map(([rule, build]) => [rule.exec(rest), build]).find(([m]) => m);
      if (hit) {
        flush();
        nodes.push(...hit[1](hit[0], depth));
        at += hit[0][0].length;
        continue;
      }
    }
    if (c === "\n") {
      flush();
      nodes.push(make("br"));
    } else {
      plain += c;
    }
    at += 1;
  }
  flush();
  return nodes;
};

const WORDS = new Set(("as async await break case class const continue def del do elif else enum export false fn for from function if impl import in is " +
  "lambda let loop match mod mut new none not null or and pass pub raise return self static struct super switch this throw trait true try type use var while with yield").split(" "));
const TOKEN = /(\/\/.*|\/\*[\s\S]*?(?:\*\/|$)|#(?![\[!]).*)|("(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`?)|(\b\d[\w.]*)|([A-Za-z_]\w*)/g;

// A little colour, the same for all languages.
const highlight = (code, text) => {
  let at = 0;
  for (const m of text.matchAll(TOKEN)) {
    const kind = m[1] ? "c-comment" : m[2] ? "c-string" : m[3] ? "c-number" : WORDS.has(m[4].toLowerCase()) ? "c-word" : "";
    if (!kind) continue;
    code.append(text.slice(at, m.index), make("span", kind, m[0]));
    at = m.index + m[0].length;
  }
  code.append(text.slice(at));
};

const codeBlock = (language, text) => {
  const box = make("div", "codeblock");
  const head = make("div");
  const copy = make("button", "plain", "Copy");
  copy.type = "button";
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  head.append(make("span", "", language || "text"), copy);
  const pre = make("pre");
  pre.tabIndex = 0;
  const code = make("code");
  if (text.length < 20000) highlight(code, text);
  else code.textContent = text;
  pre.append(code);
  box.append(head, pre);
  return box;
};

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const FENCE = /^\s{0,3}(```+|~~~+)\s*([^\s`]*)[^`]*$/;
const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((c) => c.trim().replace(/\\\|/g, "|"));
const isRule = (line) => /^\s{0,3}([-*_])(\s*\1){2,}\s*$/.test(line);
const isTable = (lines, i) => lines[i].includes("|") && i + 1 < lines.length && /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(lines[i + 1]) && lines[i + 1].includes("-");

const list = (lines, start, depth) => {
  const [, indent, mark] = ITEM.exec(lines[start]);
  const ordered = /\d/.test(mark);
  const node = make(ordered ? "ol" : "ul");
  if (ordered && parseInt(mark, 10) !== 1) node.start = parseInt(mark, 10);
  let i = start;
  while (i < lines.length) {
    const m = ITEM.exec(lines[i]);
    if (!m || m[1].length !== indent.length || /\d/.test(m[2]) !== ordered) break;
    const inner = [m[3]];
    i += 1;
    // What is indented deeper belongs to the item.
    while (i < lines.length && (lines[i].trim() === "" ? /^\s/.test(lines[i + 1] || "") && (lines[i + 1] || "").trim() !== "" : /^\s+/.exec(lines[i])?.[0].length > indent.length)) {
      inner.push(lines[i].slice(Math.min(indent.length + 2, lines[i].length - lines[i].trimStart().length)));
      i += 1;
    }
    const item = make("li");
    const parts = blocks(inner, depth + 1);
    // One line stands without a paragraph around it.
    if (parts[0]?.tagName === "P") item.append(...parts[0].childNodes, ...parts.slice(1));
    else item.append(...parts);
    node.append(item);
    while (i < lines.length && lines[i].trim() === "" && ITEM.test(lines[i + 1] || "")) i += 1;
  }
  return [node, i];
};

const table = (lines, start) => {
  const box = make("div", "scroll");
  const node = make("table");
  const row = (line, tag) => {
    const tr = make("tr");
    for (const text of cells(line)) tr.append(wrap(tag, text));
    return tr;
  };
  const head = make("thead");
  head.append(row(lines[start], "th"));
  const body = make("tbody");
  let i = start + 2;
  for (; i < lines.length && lines[i].includes("|"); i += 1) body.append(row(lines[i], "td"));
  node.append(head, body);
  box.append(node);
  return [box, i];
};

const blocks = (lines, depth = 0) => {
  const nodes = [];
  let i = 0;
  while (i < lines.length) {
    const line = lines[i];
    const fence = FENCE.exec(line);
    if (line.trim() === "") {
      i += 1;
    } else if (fence) {
      const inner = [];
      i += 1;
      while (i < lines.length && !(lines[i].trim().startsWith(fence[1]) && /^[`~]+$/.test(lines[i].trim()))) inner.push(lines[i++]);
      i += 1;
      nodes.push(codeBlock(fence[2], inner.join("\n")));
    } else if (/^\s{0,3}#{1,6}\s/.test(line)) {
      const [, marks, text] = /^\s*(#+)\s+(.*?)\s*#*\s*$/.exec(line) || [, "#", line];
      nodes.push(wrap(`h${Math.min(marks.length, 4)}`, text));
      i += 1;
    } else if (isRule(line)) {
      nodes.push(make("hr"));
      i += 1;
    } else if (depth < DEPTH && /^\s{0,3}>/.test(line)) {
      const inner = [];
      while (i < lines.length && /^\s{0,3}>/.test(lines[i])) inner.push(lines[i++].replace(/^\s*>\s?/, ""));
      const quote = make("blockquote");
      quote.append(...blocks(inner, depth + 1));
      nodes.push(quote);
    } else if (depth < DEPTH && ITEM.test(line)) {
      const [node, next] = list(lines, i, depth);
      nodes.push(node);
      i = next;
    } else if (isTable(lines, i)) {
      const [node, next] = table(lines, i);
      nodes.push(node);
      i = next;
    } else {
      const inner = [lines[i++]];
      while (i < lines.length && lines[i].trim() !== "" && !FENCE.test(lines[i]) && !/^\s{0,3}(#{1,6}\s|>)/.test(lines[i]) && !isRule(lines[i]) && !ITEM.test(lines[i]) && !isTable(lines, i)) inner.push(lines[i++]);
      nodes.push(wrap("p", inner.join("\n").trim()));
    }
  }
  return nodes;
};

/** Fills `node` with `text`. */
export const render = (node, text) => node.replaceChildren(...blocks(text.replace(/\r\n?/g, "\n").split("\n")));
