// The page: conversations, the message field, settings. Markdown is markdown.js, the server api.js.
// Everything a model or a tool writes enters the document as text.

import * as api from "/assets/api.js";
import { render } from "/assets/markdown.js";

const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
const button = (text, onClick, className = "plain") => {
  const node = make("button", className, text);
  node.type = "button";
  node.addEventListener("click", onClick);
  return node;
};

// What is kept in the browser.

const DEFAULTS = { model: "", system: "", temperature: 0.7, top_p: 0.9, repetition_penalty: 1, max_tokens: 512, seed: "", theme: "", thinking: false, tools: false };
const ROUNDS = 5; // tool calls that may follow each other in one answer

const load = (name, fallback) => {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? fallback;
  } catch {
    return fallback;
  }
};
const save = (name, value) => {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    notice("This browser keeps no more: delete some conversations.");
  }
};

const settings = { ...DEFAULTS, ...load("minimind.settings", {}) };
let conversations = load("minimind.conversations", []);
if (!Array.isArray(conversations)) conversations = [];
let current = conversations[0] ?? null;
let models = [];
let tools = [];
let running = null; // the AbortController of the answer that is coming

const keep = () => save("minimind.conversations", conversations.filter((c) => c.messages.length > 0));

const notice = (text) => {
  $("notice").textContent = text;
  $("notice").hidden = !text;
};

// Conversations.

const open = (conversation) => {
  stop();
  current = conversation;
  showList();
  showLog();
  closeSide();
};

const fresh = () => {
  open(null);
  $("prompt").focus();
};

const remove = (conversation) => {
  const was = conversation === current;
  conversations = conversations.filter((c) => c !== conversation);
  keep();
  if (was) open(conversations[0] ?? null);
  else showList();
};

const showList = () => {
  $("list").replaceChildren(
    ...conversations.map((conversation) => {
      const item = make("li", conversation === current ? "on" : "");
      const title = button(conversation.title, () => open(conversation), "open");
      if (conversation === current) title.setAttribute("aria-current", "true");
      const drop = button("Delete", () => remove(conversation), "drop");
      drop.setAttribute("aria-label", `Delete the conversation ${conversation.title}`);
      item.append(title, drop);
      return item;
    }),
  );
};

// Messages.

const atEnd = () => $("log").scrollHeight - $("log").scrollTop - $("log").clientHeight < 60;
const toEnd = () => ($("log").scrollTop = $("log").scrollHeight);

const thinkingBox = (text, busy) => {
  const box = make("details", "thinking");
  box.append(make("summary", "", busy ? "Thinking…" : "Thinking"), make("div", "", text));
  return box;
};

const toolBox = (call, result) => {
  const box = make("details", "tool");
  const summary = make("summary");
  summary.append("Tool ", make("code", "", `${call.function.name}(${call.function.arguments})`), result === undefined ? " …" : "");
  box.append(summary);
  if (result !== undefined) box.append(make("h4", "", "Result"), make("pre", "", result));
  return box;
};

const stats = (message) => {
  if (!message.tokens) return "";
  const speed = message.seconds > 0 ? ` · ${(message.tokens / message.seconds).toFixed(1)} tokens/s` : "";
  return `${message.tokens} ${message.tokens === 1 ? "token" : "tokens"}${speed}`;
};

const ENDS = { length: "stopped at the limit of new tokens", stopped: "stopped", failed: "broke off" };

