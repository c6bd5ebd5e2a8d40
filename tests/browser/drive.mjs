// The page, end to end: node drive.mjs CHROMIUM URL. Prints a line a check; the first that fails ends it.

import { Chrome, sleep } from "./chrome.mjs";

const [program, url] = process.argv.slice(2);
const chrome = new Chrome(program);
const requests = [];
const complaints = [];
chrome.listeners.push((method, params) => {
  if (method === "Network.requestWillBeSent") requests.push(params.request.url);
  if (method === "Runtime.exceptionThrown") complaints.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
  if (method === "Log.entryAdded" && params.entry.level === "error") complaints.push(`${params.entry.text} ${params.entry.url ?? ""}`);
});

const check = (holds, what) => {
  if (!holds) throw new Error(`failed: ${what}`);
  console.log(`ok ${what}`);
};

// Tests ask for answers that do not end, look at how text grows, and describe the calculator as the small model has learnt it.
const early = `
  window.endless = false;
  const learnt = { type: "function", function: { name: "calculate_math", description: "Works a sum out.",
    parameters: { type: "object", properties: { expression: { type: "string" } }, required: ["expression"] } } };
  const plain = window.fetch;
  window.fetch = (path, options) => {
    if (window.endless && String(path).includes("chat/completions")) {
      options = { ...options, body: JSON.stringify({ ...JSON.parse(options.body), ignore_eos: true, max_tokens: 60000 }) };
    }
    if (String(path).includes("chat/completions") && JSON.parse(options.body).tools) {
      const body = JSON.parse(options.body);
      window.offered = body.tools.length;
      options = { ...options, body: JSON.stringify({ ...body, tools: [learnt] }) };
    }
    return plain(path, options);
  };
  window.lengths = new Set();
  document.addEventListener("DOMContentLoaded", () => document.getElementById("log") && new MutationObserver(() => {
    const all = document.querySelectorAll("#log .md");
    if (all.length) window.lengths.add(all[all.length - 1].textContent.length);
  }).observe(document.getElementById("log"), { childList: true, subtree: true }));`;

const idle = "!document.getElementById('send').hidden && document.querySelector('#log .turn:last-child .stats')";
const last = "[...document.querySelectorAll('#log .turn:last-child .md')].map((n) => n.textContent).join('|')";
const say = async (text, wait = true) => {
  await chrome.value("document.getElementById('prompt').focus()");
  await chrome.type(text);
  await chrome.press("Enter");
  if (wait) await chrome.until(idle);
};
const set = (id, value) => chrome.value(`(() => { const f = document.getElementById('${id}'); if (f.type === 'checkbox') f.checked = ${value}; else f.value = '${value}'; f.dispatchEvent(new Event('input', { bubbles: true })); })()`);
const click = (selector) => chrome.value(`document.querySelector(${JSON.stringify(selector)}).click()`);

const contrast = `(selector) => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = (c) => { const [r, g, b] = c.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const node = document.querySelector(selector);
  let behind = node, back = [0, 0, 0, 0];
  while (behind && back[3] === 0) { back = rgb(getComputedStyle(behind).backgroundColor); behind = behind.parentElement; }
  const [a, b] = [light(rgb(getComputedStyle(node).color).slice(0, 3)), light(back.slice(0, 3))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}`;

const conversation = async () => {
  await chrome.until("document.getElementById('model').options.length > 0");
  await chrome.until("document.activeElement.id === 'prompt'");
  check((await chrome.value("document.title")) === "minimind", "the page opens at the message field");
  check((await chrome.value("document.getElementById('model').value")) === "run", "the model is chosen");
  await chrome.shot("empty-light.png");
  await set("temperature", 0);
  await say("What is 2 + 3?");
  check((await chrome.value(last)) === "The sum is 5.", "a message is answered");
  check(/tokens · [\d.]+ tokens\/s/.test(await chrome.value("document.querySelector('.stats').textContent")), "tokens and tokens/s are shown");
  await say("Count.");
  check((await chrome.value(last)).startsWith("1 2 3 4 5 6 7"), "a second message is answered in the same conversation");
  await click("#new");
  await say("Say the script.");
  check((await chrome.value(last)).startsWith("<script>window.hacked = 1</script><img src=x"), "a script from the model is shown as text");
  check((await chrome.value("window.hacked")) === undefined && (await chrome.value("document.querySelectorAll('#log script, #log img').length")) === 0, "and never becomes an element");
  check((await chrome.value("document.querySelector('#log .md strong').textContent + document.querySelector('#log .md code').textContent")) === "boldcode", "markdown around it is shown");
  await say("<b onclick=alert(1)>mine</b>");
  check((await chrome.value("document.querySelectorAll('#log b').length")) === 0, "what the user writes is text too");
};

