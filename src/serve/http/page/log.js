// The messages of the conversation that is shown. Everything a model or a tool writes enters the document as text.

import { $, button, make } from "/assets/dom.js";
import { render } from "/assets/markdown.js";
import { actions, settings, state } from "/assets/state.js";

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
  const answers = messages.filter((m) => m.role === "assistant");
  for (const message of answers) {
    if (message.reasoning_content) node.append(thinkingBox(message.reasoning_content, message.busy && !message.content));
    if (message.content || message.busy) {
      const text = make("div", `md${message.busy ? " waiting" : ""}`);
      render(text, message.content);
      node.append(text);
    }
    for (const call of message.tool_calls ?? []) node.append(toolBox(call, results.get(call.id)));
    if (message.fault) node.append(make("p", "failed", message.fault));
  }
  const end = answers[answers.length - 1];
  if (end && !end.busy) {
    const foot = make("div", "foot");
    const whole = answers.map((m) => m.content).join("\n\n").trim();
    const copy = button("Copy", async () => {
      await navigator.clipboard.writeText(whole);
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 1500);
    });
    if (whole) foot.append(copy);
    if (last) foot.append(button("Answer again", () => actions.regenerate()));
    foot.append(make("span", "stats", [ENDS[end.end], stats(end)].filter(Boolean).join(" · ")));
    node.append(foot);
  }
  return node;
};

export const turns = () => {
  const list = [];
  for (const message of state.current?.messages ?? []) {
    const open = list[list.length - 1];
    if (message.role === "user" || !open || open[0].role === "user") list.push([message]);
    else open.push(message);
  }
  return list;
};

export const showLog = () => {
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
export const showLast = (force) => {
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