/** Shows one turn; an assistant's turn holds all its messages and tool results. */
const turnNode = (messages, last) => {
  const role = messages[0].role;
  const node = make("article", `turn ${role}`);
  node.append(make("h3", "", role === "user" ? "You" : "Model"));
  if (role === "user") {
    node.append(make("div", "text", messages[0].content));
    return node;
  }
  const results = new Map(messages.filter((m) => m.role === "tool").map((m) => [m.tool_call_id, m.content]));
  const said = messages.filter((m) => m.role === "assistant");
  for (const message of said) {
    if (message.reasoning_content) node.append(thinkingBox(message.reasoning_content, message.busy && !message.content));
    if (message.content || message.busy) {
      const text = make("div", `md${message.busy ? " waiting" : ""}`);
      render(text, message.content);
      node.append(text);
    }
    for (const call of message.tool_calls ?? []) node.append(toolBox(call, results.get(call.id)));
    if (message.fault) node.append(make("p", "failed", message.fault));
  }
  const end = said[said.length - 1];
  if (end && !end.busy) {
    const foot = make("div", "foot");
    const whole = said.map((m) => m.content).join("\n\n").trim();
    const copy = button("Copy", async () => {
      await navigator.clipboard.writeText(whole);
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 1500);
    });
    if (whole) foot.append(copy);
    if (last) foot.append(button("Answer again", regenerate));
    foot.append(make("span", "stats", [ENDS[end.end], stats(end)].filter(Boolean).join(" · ")));
    node.append(foot);
  }
  return node;
};

const turns = () => {
  const list = [];
  for (const message of current?.messages ?? []) {
    const open = list[list.length - 1];
    if (message.role === "user" || !open || open[0].role === "user") list.push([message]);
    else open.push(message);
  }
  return list;
};

const showLog = () => {
  const all = turns();
  if (all.length === 0) {
    const empty = make("div", "empty");
    empty.append(make("h2", "", settings.model ? `Talk to ${settings.model}` : "Talk to the model"), make("p", "", "What you write stays between this browser and this server."));
    $("log").replaceChildren(empty);
    return;
  }
  $("log").replaceChildren(...all.map((turn, i) => turnNode(turn, i === all.length - 1)));
  toEnd();
};

/** Redraws the turn that is coming, not more often than drawing it allows. */
let drawn = 0;
let pause = 0;
const showLast = (force) => {
  const now = performance.now();
  if (!force && now < drawn + pause) return;
  const all = turns();
  const follow = atEnd();
  const open = [...($("log").lastElementChild?.querySelectorAll("details") ?? [])].map((d) => d.open);
  const node = turnNode(all[all.length - 1], true);
  node.querySelectorAll("details").forEach((d, i) => (d.open = open[i] ?? false));
  $("log").lastElementChild.replaceWith(node);
  if (follow) toEnd();
  drawn = performance.now();
  pause = Math.max(16, 4 * (drawn - now));
};

// Asking.

const request = () => {
  const messages = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  for (const m of current.messages) {
    if (m.fault && !m.content && !m.tool_calls) continue;
    const plain = { role: m.role, content: m.content };
    if (m.tool_calls?.length) plain.tool_calls = m.tool_calls;
    if (m.tool_call_id) plain.tool_call_id = m.tool_call_id;
    messages.push(plain);
  }
  const body = { model: settings.model || undefined, messages };
  for (const name of ["temperature", "top_p", "repetition_penalty", "max_tokens"]) body[name] = Number(settings[name]);
  if (String(settings.seed).trim() !== "") body.seed = Math.trunc(Number(settings.seed));
  if (settings.thinking) body.chat_template_kwargs = { open_thinking: true };
  if (settings.tools && tools.length) body.tools = tools;
  return body;
};

const takeChunk = (message, chunk) => {
  if (chunk.usage) message.tokens = chunk.usage.completion_tokens;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, reasoning_content, tool_calls } = choice.delta;
  if (content) message.content += content;
  if (reasoning_content) message.reasoning_content = (message.reasoning_content ?? "") + reasoning_content;
  for (const part of tool_calls ?? []) {
    message.tool_calls ??= [];
    const call = (message.tool_calls[part.index] ??= { id: part.id, type: "function", function: { name: "", arguments: "" } });
    call.function.name += part.function.name ?? "";
    call.function.arguments += part.function.arguments ?? "";
  }
  if (choice.finish_reason) message.end = choice.finish_reason;
};