const stopping = async () => {
  await click("#new");
  await chrome.value("window.endless = true; window.lengths.clear()");
  await say("Count.", false);
  await chrome.until("window.lengths.size >= 3");
  check(await chrome.value("!document.getElementById('stop').hidden"), "an answer grows as it comes");
  check(await chrome.value("document.getElementById('log').getAttribute('aria-busy') === 'true' && !document.getElementById('stop').hidden"), "while an answer comes it can be stopped");
  await chrome.press("Escape");
  await chrome.until(idle);
  const stopped = await chrome.value(last);
  check((await chrome.value("document.querySelector('#log .turn:last-child .stats').textContent")).includes("stopped"), "Esc stops it");
  await sleep(200);
  check((await chrome.value(last)) === stopped, "and nothing more comes");
  await chrome.value("window.endless = false");
  await chrome.value("[...document.querySelectorAll('.foot button')].find((b) => b.textContent === 'Answer again').click()");
  await chrome.until(`${idle} && !(${idle}).textContent.includes('stopped')`);
  check((await chrome.value(last)).endsWith("38 39 40") && (await chrome.value("document.querySelectorAll('#log .turn').length")) === 2, "the answer is made again in its place");
};

const thinkingAndTools = async () => {
  await click("#new");
  await set("thinking", true);
  await say("What is a crow?");
  check((await chrome.value("(() => { const d = document.querySelector('details.thinking'); return !d.open && d.querySelector('div').textContent; })()")) === "A crow has wings.", "thinking is folded");
  check((await chrome.value(last)) === "A crow is a bird.", "and stands apart from the answer");
  await set("thinking", false);
  await click("#new");
  await set("tools", true);
  await say("What is 12 * 3?");
  check((await chrome.value("window.offered")) === 3, "the built-in tools are offered");
  check((await chrome.value("document.querySelector('details.tool code').textContent")).startsWith("calculate_math("), "a tool call is shown");
  check((await chrome.value("document.querySelector('details.tool pre').textContent")).includes("36"), "with its result from the server");
  check((await chrome.value(last)).includes("It is 36."), "and the answer that follows");
  await chrome.value("document.querySelector('details.tool').open = true");
  await chrome.shot("tools-light.png");
  await set("tools", false);
};

const markdown = async () => {
  const html = (text) => chrome.value(`import('/assets/markdown.js').then(({ render }) => { const n = document.createElement('div'); render(n, ${JSON.stringify(text)}); return n.innerHTML; })`);
  const cases = [
    ["a *b* **c** `d<e>`", "<p>a <em>b</em> <strong>c</strong> <code>d&lt;e&gt;</code></p>"],
    ["# T\n\n- one\n- two\n  - in\n\n3. x", "<h1>T</h1><ul><li>one</li><li>two<ul><li>in</li></ul></li></ul><ol start=\"3\"><li>x</li></ol>"],
    ["[x](javascript:alert(1)) ![p](http://e.x/p.png)", "<p>[x](javascript:alert(1)) <a href=\"http://e.x/p.png\" rel=\"noopener noreferrer nofollow\" target=\"_blank\">p</a></p>"],
    ["[x](data:text/html,<b>)", "<p>[x](data:text/html,&lt;b&gt;)</p>"],
    ["| a | b |\n|---|---|\n| 1 | <i> |", "<div class=\"scroll\"><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>&lt;i&gt;</td></tr></tbody></table></div>"],
    ["> q\n\n---\nsnake_case_name *", "<blockquote><p>q</p></blockquote><hr><p>snake_case_name *</p>"],
    ["<img src=x onerror=alert(1)>", "<p>&lt;img src=x onerror=alert(1)&gt;</p>"],
  ];
  for (const [text, want] of cases) {
    const got = await html(text);
    check(got === want, `markdown ${JSON.stringify(text)}${got === want ? "" : ` gave ${got}`}`);
  }
  const code = await html("```js\nlet a = \"</code><script>\"; // x\n```");
  check(code.includes("&lt;/code&gt;&lt;script&gt;") && !code.includes("<script"), "code is shown as text");
  const worst = ["*".repeat(20000), "`".repeat(9999) + "a", "[".repeat(20000), "> ".repeat(5000), "- ".repeat(5000), "_a".repeat(9000), "|".repeat(3000) + "\n" + "|-".repeat(3000), "**a ".repeat(5000)];
  const took = await chrome.value(`import('/assets/markdown.js').then(({ render }) => { const t = performance.now(); for (const text of ${JSON.stringify(worst)}) render(document.createElement('div'), text); return performance.now() - t; })`);
  check(took < 5000, `hostile text is drawn in time (${took.toFixed(0)} ms)`);
};

