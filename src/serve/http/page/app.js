// The page: the list of conversations, the message field, settings. The messages are log.js, answers answer.js, what is
// stored state.js, the server api.js.

import * as api from "/assets/api.js";
import { grow, send, stop } from "/assets/answer.js";
import { $, button, make, notice } from "/assets/dom.js";
import { showLog, turns } from "/assets/log.js";
import { DEFAULTS, actions, saveConversations, saveSettings, settings, state } from "/assets/state.js";

// Conversations.

const open = (conversation) => {
  stop();
  state.current = conversation;
  showList();
  showLog();
  closeSide();
};

const startNew = () => {
  open(null);
  $("prompt").focus();
};

const remove = (conversation) => {
  const was = conversation === state.current;
  state.conversations = state.conversations.filter((c) => c !== conversation);
  saveConversations();
  if (was) open(state.conversations[0] ?? null);
  else showList();
};

const showList = () => {
  $("list").replaceChildren(
    ...state.conversations.map((conversation) => {
      const item = make("li", conversation === state.current ? "on" : "");
      const title = button(conversation.title, () => open(conversation), "open");
      if (conversation === state.current) title.setAttribute("aria-current", "true");
      const drop = button("Delete", () => remove(conversation), "drop");
      drop.setAttribute("aria-label", `Delete the conversation ${conversation.title}`);
      item.append(title, drop);
      return item;
    }),
  );
};

// The frame around it.

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

const addListeners = () => {
  for (const name of Object.keys(DEFAULTS)) {
    $(name)?.addEventListener("input", () => {
      const field = $(name);
      settings[name] = field.type === "checkbox" ? field.checked : field.type === "range" ? Number(field.value) : field.value;
      if (name === "max_tokens" && !(Number(settings[name]) >= 1)) settings[name] = DEFAULTS.max_tokens;
      saveSettings();
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
      if (state.running) stop();
      else closeSide();
    }
    if (event.key.toLowerCase() === "o" && event.shiftKey && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      startNew();
    }
  });
  $("stop").addEventListener("click", () => {
    stop();
    $("prompt").focus();
  });
  $("new").addEventListener("click", startNew);
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
    saveSettings();
    showSettings();
  });
  $("clear").addEventListener("click", () => {
    if (!confirm("Delete all conversations of this browser?")) return;
    state.conversations = [];
    saveConversations();
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
  const model = state.models.find((m) => m.id === settings.model);
  $("report").hidden = !model?.has_report;
  $("report").href = `/report?model=${encodeURIComponent(settings.model)}`;
  if (turns().length === 0) showLog();
};

/** Asks what the server has; waits while it loads. */
const connect = async () => {
  try {
    state.models = (await api.get("/v1/models")).data;
    if (!state.models.some((m) => m.id === settings.model)) settings.model = state.models[0]?.id ?? "";
    $("model").replaceChildren(
      ...state.models.map((m) => {
        const option = make("option", "", m.id);
        option.value = m.id;
        option.selected = m.id === settings.model;
        return option;
      }),
    );
    showModel();
    state.tools = (await api.get("/tools")).tools;
    $("tools-switch").hidden = state.tools.length === 0;
    if (state.models.some((m) => !m.max_model_len)) {
      $("status").textContent = "The model is loading";
      setTimeout(connect, 1000);
    } else if (!state.running) {
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

actions.showList = showList;
actions.askForKey = askForKey;
api.setKey(sessionStorage.getItem("minimind.key") ?? "");
$("key").value = sessionStorage.getItem("minimind.key") ?? "";
addListeners();
showSettings();
showList();
showLog();
await connect();
$("prompt").focus();