/** One answer of the model; whether it wants tools to be called. */
const ask = async (conversation, signal) => {
  const body = request();
  const message = { role: "assistant", content: "", busy: true };
  conversation.messages.push(message);
  showLogOf(conversation);
  let frames = 0;
  // The time of a whole answer, the wait for its first token too: pieces may arrive together.
  const sent = performance.now();
  try {
    await api.chat(body, signal, (chunk) => {
      takeChunk(message, chunk);
      frames += 1;
      $("status").textContent = `${(frames / Math.max(0.001, (performance.now() - sent) / 1000)).toFixed(0)} tokens/s`;
      if (conversation === current) showLast(false);
    });
  } catch (error) {
    message.end = signal.aborted ? "stopped" : "failed";
    if (!signal.aborted) message.fault = error.message;
    if (!signal.aborted && error.status === 401) askForKey();
  }
  message.seconds = (performance.now() - sent) / 1000;
  delete message.busy;
  return message.end === "tool_calls" ? message.tool_calls : [];
};

const callTool = async (call, signal) => {
  try {
    return (await (await api.post("/tools/call", { name: call.function.name, arguments: call.function.arguments }, signal)).json()).result;
  } catch (error) {
    return `error: ${error.message}`;
  }
};

const showLogOf = (conversation) => {
  if (conversation === current) showLog();
};

const answer = async () => {
  const conversation = current;
  const controller = new AbortController();
  running = controller;
  busy(true);
  try {
    for (let round = 0; round < ROUNDS && !controller.signal.aborted; round += 1) {
      const calls = await ask(conversation, controller.signal);
      for (const call of calls) {
        const content = await callTool(call, controller.signal);
        conversation.messages.push({ role: "tool", tool_call_id: call.id, content });
      }
      keep();
      showLogOf(conversation);
      if (calls.length === 0) break;
    }
  } finally {
    keep();
    if (running === controller) {
      running = null;
      busy(false);
    }
  }
};

const busy = (is) => {
  $("send").hidden = is;
  $("stop").hidden = !is;
  $("log").setAttribute("aria-busy", String(is));
  $("status").textContent = is ? "Waiting for the model" : "";
};

const stop = () => {
  running?.abort();
  running = null;
  busy(false);
};

const send = () => {
  const text = $("prompt").value.trim();
  if (!text || running) return;
  notice("");
  if (!current) {
    current = { title: text.split("\n")[0].slice(0, 60), messages: [] };
    conversations.unshift(current);
    showList();
  }
  current.messages.push({ role: "user", content: text });
  $("prompt").value = "";
  grow();
  keep();
  answer();
};

const regenerate = () => {
  if (running || !current) return;
  while (current.messages.length && current.messages[current.messages.length - 1].role !== "user") current.messages.pop();
  if (current.messages.length) answer();
};

// The frame around it.

const grow = () => {
  $("prompt").style.height = "auto";
  $("prompt").style.height = `${$("prompt").scrollHeight}px`;
};

const closeSide = () => {
  $("side").classList.remove("open");
  $("veil").hidden = true;
  $("menu").setAttribute("aria-expanded", "false");
};

const openSide = () => {
  $("side").classList.add("open");
  $("veil").hidden = false;
  $("menu").setAttribute("aria-expanded", "true");
  $("new").focus();
};

const askForKey = () => {
  notice("This server asks for a key: enter it under Settings.");
  if (!$("settings").open) $("settings").showModal();
  $("key").focus();
};

const showSettings = () => {
  for (const [name, value] of Object.entries(settings)) {
    const field = $(name);
    if (!field || name === "model") continue;
    if (field.type === "checkbox") field.checked = value;
    else field.value = value;
    const out = $(`${name}-out`);
    if (out) out.textContent = Number(value).toFixed(2);
  }
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
  else delete document.documentElement.dataset.theme;
};

