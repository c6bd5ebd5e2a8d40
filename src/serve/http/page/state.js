// What the page knows: settings and conversations, which the browser stores, and what the server offers.

import { notice } from "/assets/dom.js";

export const DEFAULTS = { model: "", system: "", temperature: 0.7, top_p: 0.9, repetition_penalty: 1, max_tokens: 512, seed: "", theme: "", thinking: false, tools: false };

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

export const settings = { ...DEFAULTS, ...load("minimind.settings", {}) };

const stored = load("minimind.conversations", []);

export const state = {
  conversations: Array.isArray(stored) ? stored : [],
  current: null, // the conversation that is shown; null for a new one
  models: [],
  tools: [],
  running: null, // the AbortController of the answer that is coming
};
state.current = state.conversations[0] ?? null;

for (const conversation of state.conversations) {
  // A page that was closed in the middle of an answer left it open.
  for (const message of conversation.messages) if (message.busy) Object.assign(message, { busy: undefined, end: "stopped" });
}

/** What one file of the page calls of another; app.js and answer.js set them at the start. */
export const actions = { regenerate: () => {}, showList: () => {}, askForKey: () => {} };

export const saveSettings = () => save("minimind.settings", settings);
export const saveConversations = () => save("minimind.conversations", state.conversations.filter((c) => c.messages.length > 0));