const looks = async () => {
  await click("#list li:last-child .open");
  for (const scheme of ["light", "dark"]) {
    await chrome.scheme(scheme);
    for (const selector of ["body", ".turn h3", "#send", ".stats", "#new", ".switch span", ".turn.user .text", "#model"]) {
      const ratio = await chrome.value(`(${contrast})(${JSON.stringify(selector)})`);
      if (ratio < 4.5) throw new Error(`failed: contrast of ${selector} in ${scheme} is ${ratio}`);
    }
    console.log(`ok every text has a contrast of 4.5 or more, ${scheme}`);
    await chrome.shot(`chat-${scheme}.png`);
  }
  await click("#tune");
  await chrome.shot("settings-dark.png");
  await chrome.press("Escape");
  check(!(await chrome.value("document.getElementById('settings').open")), "Esc closes the settings");
  await chrome.size(390, 780, true);
  await chrome.scheme("light");
  check((await chrome.value("document.documentElement.scrollWidth")) <= 390, "nothing is wider than a phone");
  check((await chrome.value("getComputedStyle(document.getElementById('side')).visibility")) === "hidden", "on a phone the list is put away");
  await chrome.shot("phone-light.png");
  await click("#menu");
  await sleep(300);
  check(await chrome.value("getComputedStyle(document.getElementById('side')).visibility === 'visible' && document.activeElement.id === 'new'"), "and opens with the keyboard in it");
  await chrome.shot("phone-list.png");
  await chrome.press("Escape");
  await chrome.size(1180, 800);
  const unnamed = await chrome.value("[...document.querySelectorAll('button, input, select, textarea, a')].filter((n) => !(n.textContent.trim() || n.getAttribute('aria-label') || n.labels?.length)).map((n) => n.outerHTML)");
  check(unnamed.length === 0, `every control has a name ${unnamed}`);
};

const keeping = async () => {
  const before = await chrome.value("document.querySelectorAll('#list li').length");
  await chrome.go(url);
  await chrome.until("document.querySelectorAll('#list li').length > 0 && document.querySelectorAll('#log .turn').length > 0");
  check((await chrome.value("document.querySelectorAll('#list li').length")) === before, "conversations are there after a reload");
  await chrome.press("o", 2 | 8);
  check((await chrome.value("document.querySelectorAll('#log .turn').length")) === 0, "Ctrl+Shift+O opens a new one");
  await click("#list li:first-child .drop");
  check((await chrome.value("document.querySelectorAll('#list li').length")) === before - 1, "a conversation is deleted");
  const report = await chrome.value("document.getElementById('report').hidden ? '' : document.getElementById('report').href");
  await chrome.go(report);
  check((await chrome.value("document.body.innerText")).includes("sft"), "the run's report is shown");
  await chrome.shot("report.png");
};

try {
  await chrome.open("about:blank", early);
  await chrome.size(1180, 800);
  await chrome.scheme("light");
  await chrome.go(url);
  await conversation();
  await stopping();
  await thinkingAndTools();
  await markdown();
  await looks();
  await keeping();
  const elsewhere = requests.filter((r) => !r.startsWith(url) && !r.startsWith("about:"));
  check(elsewhere.length === 0, `no request goes anywhere else ${elsewhere}`);
  check(complaints.length === 0, `the browser has nothing to complain of ${complaints}`);
  console.log("all checks passed");
} catch (error) {
  console.log(`${error.stack}\n${complaints.join("\n")}`);
  process.exitCode = 1;
} finally {
  await chrome.close();
}