const listen = () => {
  for (const name of Object.keys(DEFAULTS)) {
    $(name)?.addEventListener("input", () => {
      const field = $(name);
      settings[name] = field.type === "checkbox" ? field.checked : field.type === "range" ? Number(field.value) : field.value;
      if (name === "max_tokens" && !(Number(settings[name]) >= 1)) settings[name] = DEFAULTS.max_tokens;
      save("minimind.settings", settings);
      if (name === "model") showModel();
      else if (document.activeElement !== field || field.type !== "number") showSettings();
    });
  }
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("prompt").addEventListener("input", grow);
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !$("settings").open && !$("paper").open) {
      if (running) stop();
      else closeSide();
    }
    if (event.key.toLowerCase() === "o" && event.shiftKey && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      fresh();
    }
  });
  $("stop").addEventListener("click", () => {
    stop();
    $("prompt").focus();
  });
  $("new").addEventListener("click", fresh);
  $("menu").addEventListener("click", openSide);
  $("veil").addEventListener("click", closeSide);
  $("close-side").addEventListener("click", () => {
    closeSide();
    $("menu").focus();
  });
  $("tune").addEventListener("click", () => $("settings").showModal());
  $("key").addEventListener("change", () => {
    sessionStorage.setItem("minimind.key", $("key").value.trim());
    api.setKey($("key").value.trim());
    notice("");
    connect();
  });
  $("defaults").addEventListener("click", () => {
    Object.assign(settings, DEFAULTS, { model: settings.model });
    save("minimind.settings", settings);
    showSettings();
  });
  $("clear").addEventListener("click", () => {
    if (!confirm("Delete all conversations of this browser?")) return;
    conversations = [];
    keep();
    open(null);
  });
  $("report").addEventListener("click", (event) => {
    if (!api.hasKey()) return;
    event.preventDefault();
    showReport();
  });
};

/** With a key a plain link would not do: the report is fetched, and shown apart from this page's styles. */
const showReport = async () => {
  try {
    const page = new DOMParser().parseFromString(await api.getText($("report").href), "text/html");
    const host = $("paper-body");
    const root = host.shadowRoot ?? host.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync((page.querySelector("style")?.textContent ?? "").replaceAll(":root", ":host"));
    root.adoptedStyleSheets = [sheet];
    root.replaceChildren(...page.body.children);
    $("paper").showModal();
  } catch (error) {
    notice(error.message);
  }
};

const showModel = () => {
  const model = models.find((m) => m.id === settings.model);
  $("report").hidden = !model?.has_report;
  $("report").href = `/report?model=${encodeURIComponent(settings.model)}`;
  if (turns().length === 0) showLog();
};

/** Asks what the server has; waits while it loads. */
const connect = async () => {
  try {
    models = (await api.get("/v1/models")).data;
    if (!models.some((m) => m.id === settings.model)) settings.model = models[0]?.id ?? "";
    $("model").replaceChildren(
      ...models.map((m) => {
        const option = make("option", "", m.id);
        option.value = m.id;
        option.selected = m.id === settings.model;
        return option;
      }),
    );
    showModel();
    tools = (await api.get("/tools")).tools;
    $("tools-switch").hidden = tools.length === 0;
    if (models.some((m) => !m.max_model_len)) {
      $("status").textContent = "The model is loading";
      setTimeout(connect, 1000);
    } else if (!running) {
      $("status").textContent = "";
    }
  } catch (error) {
    if (error.status === 401) askForKey();
    else {
      notice(`The server does not answer: ${error.message}`);
      setTimeout(connect, 3000);
      return;
    }
  }
};

for (const conversation of conversations) {
  // A page that was closed in the middle of an answer left it open.
  for (const message of conversation.messages) if (message.busy) Object.assign(message, { busy: undefined, end: "stopped" });
}
api.setKey(sessionStorage.getItem("minimind.key") ?? "");
$("key").value = sessionStorage.getItem("minimind.key") ?? "";
listen();
showSettings();
showList();
showLog();
await connect();
$("prompt").focus();
