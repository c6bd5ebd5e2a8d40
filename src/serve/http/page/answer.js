// Sending a message and taking the answer: requests, chunks as they come, tool calls, stopping.

import * as api from "/assets/api.js";
import { $, notice } from "/assets/dom.js";
import { showLast, showLog } from "/assets/log.js";
import { actions, saveConversations, settings, state } from "/assets/state.js";

const ROUNDS = 5; // tool calls that may follow each other in one answer

const request = () => {
  const messages = settings.system.trim() ? [{ role: "system", content: settings.system }] : [];
  for (const m of state.current.messages) {
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
  if (settings.tools && state.tools.length) body.tools = state.tools;
  return body;
};

const applyChunk = (message, chunk) => {
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

/** Has the model answer once; returns the tool calls that it wants answered. */
const requestAnswer = async (conversation, signal) => {
  const body = request();
  const message = { role: "assistant", content: "", busy: true };
  conversation.messages.push(message);
  showLogOf(conversation);
  let frames = 0;
  // The time of a whole answer, the wait for its first token too: pieces may arrive together.
  const sent = performance.now();
  try {
    await api.chat(body, signal, (chunk) => {
      applyChunk(message, chunk);
      frames += 1;
      $("status").textContent = `${(frames / Math.max(0.001, (performance.now() - sent) / 1000)).toFixed(0)} tokens/s`;
      if (conversation === state.current) showLast(false);
    });
  } catch (error) {
    message.end = signal.aborted ? "stopped" : "failed";
    if (!signal.aborted) message.fault = error.message;
    if (!signal.aborted && error.status === 401) actions.askForKey();
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
  if (conversation === state.current) showLog();
};

const answer = async () => {
  const conversation = state.current;
  const controller = new AbortController();
  state.running = controller;
  setBusy(true);
  try {
    for (let round = 0; round < ROUNDS && !controller.signal.aborted; round += 1) {
      const calls = await requestAnswer(conversation, controller.signal);
      for (const call of calls) {
        const content = await callTool(call, controller.signal);
        conversation.messages.push({ role: "tool", tool_call_id: call.id, content });
      }
      saveConversations();
      showLogOf(conversation);
      if (calls.length === 0) break;
    }
  } finally {
    saveConversations();
    if (state.running === controller) {
      state.running = null;
      setBusy(false);
    }
  }
};

const setBusy = (is) => {
  $("send").hidden = is;
  $("stop").hidden = !is;
  $("log").setAttribute("aria-busy", String(is));
  $("status").textContent = is ? "Waiting for the model" : "";
};

export const stop = () => {
  state.running?.abort();
  state.running = null;
  setBusy(false);
};

/** Makes the message field as high as its text. */
export const grow = () => {
  $("prompt").style.height = "auto";
  $("prompt").style.height = `${$("prompt").scrollHeight}px`;
};

export const send = () => {
  const text = $("prompt").value.trim();
  if (!text || state.running) return;
  notice("");
  if (!state.current) {
    state.current = { title: text.split("\n")[0].slice(0, 60), messages: [] };
    state.conversations.unshift(state.current);
    actions.showList();
  }
  state.current.messages.push({ role: "user", content: text });
  $("prompt").value = "";
  grow();
  saveConversations();
  answer();
};

const regenerate = () => {
  if (state.running || !state.current) return;
  while (state.current.messages.length && state.current.messages[state.current.messages.length - 1].role !== "user") state.current.messages.pop();
  if (state.current.messages.length) answer();
};

actions.regenerate = regenerate;
